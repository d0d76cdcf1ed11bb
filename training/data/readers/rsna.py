"""Reader of the RSNA pneumonia challenge: DICOM files, labels and detailed classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from cxr_edge.errors import InputError
from training.data.csv_tables import find_table, read_rows
from training.data.demographics import is_adult, stated_age, stated_sex
from training.data.faults import Fault, each, one_value
from training.data.findings import UNKNOWN_VIEW
from training.data.readers.dicom_headers import Header, read_header
from training.data.records import CollectedRecords, Record, Selection, image_paths, make_record, require_images

__all__ = ["read_rsna"]

_NOT_NORMAL = "No Lung Opacity / Not Normal"
_CLASSES = {"Normal": "normal", "Lung Opacity": "pneumonia", _NOT_NORMAL: "other"}


def read_rsna(folder: Path, selection: Selection | None = None, *, not_normal: bool = False) -> CollectedRecords:
    """Read stage_2_train_images/PATIENT.dcm and the tables of labels and of detailed classes.

    Normal is normal, Lung Opacity is pneumonia (of unknown type). Tables may be .csv, .csv.gz or .csv.zip, with or without
    the prefix `kaggle_`. View, age and sex come from the table stage_2_train_images_dicom_headers if present, else from the
    files' headers; patients below 18 years are not adults.

    not_normal: also read "No Lung Opacity / Not Normal", as `other`; R20's 6012 + 6012 images are normals and opacities only.
    An image without a row, or of which the two tables disagree, is a fault. Raises InputError for another layout.
    """
    paths = image_paths(folder.glob("stage_2_train_images/*.dcm"))
    labels = _read_table(folder, "stage_2_train_labels", {"patientId", "Target"})
    details = _read_table(folder, "stage_2_detailed_class_info", {"patientId", "class"})
    require_images(paths, folder, "stage_2_train_images/*.dcm beside the tables")
    targets, one = _by_patient(labels, "Target", "stage_2_train_labels")
    classes, other = _by_patient(details, "class", "stage_2_detailed_class_info")
    class_of = partial(_class_of, targets=targets, classes=classes)
    known, faults = each(paths, lambda path: (path, class_of(path)))
    selected = [(path, name) for path, name in known if not_normal or _CLASSES[name] != "other"]
    headers = _read_headers(folder)
    records, unreadable = each(selected, lambda item: _record(*item, headers.get(item[0].stem)), lambda item: item[0])
    dropped = Counter({f"rsna: class {_NOT_NORMAL}": len(known) - len(selected)})
    return CollectedRecords(records=records, dropped=dropped, faults=[*one, *other, *faults, *unreadable])


def _by_patient(rows: Sequence[Mapping[str, str]], column: str, table: str) -> tuple[dict[str, str], list[Fault]]:
    """Return patient -> cell, and a fault for each patient with several rows that differ."""
    return one_value(
        ((row["patientId"], row[column].strip()) for row in rows),
        lambda patient, found: Fault(
            where=f"{table}, {patient}", reason=f"{column} {' and '.join(found)}: keep the rows of one of them"
        ),
    )


def _read_table(folder: Path, name: str, columns: set[str]) -> list[dict[str, str]]:
    table = find_table(folder, name)
    if table is None:
        raise InputError(
            f"{folder} holds no {name}.csv (or .csv.gz, .csv.zip): expected the RSNA pneumonia challenge with "
            "stage_2_train_images/, stage_2_train_labels.csv and stage_2_detailed_class_info.csv, the only table "
            "that separates normal from abnormal without opacity"
        )
    return read_rows(table, columns)


def _class_of(path: Path, targets: Mapping[str, str], classes: Mapping[str, str]) -> str:
    for name, table in (("stage_2_train_labels", targets), ("stage_2_detailed_class_info", classes)):
        if path.stem not in table:
            raise InputError(f"it has no row in {name}: expected its name as patientId; take the tables of stage 2")
    name, target = classes[path.stem], targets[path.stem]
    if name not in _CLASSES:
        raise InputError(f"it is of class {name!r}: expected one of {', '.join(_CLASSES)}")
    if (name == "Lung Opacity") != (target == "1"):
        raise InputError(f"it is of class {name!r} and Target {target}: the tables are not of the same stage")
    return name


def _read_headers(folder: Path) -> dict[str, Header]:
    """Return patient -> header from the table of DICOM headers; empty if there is no such table."""
    table = find_table(folder, "stage_2_train_images_dicom_headers")
    if table is None:
        return {}
    rows = read_rows(table, {"PatientID", "ViewPosition", "PatientAge"})
    return {
        r["PatientID"]: Header(view=r["ViewPosition"].strip(), age=r["PatientAge"], sex=r.get("PatientSex", ""))
        for r in rows
    }


def _record(path: Path, class_name: str, header: Header | None) -> Record:
    header = header or read_header(path)
    age = stated_age(header.age)
    record = make_record(
        path,
        f"rsna/{path.stem}",
        _CLASSES[class_name],
        source="rsna",
        view=header.view or UNKNOWN_VIEW,
        finding=class_name,
        adult=is_adult(age),
    )
    return replace(record, age_years=age, sex=stated_sex(header.sex))
