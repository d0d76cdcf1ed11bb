"""Tables of published collections, as downloaded or saved by a spreadsheet: a file in, its rows out.

Recognised: plain, gzipped or zipped; separated by commas, semicolons or tabs; UTF-8 or UTF-16. Everything else is named:
another file in its place, or where it is cut.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
import zipfile
import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from cxr_edge.errors import InputError
from training.data.faults import foreign_content

__all__ = ["Sheet", "find_table", "read_rows", "read_sheet"]

_AGAIN = "download it again"


def find_table(folder: Path, name: str) -> Path | None:
    """Find NAME.csv, NAME.csv.gz or NAME.csv.zip in `folder`, also with the prefix `kaggle_`. Returns None if absent."""
    names = [f"{prefix}{name}.csv{packing}" for prefix in ("", "kaggle_") for packing in ("", ".gz", ".zip")]
    return next((folder / n for n in names if (folder / n).is_file()), None)


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A table with any columns."""

    columns: tuple[str, ...]  # without blanks at both ends
    rows: Sequence[tuple[int, list[str]]]  # number of the row, of which the first line is 1, and its cells as they are


def read_sheet(table: Path) -> Sheet:
    """Read a table with any columns; rows without a cell are left out. Raises InputError if it cannot be read."""
    try:
        before, text = _without_marks(_decode(_unpack(table.read_bytes())))
        found = {mark: _cells(text.partition("\n")[0], mark) for mark in _SEPARATORS}
        lines = _lines(text, max(found, key=lambda mark: len(found[mark])))
    except OSError as error:
        raise InputError(f"{table} cannot be read ({error.strerror or error}): check the file and the disk") from None
    except _TableError as error:
        raise InputError(f"{table} {error}") from None
    rows = [(number, cells) for number, cells in enumerate(lines[1:], before + 2) if any(map(str.strip, cells))]
    return Sheet(columns=tuple(cell.strip() for cell in lines[0]), rows=rows)


def read_rows(table: Path, columns: Collection[str]) -> list[dict[str, str]]:
    """Read the rows of a table; missing cells are empty.

    Raises InputError if it cannot be read, has no rows, or lacks one of `columns`.
    """
    try:
        text = _decode(_unpack(table.read_bytes()))
        rows = _parse(text, columns)
    except OSError as error:
        raise InputError(f"{table} cannot be read ({error.strerror or error}): check the file and the disk") from None
    except _TableError as error:
        raise InputError(f"{table} {error}") from None
    return rows


class _TableError(Exception):
    """Reason for which a table cannot be read, as the end of a sentence that begins with its path."""


def _unpack(data: bytes) -> bytes:
    """Return the table of a zip or gzip archive, by content: a browser may have saved NAME.csv.zip as NAME.csv."""
    try:
        if data.startswith(b"PK\x03\x04"):
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                names = [n for n in archive.namelist() if n.endswith(".csv") and not n.startswith("__MACOSX")]
                if not names:
                    raise _TableError(
                        f"is a zip archive without a .csv (but {', '.join(archive.namelist()[:3])}): {_AGAIN}"
                    )
                return archive.read(names[0])
        return gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data
    except (EOFError, OSError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error):
        raise _TableError(f"is a cut or damaged archive ({len(data):,} bytes): {_AGAIN}") from None


_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


def _decode(data: bytes) -> str:
    if not data.strip(b"\0 \t\r\n"):
        raise _TableError(f"is empty, or holds zeros only ({len(data):,} bytes): {_AGAIN}")
    if foreign := foreign_content(data):
        raise _TableError(f"is {foreign}")
    bom, encoding = next((row for row in _BOMS if data.startswith(row[0])), (b"", _utf16_without_bom(data) or "utf-8"))
    data = data.removeprefix(bom)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _TableError(
            f"is not in UTF-8 or UTF-16 (line {line}, byte {data[error.start]:#x}): {_AGAIN}, or save it as CSV UTF-8"
        ) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise _TableError(f"holds zero bytes from line {line} on, so it is no table, or damaged: {_AGAIN}")
    return text


def _utf16_without_bom(data: bytes) -> str | None:
    """Return the encoding if every second byte of the header line is zero."""
    start = data[:40]
    if len(start) >= 8 and not any(start[1::2]):
        return "utf-16-le"
    return "utf-16-be" if len(start) >= 8 and not any(start[0::2]) else None


def _parse(text: str, columns: Collection[str]) -> list[dict[str, str]]:
    _, text = _without_marks(text)
    header = text.partition("\n")[0]
    found = {mark: _cells(header, mark) for mark in _SEPARATORS}
    mark = max(found, key=lambda m: (len(set(columns) & set(found[m])), len(found[m])))
    if missing := sorted(set(columns) - set(found[mark])):
        raise _TableError(
            f"lacks the columns {', '.join(missing)}: expected the table as published; its first line has "
            f"{', '.join(found[mark])[:200] or 'nothing'}"
        )
    if repeated := sorted(c for c in columns if found[mark].count(c) > 1):
        raise _TableError(f"has the columns {', '.join(repeated)} more than once: keep one of each")
    rows = _read(text, mark)
    if not rows:
        raise _TableError(f"has a first line and no rows: {_AGAIN}, or put the rows in")
    return rows


_SEPARATORS = ",;\t"


def _without_marks(text: str) -> tuple[int, str]:
    """Return the number of lines before the first line of the table, and the table from there on."""
    m = re.match(r"(sep=.\r?\n)?[\r\n]*", text)  # Excel's line for its own use
    start = 0 if m is None else m.end()
    return text.count("\n", 0, start), text[start:]


def _cells(header: str, mark: str) -> list[str]:
    try:
        return [cell.strip() for cell in next(csv.reader([header.rstrip("\r")], delimiter=mark), [])]
    except csv.Error:  # too long for a cell: no table
        return []


def _read(text: str, mark: str) -> list[dict[str, str]]:
    head, *lines = _lines(text, mark)
    names = [cell.strip() for cell in head]
    rows = [line for line in lines if any(line)]
    return [dict(zip(names, [*row, *[""] * (len(names) - len(row))], strict=False)) for row in rows]


def _lines(text: str, mark: str) -> list[list[str]]:
    """Return the cells of all lines, the first one with them. Raises _TableError if the table is cut."""
    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True))
    except csv.Error as error:
        if "unexpected end" in str(error):
            raise _TableError(f"ends within a quoted cell, so it is cut: {_AGAIN}") from None
        lines = _read_leniently(text, mark)
    rows = [line for line in lines[1:] if any(line)]
    if rows and len(rows[-1]) < len(lines[0]) and not text.endswith(("\n", "\r")):
        raise _TableError(f"ends within its last row, {mark.join(rows[-1])[:80]!r}, so it is cut: {_AGAIN}")
    return lines


def _read_leniently(text: str, mark: str) -> list[list[str]]:
    """Read cells with text after a closing quote, as Excel does."""
    try:
        return list(csv.reader(io.StringIO(text, newline=""), delimiter=mark))
    except csv.Error as error:
        raise _TableError(f"cannot be read as a table ({error}): {_AGAIN}") from None
