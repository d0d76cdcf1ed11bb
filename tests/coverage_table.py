"""Coverage by package: the report of `coverage json` in, a Markdown table out. `make coverage` runs it."""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from pathlib import PurePath

FIGURES = ("num_statements", "covered_lines", "num_branches", "covered_branches")


def table(report: str) -> str:
    """Return the table. report: JSON; a module at the top of `cxr_edge` counts for `cxr_edge` itself."""
    packages: dict[str, Counter[str]] = defaultdict(Counter)
    for name, file in json.loads(report)["files"].items():
        for package in (PurePath(*PurePath(name).parent.parts[:2]).as_posix(), "all"):
            packages[package].update({figure: file["summary"][figure] for figure in FIGURES})
    rows = [f"| `{name}` | {_cells(packages[name])} |" for name in sorted(packages, key=lambda n: (n == "all", n))]
    return "\n".join(["| package | lines | covered | branches | covered |", "|---|---:|---:|---:|---:|", *rows])


def _cells(counts: Counter[str]) -> str:
    lines, covered_lines, branches, covered_branches = (counts[figure] for figure in FIGURES)
    return f"{lines} | {_percent(covered_lines, lines)} | {branches} | {_percent(covered_branches, branches)}"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        print(table(file.read()))
