"""Training: folders of chest X-rays in, a bundle out. training/README.md has the commands.

Training imports `cxr_edge` for everything that must be identical on the device; `cxr_edge` never imports training. Importing
this package prevents the libraries used in training from writing to the user's home.
"""

import atexit
import os
import secrets
import shutil
import tempfile
from pathlib import Path

from cxr_edge.moved import install  # importing cxr_edge switches ONNX Runtime's telemetry off
from training.moved import MODULES, PARTS, RENAMED

__all__: list[str] = []

# matplotlib writes its font list to the home unless this variable names another folder, which it creates on import. The
# figures set all parameters that they need, so the user's own settings are not used.
if "MPLCONFIGDIR" not in os.environ:
    _folder = Path(tempfile.gettempdir()) / f"cxr-edge-matplotlib-{secrets.token_hex(8)}"
    os.environ["MPLCONFIGDIR"] = str(_folder)
    atexit.register(shutil.rmtree, _folder, ignore_errors=True)

install("training", MODULES, PARTS, RENAMED)
