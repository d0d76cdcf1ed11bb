"""Markdown and CSV tables of reports, and a report's folder of tables and page."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from training.shared_files import write_text

__all__ = ["Table", "picture_links", "table", "write_results"]


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


def write_results(
    tables: Mapping[str, Table], folder: Path, *, opening: Sequence[str], rest: Sequence[str] = ()
) -> Path:
    """Write every table as NAME.csv, and index.md, to `folder`. Returns the page.

    opening, rest: sections of the page before and after the tables.
    """
    for name, t in tables.items():
        write_text(folder / f"{name}.csv", t.as_csv())
    sections = [*opening, *(t.as_markdown() for t in tables.values()), *rest]
    write_text(folder / "index.md", "\n\n".join(sections) + "\n")
    return folder / "index.md"


def picture_links(captions: Mapping[str, str]) -> list[str]:
    """Return the Markdown of pictures, NAME.png -> caption, with the captions below."""
    return [f"![{text}]({name}.png)\n\n{text}." for name, text in captions.items()]


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table; columns after the first are right-aligned."""
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(str(c) for c in row) + " |" for row in rows)])
