"""CSV tables of published collections, as downloaded: a plain, gzipped or zipped file in, its rows out."""

from __future__ import annotations

import csv
import gzip
import io
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path

from cxr_edge.errors import InputError

__all__ = ["find_table", "read_rows"]


def find_table(folder: Path, name: str) -> Path | None:
    """Find NAME.csv, NAME.csv.gz or NAME.csv.zip in `folder`, also with the prefix `kaggle_`. Returns None if absent."""
    names = [f"{prefix}{name}.csv{packing}" for prefix in ("", "kaggle_") for packing in ("", ".gz", ".zip")]
    return next((folder / n for n in names if (folder / n).is_file()), None)


def read_rows(table: Path, columns: Collection[str]) -> list[dict[str, str]]:
    """Read a CSV file: plain, gzipped, or the one file of a zip archive.

    Raises InputError if it is unreadable or lacks one of `columns`.
    """
    try:
        text = _unpack(table).decode("utf-8-sig")
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, StopIteration, UnicodeDecodeError):
        raise InputError(f"{table} cannot be read as a table: expected CSV in UTF-8; download it again") from None
    rows = [{k: v or "" for k, v in row.items() if k} for row in csv.DictReader(io.StringIO(text, newline=""))]
    if missing := set(columns) - set(rows[0] if rows else ()):
        raise InputError(f"{table}: the columns {sorted(missing)} are missing: expected the table as published")
    return rows


def _unpack(table: Path) -> bytes:
    if table.suffix == ".zip":
        with zipfile.ZipFile(table) as archive:
            return archive.read(next(n for n in archive.namelist() if n.endswith(".csv")))
    return gzip.decompress(table.read_bytes()) if table.suffix == ".gz" else table.read_bytes()
