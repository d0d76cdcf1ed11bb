"""One cold screening, step by step: a child process of `cold_start`, never imported.

    python -m benchmarks.cold_probe STARTED IMAGE BUNDLE THREADS [ENGINES]

STARTED is the parent's monotonic clock when it made this process. Prints milliseconds a step as JSON. It does what
`cxr-edge screen` does and imports nothing before the clock is read, so that the steps add up.
"""

import sys
from time import monotonic

_FIRST_LINE = monotonic()


def _main() -> None:
    import json
    from itertools import pairwise
    from pathlib import Path

    started, image, bundle_path, threads = float(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
    engines_dir = Path(sys.argv[5]) if len(sys.argv) > 5 else None
    marks = [started, _FIRST_LINE]

    import onnxruntime  # noqa: F401  # the command imports it when it loads engines; here it counts as an import

    import cxr_edge.cli  # noqa: F401
    from cxr_edge import engines
    from cxr_edge.bundle import Bundle
    from cxr_edge.screening.screener import Screener

    marks.append(monotonic())
    bundle = Bundle.open(bundle_path)
    marks.append(monotonic())
    loaded = engines.load(bundle, engines_dir, threads=threads)
    screener = Screener(bundle, loaded, threads=threads)
    marks.append(monotonic())
    screener.screen_file(image)
    marks.append(monotonic())
    print(json.dumps([1e3 * (b - a) for a, b in pairwise(marks)]))


if __name__ == "__main__":
    _main()
