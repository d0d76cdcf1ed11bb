"""Tables of own data: a CSV or Parquet file in, entries with the facts of their rows out.

A row names a file by its path, or images of a tree by SOP Instance UID, study or patient. Several rows of one file are one if
they agree and a fault if they do not.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from cxr_edge.errors import InputError
from training.data.csv_tables import Sheet, read_sheet
from training.data.faults import Fault
from training.data.own.cells import patient_text
from training.data.own.columns import Columns
from training.data.own.facts import Entry, Facts
from training.data.own.files import Finder
from training.data.own.options import ROLES

__all__ = ["TABLE_SUFFIXES", "Joined", "join", "read_table", "rows_by_path"]

TABLE_SUFFIXES = (".csv", ".tsv", ".parquet")
_PACKED = (".csv.gz", ".csv.zip", ".tsv.gz")
_JOINS = ("sop", "study", "patient")  # roles that name images of a tree, the most exact first


@dataclass(kw_only=True)
class Joined:
    """Entries of a table, its faults, and numbers of rows that gave none."""

    entries: list[Entry] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    ignored: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_table(table: Path) -> Sheet:
    """Read a CSV or Parquet file. Raises InputError for another file, and for one without rows."""
    name = table.name.lower()
    if name.endswith((".xls", ".xlsx", ".ods")):
        raise InputError(f"{table} is a spreadsheet: save it as CSV (CSV UTF-8 in Excel)")
    if not name.endswith((*TABLE_SUFFIXES, *_PACKED, ".txt")):
        raise InputError(f"{table}: expected a folder, or a table in {', '.join(TABLE_SUFFIXES)}")
    sheet = _read_parquet(table) if name.endswith(".parquet") else read_sheet(table)
    if not sheet.rows:
        raise InputError(f"{table} has a first line and no rows: put a row for each image in")
    return sheet


def _read_parquet(table: Path) -> Sheet:
    try:
        frame = import_module("pandas").read_parquet(table)
    except ImportError:
        raise InputError(
            f"{table} is Parquet, which needs two more packages: pip install pandas pyarrow; or save it as CSV"
        ) from None
    except Exception as error:  # of pyarrow: a dozen types
        raise InputError(f"{table} cannot be read as Parquet: {error}; save it again, or as CSV") from None
    columns = [[_as_text(value) for value in frame[name].tolist()] for name in frame.columns]
    rows = [(number, list(cells)) for number, cells in enumerate(zip(*columns, strict=True), 1)]
    return Sheet(columns=tuple(str(name).strip() for name in frame.columns), rows=rows)


def _as_text(value: Any) -> str:
    """Return a value as a table of text has it: nothing for a missing one, 1 and 0 for truth values, 61 for 61.0."""
    if value is None or (isinstance(value, float) and math.isnan(value)) or str(value) in ("<NA>", "NaT"):
        return ""
    if isinstance(value, bool):
        return str(int(value))
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _facts(cells: Sequence[str], columns: Columns) -> Facts:
    own = {role: cells[i].strip() for role, i in columns.roles.items() if role != "path"}
    if "patient" in own:
        own["patient"] = patient_text(own["patient"])
    return Facts(**own, findings={name: cells[i].strip() for name, i in columns.findings.items()})


def _rows(sheet: Sheet, table: Path, joined: Joined) -> Iterator[tuple[str, list[str]]]:
    """Yield where a row is and its cells, as many as there are columns; a row with more is a fault."""
    width = len(sheet.columns)
    for number, cells in sheet.rows:
        where = f"{table}, row {number}"
        if any(cell.strip() for cell in cells[width:]):
            reason = f"{len(cells)} cells, the first line has {width}: put cells that hold the separator in quotes"
            joined.faults.append(Fault(where=where, reason=reason))
        else:
            yield where, [*cells[:width], *[""] * (width - len(cells))]


def rows_by_path(sheet: Sheet, columns: Columns, table: Path, finder: Finder) -> Joined:
    """Return an entry for each file that the rows name."""
    joined, found = Joined(), dict[str, list[Entry]]()
    index = columns.roles["path"]
    for where, cells in _rows(sheet, table, joined):
        place = f"{where}, column {columns.names[index]!r}"
        try:
            if not cells[index].strip():
                raise InputError("it is empty: give the path of the image")
            path = finder.find(cells[index])
        except InputError as error:
            joined.faults.append(Fault(where=place, reason=str(error)))
        else:
            found.setdefault(path, []).append(Entry(path=path, where=where, facts=_facts(cells, columns)))
    _refuse_all_missing(joined, found, columns.names[index])
    for entries in found.values():
        _add_agreeing(entries, columns, joined)
    return joined


def _refuse_all_missing(joined: Joined, found: Mapping[str, object], column: str) -> None:
    if joined.faults and not found:
        raise InputError(
            f"no row names a file that is there, such as {joined.faults[0]}. Is {column!r} the column of paths? If not, "
            "say which with --path-column NAME; if so, give the folder of the images with --root"
        )


def _add_agreeing(entries: Sequence[Entry], columns: Columns, joined: Joined, image: str = "") -> None:
    """Add the entry of rows of one file, or a fault if they differ. image: what they name, if not the file."""
    first, *others = entries
    for other in others:
        if differing := first.facts.differences(other.facts):
            names = [columns.names[columns.roles[n]] if n in ROLES and n in columns.roles else n for n in differing]
            reason = (
                f"{other.where.rpartition(', ')[2]} names the same {image or first.path} with another value in "
                f"{', '.join(map(repr, names))}: keep one row; several findings of one image are one column each, or A|B"
            )
            joined.faults.append(Fault(where=first.where, reason=reason))
            return
    if others:
        joined.ignored["row twice"] = joined.ignored.get("row twice", 0) + len(others)
    joined.entries.append(first)


def join(images: Iterable[Entry], sheet: Sheet, columns: Columns, table: Path) -> Joined:
    """Return the images with the facts of the rows that name them by SOP Instance UID, study or patient.

    Raises InputError if no column names images, or no row one of these images.
    """
    role = next((role for role in _JOINS if role in columns.roles), None)
    if role is None:
        raise InputError(
            f"{table}: no column names the images; expected one of path, SOP instance UID, study or patient, and the columns "
            f"are {', '.join(map(repr, filter(None, columns.names)))}: say which with --path-column NAME"
        )
    joined = Joined()
    rows = _rows_by_name(sheet, columns, table, role, joined)
    without = 0
    for image in images:
        row = rows.get(getattr(image.facts, role))
        if row is None:
            without += 1
        else:
            where = f"{image.where} ({row.where})"
            joined.entries.append(replace(image, where=where, facts=row.facts.filled(image.facts)))
    if not joined.entries:
        raise InputError(
            f"{table}: no image has one of the names of column {columns.names[columns.roles[role]]!r} as its {role}: "
            "say which column names the images with --path-column, --sop-column, --study-column or --patient-column"
        )
    used = {getattr(entry.facts, role) for entry in joined.entries}
    counts = {"image without a row": without, "row without an image": len(rows.keys() - used)}
    joined.ignored |= {reason: n for reason, n in counts.items() if n}
    joined.notes.append(f"rows of {table.name} belong to images by their {role}")
    return joined


def _rows_by_name(sheet: Sheet, columns: Columns, table: Path, role: str, joined: Joined) -> dict[str, Entry]:
    """Return name -> the entry of its rows, without a path; rows that differ are a fault."""
    rows = defaultdict(list)
    for where, cells in _rows(sheet, table, joined):
        facts = _facts(cells, columns)
        rows[getattr(facts, role)].append(Entry(path="", where=where, facts=facts))
    agreeing = Joined(faults=joined.faults, ignored=joined.ignored)
    for name, entries in rows.items():
        if name:
            _add_agreeing(entries, columns, agreeing, role)
    return {getattr(entry.facts, role): entry for entry in agreeing.entries}
