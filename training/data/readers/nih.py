"""Reader of NIH ChestX-ray14: one table and up to twelve archives of images, or Kaggle's sample of 5,606 of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from cxr_edge.errors import InputError
from training.data.csv_tables import find_table, read_rows
from training.data.demographics import is_adult, stated_age, stated_sex
from training.data.faults import Fault, each
from training.data.findings import UNKNOWN_VIEW
from training.data.readers.named_files import contradictions
from training.data.records import CollectedRecords, Record, Selection, image_paths, make_record, require_images

__all__ = ["read_nih"]

_NAME = "nih-chestxray14"
_NO_FINDING = "No Finding"
_FINDINGS = frozenset(
    {
        *("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion", "Emphysema", "Fibrosis", "Hernia"),
        *("Infiltration", "Mass", "Nodule", "Pleural_Thickening", "Pneumonia", "Pneumothorax"),
    }
)
# The later table mends ages and counts; the sample's is last, since its images are in the others too.
_TABLES = ("Data_Entry_2017_v2020", "Data_Entry_2017", "sample_labels")
_COLUMNS = frozenset({"Image Index", "Finding Labels", "Patient ID", "Patient Age", "View Position"})


def read_nih(folder: Path, selection: Selection | None = None) -> CollectedRecords:
    """Read the first of Data_Entry_2017_v2020.csv, Data_Entry_2017.csv and sample_labels.csv, and the images.

    Images are in images_001/images/ to images_012/images/ or images/; of the sample, also in sample/images/. `No Finding` is
    normal, Pneumonia alone or with others is pneumonia, all else is other. Rows without an image (few people have all archives),
    repeated rows and further files of one image are dropped and counted; an image without a row is a fault. An age that nobody
    has counts as not stated. Raises InputError for another layout.
    """
    table = _table(folder)
    paths = image_paths(
        p for pattern in ("images_*/images/*", "images/*", "sample/images/*") for p in folder.glob(pattern)
    )
    require_images(paths, folder, f"images_001/images/*.png to images_012/, or images/*.png, beside {table.name}")
    files = {path.stem: path for path in reversed(paths)}
    rows = read_rows(table, _COLUMNS)
    listed = [row for row in rows if _stem(row) in files]
    made, faults = each(listed, lambda row: _record(files[_stem(row)], row), partial(_where, table))
    records = list(dict.fromkeys(made))
    dropped = {"file not there": len(rows) - len(listed), "row twice": len(made) - len(records)}
    dropped["file twice"] = len(paths) - len(files)
    faults += [
        *_without_row(files, {_stem(row) for row in rows}, table),
        *contradictions((r.path for r in records), table),
    ]
    counted = Counter({f"{_NAME}: {reason}": n for reason, n in dropped.items() if n})
    return CollectedRecords(records=records, dropped=counted, faults=faults)


def _table(folder: Path) -> Path:
    found = [table for name in _TABLES for f in (folder, folder / "sample") if (table := find_table(f, name))]
    if not found:
        raise InputError(
            f"{folder} holds none of {', '.join(f'{name}.csv' for name in _TABLES)}: expected the layout of NIH ChestX-ray14, "
            "one of these tables beside images_001/images/ to images_012/images/, or images/"
        )
    return found[0]


def _where(table: Path, row: Mapping[str, str]) -> str:
    return f"{table}, {row['Image Index']}"


def _stem(row: Mapping[str, str]) -> str:
    return row["Image Index"].strip().rpartition(".")[0]


def _without_row(files: Mapping[str, Path], listed: set[str], table: Path) -> list[Fault]:
    reason = f"it has no row in {table.name}: expected its name as Image Index; take the table that belongs to it"
    return [Fault(where=str(path), reason=reason) for stem, path in files.items() if stem not in listed]


def _record(path: Path, row: Mapping[str, str]) -> Record:
    finding, age = row["Finding Labels"].strip(), stated_age(row["Patient Age"])
    record = make_record(
        path,
        _patient(path, row["Patient ID"].strip()),
        _label(finding),
        source=_NAME,
        view=row["View Position"].strip() or UNKNOWN_VIEW,
        finding=finding,
        adult=is_adult(age),
    )
    sex = stated_sex(row.get("Patient Gender") or row.get("Patient Sex") or "")  # the two tables differ in the name
    return replace(record, site="NIH Clinical Center", basis="text-mined", age_years=age, sex=sex)


def _patient(path: Path, number: str) -> str:
    """Return the patient's name, from its number in the table: 61 and 00000061 are one. The file's name begins with it, too."""
    if not re.fullmatch(r"[0-9]+", number):
        raise InputError(f"the Patient ID {number!r}: expected a number, as in NIH ChestX-ray14")
    if number.lstrip("0") != path.stem.partition("_")[0].lstrip("0"):
        raise InputError(f"the Patient ID {number}: expected the number that its image's name begins with")
    return f"nih/{int(number)}"


def _label(finding: str) -> str:
    findings = {part.strip() for part in finding.split("|")}
    if findings == {_NO_FINDING}:
        return "normal"
    if unknown := sorted(findings - _FINDINGS):
        raise InputError(
            f"the Finding Labels {finding!r}: expected {_NO_FINDING}, or findings of NIH ChestX-ray14 separated by |, "
            f"among which {', '.join(map(repr, unknown))} is not"
        )
    return "pneumonia" if "Pneumonia" in findings else "other"
