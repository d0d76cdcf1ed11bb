"""View, age and UID by a DICOM header: a header in, `AcquisitionFacts` out.

They exist because a bundle is made for views and ages that an image does not show reliably. Only values with one meaning
count (PS3.3 C.8.1.2.1 and C.8.11.5: View Position, View Code Sequence; PS3.5 6.2: AS, DA); others are ignored, never an
error, and what contradicts itself is not known. Of the dates of birth and study only the age remains.
"""

from __future__ import annotations

import re
from datetime import date

from cxr_edge.decoding.dicom_header import Header
from cxr_edge.errors import InputError
from cxr_edge.records import AcquisitionFacts

__all__ = ["LATERAL_POSITIONS", "acquisition_facts", "is_lateral_orientation", "view_meanings"]

LATERAL_POSITIONS = ("LL", "RL", "L", "LAT", "LATERAL", "LLO", "RLO")

# Of PS3.16 CID 4010, in SNOMED CT and in the older SNOMED RT.
_VIEW_CODES = {
    "272479007": "PA",
    "R-10214": "PA",
    "399348003": "AP",
    "R-10206": "AP",
    "399198007": "LATERAL",  # right lateral
    "R-10232": "LATERAL",
    "399173006": "LATERAL",  # left lateral
    "R-10236": "LATERAL",
    "399067008": "LATERAL",
    "R-102CD": "LATERAL",
}
_AGE = re.compile(r"([0-9]{1,3})([DWMY]?)")  # without a unit, as the RSNA challenge's files have it, years
_UNITS_PER_YEAR = {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0, "": 1.0}
_DATE = re.compile(r"([0-9]{4})\.?([0-9]{2})\.?([0-9]{2})")
_UID = re.compile(r"[0-9.]{1,64}")  # PS3.5 9.1
_OLDEST_YEARS = 120.0


def acquisition_facts(header: Header) -> AcquisitionFacts:
    """Return what the header says of view, age and UID; nothing of what it says unclearly, or not at all."""
    return AcquisitionFacts(
        view=_view(header), age_years=_age_years(header), sop_instance_uid=_sop_instance_uid(header)
    )


def view_meanings(header: Header) -> list[str]:
    """Return the meanings of the view codes in capitals. Raises InputError if the sequence cannot be read."""
    items = header.items("ViewCodeSequence")
    return [str(header.value_of(item, "ViewCodeSequence", "CodeMeaning") or "").upper() for item in items]


def is_lateral_orientation(header: Header) -> bool:
    """Return whether a row or a column of the image runs to the patient's front or back."""
    return any(code[:1] in ("A", "P") for code in header.codes("PatientOrientation"))


def _view(header: Header) -> str:
    try:
        views = {_by_position(header), *_by_codes(header)} - {""}
        if is_lateral_orientation(header):
            views.add("LATERAL")
    except InputError:
        return ""
    return views.pop() if len(views) == 1 else ""


def _sop_instance_uid(header: Header) -> str:
    uid = header.text("SOPInstanceUID")
    return uid if _UID.fullmatch(uid) else ""


def _by_position(header: Header) -> str:
    position = header.code("ViewPosition")
    return "LATERAL" if position in LATERAL_POSITIONS else position if position in ("AP", "PA") else ""


def _by_codes(header: Header) -> list[str]:
    items = header.items("ViewCodeSequence")
    values = [str(header.value_of(item, "ViewCodeSequence", "CodeValue") or "").strip() for item in items]
    return [
        _VIEW_CODES.get(value) or _by_meaning(meaning)
        for value, meaning in zip(values, view_meanings(header), strict=True)
    ]


def _by_meaning(meaning: str) -> str:
    letters = "".join(c for c in meaning if c.isalpha())
    if letters in ("POSTEROANTERIOR", "PA"):
        return "PA"
    if letters in ("ANTEROPOSTERIOR", "AP"):
        return "AP"
    # Lateral decubitus is a frontal view of a patient lying on the side.
    return "LATERAL" if "LATERAL" in letters and "DECUB" not in letters else ""


def _age_years(header: Header) -> float | None:
    match = _AGE.fullmatch(header.text("PatientAge").upper())
    if match is not None:
        return _plausible(float(match[1]) / _UNITS_PER_YEAR[match[2]])
    birth, study = _date(header, "PatientBirthDate"), _date(header, "StudyDate")
    return None if birth is None or study is None else _plausible((study - birth).days / 365.25)


def _plausible(years: float) -> float | None:
    return years if 0 <= years <= _OLDEST_YEARS else None


def _date(header: Header, keyword: str) -> date | None:
    match = _DATE.fullmatch(header.text(keyword))
    try:
        return None if match is None else date(*map(int, match.groups()))
    except ValueError:  # such as month 13
        return None
