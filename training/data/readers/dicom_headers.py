"""Headers of collections in DICOM: a file in, patient, view, age and sex out; no pixels are read."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

from cxr_edge.errors import InputError
from training.data.faults import reason_of

__all__ = ["Header", "read_header"]


@dataclass(frozen=True, kw_only=True)
class Header:
    """Values of a header in its own wording, without blanks at both ends; empty where they are not stated."""

    patient: str = ""
    view: str = ""
    age: str = ""
    sex: str = ""


_KEYWORDS = {"patient": "PatientID", "view": "ViewPosition", "age": "PatientAge", "sex": "PatientSex"}


def read_header(path: Path) -> Header:
    """Read the header of a DICOM file. Raises InputError if it cannot be read."""
    import pydicom  # a third of a second, and only collections in DICOM need it

    try:
        with warnings.catch_warnings():  # RSNA writes ages as bare numbers: one warning per file
            warnings.simplefilter("ignore")
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_KEYWORDS.values()))
            return Header(**{name: str(header.get(word) or "").strip() for name, word in _KEYWORDS.items()})
    except Exception:  # pydicom raises a dozen types on damaged files, and its messages quote values
        error = InputError("the DICOM header cannot be read: copy or download the file again")
        raise InputError(reason_of(error, path)) from None
