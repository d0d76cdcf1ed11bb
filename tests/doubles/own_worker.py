"""Stand-in for `training.recipes.own.work` without torch: `--name` says what it does."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from training.recipes.own.jobs import end_with_parent

end_with_parent()
out, name = Path(sys.argv[1]), sys.argv[sys.argv.index("--name") + 1]
if name == "invalid":
    print("the canvases are missing: run the stages in order", file=sys.stderr)
    sys.exit(2)
if name == "defect":
    sys.exit(7)
print(f"{name}, folder: epoch 1/1  loss 0.5", file=sys.stderr)
(out / f"{name}.started").touch()
if name == "endless":
    time.sleep(600)
(out / f"{name}.done").touch()
