"""Markdown and CSV tables of reports, and result files: JSON and tables in a folder."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.shared_files import write_text

__all__ = ["Json", "Table", "interval", "table", "write_results"]


Json = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of a report."""

    title: str  # number and subject, with preset, n, split and seed
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""  # printed below the table

    def __post_init__(self) -> None:
        if any(len(row) != len(self.head) for row in self.rows):
            raise ValueError(f"{self.title}: a row and the head differ in length")

    def as_markdown(self) -> str:
        """Return title, table and note."""
        return "\n\n".join(part for part in (f"## {self.title}", table(self.head, self.rows), self.note) if part)

    def as_csv(self) -> str:
        """Return head and rows as CSV, after title and note as comment lines."""
        out = io.StringIO()
        for line in filter(None, (self.title, self.note)):
            out.write(f"# {line}\n")
        csv.writer(out, lineterminator="\n").writerows([self.head, *self.rows])
        return out.getvalue()


def write_results(results: Json, tables: Mapping[str, Table], folder: Path) -> None:
    """Write results.json and every table as NAME.csv to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "results.json", json.dumps(results, indent=1) + "\n")
    for name, t in tables.items():
        write_text(folder / f"{name}.csv", t.as_csv())


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table; columns after the first are right-aligned."""
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(str(c) for c in row) + " |" for row in rows)])


def interval(figure: Json | None) -> str:
    """Format a figure with its interval, `0.953 [0.921, 0.975]`; a share is followed by its counts.

    A dash stands for a value, or bounds, that cannot be computed.
    """
    if figure is None or figure["value"] is None:
        return "-"
    counts = "" if figure["hits"] is None else f" ({figure['hits']}/{figure['n']})"
    bounds = "-" if figure["low"] is None else f"{figure['low']:.3f}, {figure['high']:.3f}"
    return f"{figure['value']:.3f} [{bounds}]{counts}"
