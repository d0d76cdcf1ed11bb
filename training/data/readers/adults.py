"""Reader of the gathered adult collection: manifest.csv, one row per image, and a folder of images per source.

Its images come from five published collections at one size; the table states site, age, sex, view and what each label rests on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from cxr_edge.errors import InputError
from training.data.csv_tables import read_rows
from training.data.demographics import is_adult, required_age, required_sex
from training.data.faults import each
from training.data.findings import LABELS, UNKNOWN_VIEW
from training.data.readers.named_files import contradictions, is_file, path_below
from training.data.records import CollectedRecords, Record, Selection, image_paths, make_record, require_images

__all__ = ["read_adults"]

Row = Mapping[str, str]

_COLUMNS = frozenset({"file", "source", "site", "label", "detail", "label_basis", "age", "sex", "view", "patient_id"})

# Source -> prefix of its patient numbers, and the source in whose collection these are the patients: CCX-281 is ccx/281, and
# NIH-00061 is nih/61, as in the whole NIH collection.
_PATIENTS: Mapping[str, tuple[str, str]] = {
    "siim": ("SIIM-study-", "siim"),
    "nih": ("NIH-", "nih"),
    "armiro": ("", "armiro"),
    "ccx-june": ("CCX-", "ccx"),
    "tbx11k": ("", "tbx11k"),
}


def read_adults(folder: Path, selection: Selection | None = None) -> CollectedRecords:
    """Read manifest.csv and the images that it names.

    Rows without an image file, files without a row and repeated rows are dropped and counted. Rows that contradict each other,
    an unknown source or label, an age or a sex that is none, a missing patient and a path outside of the folder are faults.
    Checksums of the table are not compared. Raises InputError for another layout.
    """
    table = folder / "manifest.csv"
    if not table.is_file():
        raise InputError(
            f"{folder} holds no manifest.csv: expected it beside folders of images, such as siim/ and nih/"
        )
    rows = list(enumerate(read_rows(table, _COLUMNS), start=2))
    made, faults = each(rows, lambda item: _record(folder, item[1]), partial(_name, table))
    records = dict.fromkeys(made)
    present = [r for r in records if is_file(r.path)]
    if not faults:
        require_images(
            [r.path for r in present], folder, "the files that manifest.csv names, such as nih/00000061_012.jpg"
        )
    dropped = {
        "adults: file not there": len(records) - len(present),
        "adults: file not in the table": len(_unnamed(folder, [row for _, row in rows])),
        "adults: row twice": len(made) - len(records),
    }
    faults += contradictions((r.path for r in present), table)
    return CollectedRecords(records=present, dropped=Counter({k: n for k, n in dropped.items() if n}), faults=faults)


def _name(table: Path, item: tuple[int, Row]) -> str:
    number, row = item
    return f"{table}, {row['file'].strip() or f'row {number}'}"


def _unnamed(folder: Path, rows: list[Row]) -> list[Path]:
    """Return the image files that no row names, not even one with a fault."""
    named = {folder / row["file"].strip() for row in rows}
    return [path for path in image_paths(folder.rglob("*")) if path not in named]


def _record(folder: Path, row: Row) -> Record:
    cells = {column: row[column].strip() for column in _COLUMNS}
    if not cells["file"]:
        raise InputError("the row names no file: give the path of its image below the folder")
    if cells["label"] not in LABELS:
        raise InputError(f"the label {cells['label']!r}: expected one of {', '.join(sorted(LABELS))}")
    age = required_age(cells["age"])
    record = make_record(
        path_below(folder, cells["file"]),
        _patient(cells["source"], cells["patient_id"]),
        cells["label"],
        source=cells["source"],
        view=cells["view"] or UNKNOWN_VIEW,
        finding=cells["detail"] or cells["label"],
        adult=is_adult(age),
    )
    sex = required_sex(cells["sex"])
    return replace(record, site=cells["site"], basis=cells["label_basis"], age_years=age, sex=sex)


def _patient(source: str, number: str) -> str:
    """Return the patient's name over all collections."""
    if source not in _PATIENTS:
        raise InputError(f"the source {source!r}: expected one of {', '.join(_PATIENTS)}")
    prefix, owner = _PATIENTS[source]
    bare = number.removeprefix(prefix)
    if source in ("nih", "ccx-june"):  # NIH's table and CCX's have 61 and 7; others' numbers may begin with a zero
        bare = bare.lstrip("0") or bare
    if not bare:
        raise InputError(f"the patient_id {number!r}: give every image its patient's")
    return f"{owner}/{bare}"
