"""DICOM headers of own data: a file in; patient, study, view, age, sex, site and scanner out. No pixels are read."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxr_edge.errors import InputError
from training.data.faults import reason_of
from training.data.own.cells import patient_text
from training.data.own.facts import Facts

__all__ = ["Header", "read_header"]

_KEYWORDS = (
    *("PatientID", "PatientBirthDate", "PatientAge", "PatientSex", "StudyDate", "StudyInstanceUID"),
    *("SOPInstanceUID", "ViewPosition", "InstitutionName", "Manufacturer", "ManufacturerModelName", "Modality", "Rows"),
)
# Radiographs, and secondary captures of them; an empty one is left to the decoder.
_RADIOGRAPHS = frozenset({"CR", "DX", "DR", "RG", "RF", "XR", "OT", "SC", ""})


@dataclass(frozen=True, kw_only=True)
class Header:
    """Facts of a file, and why it is no radiograph."""

    facts: Facts
    unsuitable: str = ""  # reason for leaving the file out; empty if there is none


def read_header(path: Path) -> Header:
    """Read the header of a DICOM file. Raises InputError if it cannot be read."""
    import pydicom  # a third of a second, and only DICOM needs it

    try:
        with warnings.catch_warnings():  # of values that do not conform: one per file
            warnings.simplefilter("ignore")
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_KEYWORDS))
            texts = {word: _text(header.get(word)) for word in _KEYWORDS}
    except Exception:  # pydicom raises a dozen types on damaged files, and its messages quote values
        error = InputError("the DICOM header cannot be read: copy or export the file again")
        raise InputError(reason_of(error, path)) from None
    if not any(texts.values()):
        raise InputError("the DICOM header states nothing, so the file is damaged: copy or export it again")
    return _header(texts)


def _text(value: Any) -> str:
    return str(value if value is not None else "").strip().strip("\0")


def _header(texts: dict[str, str]) -> Header:
    facts = Facts(
        patient=patient_text(texts["PatientID"]),
        study=texts["StudyInstanceUID"],
        sop=texts["SOPInstanceUID"],
        view=texts["ViewPosition"],
        age=texts["PatientAge"] or _age(texts["PatientBirthDate"], texts["StudyDate"]),
        sex=texts["PatientSex"],
        site=texts["InstitutionName"],
        scanner=" ".join(filter(None, (texts["Manufacturer"], texts["ManufacturerModelName"]))),
    )
    return Header(facts=facts, unsuitable=_unsuitable(texts["Modality"].upper(), texts["Rows"]))


def _unsuitable(modality: str, rows: str) -> str:
    if modality not in _RADIOGRAPHS:
        return f"DICOM of modality {modality}"
    return "" if rows else "DICOM without an image"


def _age(born: str, studied: str) -> str:
    """Return the age in whole years from two dates of DICOM (YYYYMMDD); empty if one is not stated."""
    if not (len(born) == len(studied) == 8 and (born + studied).isdecimal()):
        return ""
    years = int(studied[:4]) - int(born[:4]) - (studied[4:] < born[4:])
    return str(years) if years >= 0 else ""
