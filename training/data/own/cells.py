"""Cells of tables of own data: a text in, its meaning out: a finding, a label, a side of a split, an age."""

from __future__ import annotations

import re
from collections.abc import Mapping

from cxr_edge.errors import InputError
from training.data.demographics import required_age, required_sex
from training.data.splits import Side

__all__ = [
    "ABSENT",
    "NO_FINDING",
    "PRESENT",
    "SPLIT_WORDS",
    "UNKNOWN",
    "age_years",
    "is_finding",
    "label_text",
    "patient_text",
    "presence",
    "sex",
    "side",
]

# Words of cells, in lower case.
PRESENT = frozenset({"1", "1.0", "y", "yes", "true", "t", "positive", "pos", "present"})
ABSENT = frozenset({"0", "0.0", "n", "no", "false", "f", "negative", "neg", "absent"})
_NOTHING = frozenset({"", "nan", "na", "n/a", "null", "none", "?", "-"})
UNKNOWN = _NOTHING | {"-1", "-1.0", "unknown", "uncertain", "u", "missing", "not mentioned"}
NO_FINDING = frozenset({"no finding", "no findings"})  # in a cell of several findings: none of them

SPLIT_WORDS: Mapping[str, Side] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "holdout"), "test"),
}

# Patients of exports from which the name was removed.
_NAMELESS = frozenset(
    {"anonymous", "anonymized", "anonymised", "anon", "unknown", "removed", "redacted", "deidentified", "de-identified"}
)
_NO_SEX = frozenset({"o", "u", "x", "other", "unknown", "not stated"})
_YEARS = re.compile(r"\s*(years?|yrs?|y\.?o\.?)$", re.IGNORECASE)


def is_finding(cell: str) -> bool | None:
    """Return whether a cell states a finding as present or absent; None for one that may be empty or unknown, too."""
    word = cell.strip().lower()
    return None if word in UNKNOWN else word in PRESENT or word in ABSENT


def presence(cell: str) -> bool | None:
    """Return present, absent, or None for unknown. Raises InputError for another text."""
    word = cell.strip().lower()
    if word in PRESENT:
        return True
    if word in ABSENT:
        return False
    if word in UNKNOWN:
        return None
    raise InputError(f"the finding {cell!r}: expected 1, 0, yes, no, true, false, positive, negative, or -1 or nothing")


def label_text(cell: str) -> str:
    """Return a label with single blanks and whole numbers without `.0`; empty if the cell says that it is unknown."""
    text = " ".join(cell.split())
    if text.lower() in UNKNOWN:
        return ""
    return text[:-2] if re.fullmatch(r"[0-9]+\.0", text) else text


def patient_text(cell: str) -> str:
    """Return a patient's name, of a spreadsheet's `61.0` as `61`; empty for a word that replaces a removed name."""
    text = cell.strip()
    if text.lower().rstrip("^") in _NAMELESS | _NOTHING:
        return ""
    return text[:-2] if re.fullmatch(r"[0-9]+\.0", text) else text


def side(cell: str) -> Side | None:
    """Return the side of a split; None for an empty cell. Raises InputError for another text."""
    word = cell.strip().lower()
    if word in _NOTHING:
        return None
    if word not in SPLIT_WORDS:
        raise InputError(f"the split {cell!r}: expected {', '.join(SPLIT_WORDS)} or nothing")
    return SPLIT_WORDS[word]


def age_years(cell: str) -> float | None:
    """Return the age, of `43`, `043Y`, `18M` or `43 years`; None if unknown. Raises InputError for another text."""
    text = _YEARS.sub("", cell.strip())
    return None if text.lower() in UNKNOWN else required_age(text)


def sex(cell: str) -> str:
    """Return F or M; empty if unknown or other. Raises InputError for another text."""
    return "" if cell.strip().lower() in UNKNOWN | _NO_SEX else required_sex(cell)
