"""Reader of the RSNA pneumonia challenge: DICOM files, labels and detailed classes."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from cxr_edge.errors import InputError
from training.data.csv_tables import find_table, read_rows
from training.data.records import Record, image_paths, record_of, require_images

__all__ = ["rsna"]


_NOT_NORMAL = "No Lung Opacity / Not Normal"


_RSNA_CLASSES = {"Normal": "normal", "Lung Opacity": "pneumonia", _NOT_NORMAL: "other"}


def rsna(folder: Path, *, not_normal: bool = False) -> list[Record]:
    """The RSNA pneumonia challenge: stage_2_train_images/PATIENT.dcm, and the tables of labels and of detailed classes.

    Normal is normal, Lung Opacity is pneumonia (of unknown type). not_normal: also take "No Lung Opacity / Not Normal",
    as other; R20's 6012 + 6012 images are normal and opacities only. Tables may be .csv, .csv.gz or .csv.zip, with or
    without `kaggle_` before the name. View and age come from stage_2_train_images_dicom_headers where there is one, else
    from the files' headers; an age below 18 years is no adult. Raises InputError for another layout, for an image
    without a row, and where the two tables disagree.
    """
    return read_rsna(folder, not_normal=not_normal)[0]


def read_rsna(folder: Path, *, not_normal: bool) -> tuple[list[Record], Counter[str]]:
    paths = image_paths(folder.glob("stage_2_train_images/*.dcm"))
    labels = _rsna_table(folder, "stage_2_train_labels", {"patientId", "Target"})
    details = _rsna_table(folder, "stage_2_detailed_class_info", {"patientId", "class"})
    require_images(paths, folder, "stage_2_train_images/*.dcm beside the tables")
    targets = {r["patientId"]: r["Target"].strip() for r in labels}
    classes = {r["patientId"]: r["class"].strip() for r in details}
    found = {p: _rsna_class(p, targets, classes) for p in paths}
    taken = [p for p in paths if not_normal or _RSNA_CLASSES[found[p]] != "other"]
    headers = _rsna_headers(folder)
    dropped = Counter({f"rsna: class {_NOT_NORMAL}": len(paths) - len(taken)})
    return [_rsna_record(p, found[p], headers.get(p.stem)) for p in taken], dropped


def _rsna_table(folder: Path, name: str, columns: set[str]) -> list[dict[str, str]]:
    table = find_table(folder, name)
    if table is None:
        raise InputError(
            f"{folder} holds no {name}.csv (or .csv.gz, .csv.zip): expected the RSNA pneumonia challenge with "
            "stage_2_train_images/, stage_2_train_labels.csv and stage_2_detailed_class_info.csv, which alone tells "
            "normal from abnormal without opacity"
        )
    return read_rows(table, columns)


def _rsna_class(path: Path, targets: Mapping[str, str], classes: Mapping[str, str]) -> str:
    for name, table in (("stage_2_train_labels", targets), ("stage_2_detailed_class_info", classes)):
        if path.stem not in table:
            raise InputError(f"{path} has no row in {name}: expected its name as patientId; take the tables of stage 2")
    found, target = classes[path.stem], targets[path.stem]
    if found not in _RSNA_CLASSES:
        raise InputError(f"{path} is of class {found!r}: expected one of {', '.join(_RSNA_CLASSES)}")
    if (found == "Lung Opacity") != (target == "1"):
        raise InputError(f"{path} is of class {found!r} and Target {target}: the tables are not of the same stage")
    return found


def _rsna_headers(folder: Path) -> dict[str, tuple[str, str]]:
    """Patient -> view and age, from the table of DICOM headers; empty without one."""
    table = find_table(folder, "stage_2_train_images_dicom_headers")
    if table is None:
        return {}
    rows = read_rows(table, {"PatientID", "ViewPosition", "PatientAge"})
    return {r["PatientID"]: (r["ViewPosition"], r["PatientAge"]) for r in rows}


def _rsna_record(path: Path, found: str, header: tuple[str, str] | None) -> Record:
    view, age = _dicom_view_and_age(path) if header is None else header
    years = _years(age)
    return record_of(
        path,
        f"rsna/{path.stem}",
        _RSNA_CLASSES[found],
        source="rsna",
        view=view.strip() or "unknown",
        finding=found,
        adult=years is None or years >= 18,
    )


def _dicom_view_and_age(path: Path) -> tuple[str, str]:
    import pydicom  # a third of a second, and only RSNA without its table of headers needs it

    try:
        with warnings.catch_warnings():  # RSNA writes ages as bare numbers: one warning a file
            warnings.simplefilter("ignore")
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["ViewPosition", "PatientAge"])
            return str(header.get("ViewPosition") or ""), str(header.get("PatientAge") or "")
    except Exception:  # pydicom raises a dozen types on damaged files, and its messages quote values
        raise InputError(f"{path}: the DICOM header cannot be read: copy or download the file again") from None


def _years(age: str) -> float | None:
    """Years of a DICOM age (018M, 043Y; PS3.5 6.2) or of a bare number of years, as RSNA's; None if there is none."""
    m = re.fullmatch(r"(\d+(?:\.\d+)?)([DWMY]?)", age.strip())
    return None if m is None else float(m[1]) / {"D": 365.25, "W": 52.18, "M": 12, "Y": 1, "": 1}[m[2]]
