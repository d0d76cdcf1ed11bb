"""Age and sex of a patient as tables and DICOM headers word them: a text in, years or F, M out.

All readers use these functions, so that an age has one meaning in all collections. What is no age or no sex counts as not
stated where a published table may hold it; `required_age` and `required_sex` are for tables that must not.
"""

from __future__ import annotations

import re

from cxr_edge.errors import InputError

__all__ = ["is_adult", "required_age", "required_sex", "stated_age", "stated_sex"]

_ADULT_YEARS = 18
_OLDEST_YEARS = 120  # NIH and RSNA state ages up to 414, which nobody has reached
_AGE = re.compile(r"([0-9]+(?:\.[0-9]+)?)([DWMY]?)")  # DICOM's (018M, 043Y; PS3.5 6.2), or a number of years
_UNITS_PER_YEAR = {"D": 365.25, "W": 52.18, "M": 12, "Y": 1, "": 1}
_SEXES = {"F": "F", "FEMALE": "F", "M": "M", "MALE": "M"}


def stated_age(text: str) -> float | None:
    """Return the age in years, of `043Y`, `018M`, `12` or `12.0`; None for an empty cell, another text or more than 120 years."""
    m = _AGE.fullmatch(text.strip().upper())
    years = None if m is None else float(m[1]) / _UNITS_PER_YEAR[m[2]]
    return None if years is None or years > _OLDEST_YEARS else years


def required_age(text: str) -> float | None:
    """Return `stated_age`. Raises InputError for a text that is neither empty nor an age of 0 to 120 years."""
    years = stated_age(text)
    if years is None and text.strip():
        raise InputError(
            f"the age {text!r}: expected 0 to {_OLDEST_YEARS} years, as 43, 043Y or 018M, or an empty cell"
        )
    return years


def is_adult(age_years: float | None) -> bool:
    """Return whether a patient is 18 or older; True if the age is not stated."""
    return age_years is None or age_years >= _ADULT_YEARS


def stated_sex(text: str) -> str:
    """Return F or M, of a letter or a word in any case; empty for anything else, such as DICOM's O."""
    return _SEXES.get(text.strip().upper(), "")


def required_sex(text: str) -> str:
    """Return `stated_sex`. Raises InputError for a text that is neither empty nor a sex."""
    sex = stated_sex(text)
    if not sex and text.strip():
        raise InputError(f"the sex {text!r}: expected F, M or an empty cell")
    return sex
