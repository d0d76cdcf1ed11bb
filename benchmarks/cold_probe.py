"""One cold screening, timed step by step: a child process of `cold_start`, not a library.

    python -m benchmarks.cold_probe CREATED IMAGE BUNDLE THREADS [ENGINES]

CREATED is the parent's monotonic clock when it created this process. Prints the milliseconds per step as JSON. It does
the same work as `cxr-edge screen` and imports nothing before it first reads the clock, so that the steps sum to the total.
"""

import sys
from time import monotonic

_FIRST_LINE = monotonic()


def _main() -> None:
    import json
    from itertools import pairwise
    from pathlib import Path

    created, image, bundle_path, threads = float(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
    engines_dir = Path(sys.argv[5]) if len(sys.argv) > 5 else None
    marks = [created, _FIRST_LINE]

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
