"""Run a benchmark script in this process and read its report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

__all__ = ["Script", "report_of", "table_of"]


class Script(Protocol):
    """A module of benchmarks/."""

    def main(self, argv: Sequence[str] | None = None) -> int: ...


def report_of(script: Script, folder: Path, *options: str) -> dict[str, Any]:
    """Run a script that must succeed; return its JSON report."""
    out = folder / "report.json"
    assert script.main(["--out", str(out), *options]) == 0
    report: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return report


def table_of(report: dict[str, Any], title: str) -> dict[Any, dict[str, Any]]:
    """Return the rows of the table whose title starts with `title`, by first cell; each row by column."""
    table = next(t for t in report["tables"] if t["title"].startswith(title))
    return {row[0]: dict(zip(table["columns"], row, strict=True)) for row in table["rows"]}
