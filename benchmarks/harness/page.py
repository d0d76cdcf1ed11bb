"""The page of results: JSON reports in, one Markdown file out, so that no figure in the docs is typed by hand.

`python -m benchmarks.harness.page build/bench docs/results/benchmarks.md`
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness.report import markdown

__all__ = ["main", "page"]

# The order in which a reader asks; a report of another name comes after these.
ORDER = (
    "end_to_end", "latency", "scenarios", "idle", "sustained", "preprocess", "combine", "cold_start", "throughput", "gpu",
)  # fmt: skip

HEAD = """# Benchmarks

Made by `python -m benchmarks.harness.page` from the JSON that the scripts in `benchmarks/` wrote; not edited by hand. Where a
table has contenders, all ran in one process, interleaved round by round in shuffled order. `ratio` is then the median
over the rounds of a contender's time divided by the baseline's in the same round; the baseline is the row with ratio 1.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page; exit status 2 if there is nothing to write it from."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.harness.page", description="Make the page of results.")
    parser.add_argument("results", type=Path, help="folder of the scripts' JSON files")
    parser.add_argument("page", type=Path, help="Markdown file to write")
    args = parser.parse_args(argv)
    files = sorted(args.results.glob("*.json"))
    if not files:
        print(f"no JSON files in {args.results}: run the scripts of benchmarks/ first", file=sys.stderr)
        return 2
    args.page.parent.mkdir(parents=True, exist_ok=True)
    args.page.write_text(page(files), encoding="utf-8")
    return 0


def page(files: Sequence[Path]) -> str:
    """The Markdown of these reports."""
    reports = [json.loads(f.read_text(encoding="utf-8")) for f in files]
    reports.sort(key=lambda r: (ORDER.index(r["name"]) if r["name"] in ORDER else len(ORDER), r["name"]))
    return "\n".join([HEAD, *(markdown(r) for r in reports)])


if __name__ == "__main__":
    sys.exit(main())
