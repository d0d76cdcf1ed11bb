"""Typed access to DICOM elements: a keyword in, its value out, or an InputError that names the element.

It exists because vendors write numbers and codes in non-standard forms: those that are unambiguous are accepted, and noted so
that the result has a flag. Free text never appears in messages, since it may name a patient.
"""

from __future__ import annotations

import re
from typing import Any

from pydicom.datadict import tag_for_keyword

from cxr_edge.decoding.dicom_elements import Elements, element_name
from cxr_edge.errors import InputError
from cxr_edge.records import Flag

__all__ = ["Header"]

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(nan|inf|infinity)", re.IGNORECASE)
# A comma before exactly three digits may also separate thousands.
_DECIMAL_COMMA = re.compile(r"[+-]?(\d+,(\d{1,2}|\d{4,})|\d{4,},\d{3}|0,\d{3})")
_NUMBER_CHARACTERS = frozenset("0123456789.,+-eE[]() \\")
_TEXT_VRS = (None, "DS", "IS", "UN", "CS", "SH", "LO", "ST", "LT", "UT")


class Header:
    """Elements of one file. `note` collects deviations from the standard that were accepted."""

    def __init__(self, elements: Elements) -> None:
        self.elements = elements
        self._dataset = elements.dataset
        self._notes: list[str] = []

    def __contains__(self, keyword: str) -> bool:
        return keyword in self._dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def note(self, text: str) -> None:
        """Add a deviation from the standard, once."""
        if text not in self._notes:
            self._notes.append(text)

    def flags(self) -> tuple[Flag, ...]:
        """Return the flag `nonconforming` if there are notes."""
        if not self._notes:
            return ()
        message = f"the file deviates from the DICOM standard and was still read: {'; '.join(self._notes)}"
        return (Flag(code="nonconforming", message=message),)

    def codes(self, keyword: str) -> list[str]:
        """Return the values of a coded element in capitals, each at most 32 letters, digits and spaces; empty if missing."""
        value = self._value(keyword)
        values = value if isinstance(value, (list, tuple)) or type(value).__name__ == "MultiValue" else [value]
        return [_code(v) for v in values if not _is_empty(v)]

    def code(self, keyword: str) -> str:
        """Return the first coded value, "" if there is none."""
        return next(iter(self.codes(keyword)), "")

    def text(self, keyword: str) -> str:
        """Return a text value without its padding, "" if it is missing, has several values or cannot be read."""
        try:
            value = self._value(keyword)
        except InputError:
            return ""
        return value.strip(" \0") if isinstance(value, str) else ""

    def integer(self, keyword: str, default: int | None = None) -> int:
        """Return an integer, or `default` if it is missing or empty. Raises InputError naming the element."""
        value = self._value(keyword)
        if _is_empty(value):
            if default is None:
                raise InputError(f"{self.name(keyword)} is missing from the DICOM header: export the file again")
            return default
        try:
            return int(value)
        except (TypeError, ValueError, OverflowError):
            raise self._invalid(keyword, "expected a whole number") from None

    def word(self, keyword: str) -> int | None:
        """Return a 16-bit word, signed or not as the file stores it; None if it is missing or empty."""
        value = self._value(keyword)
        if isinstance(value, bytes) and len(value) == 2:  # an element of unknown value representation
            return int.from_bytes(value, "little" if self.elements.little_endian else "big")
        return None if _is_empty(value) else self.integer(keyword)

    def numbers(self, keyword: str) -> list[float]:
        """Return the values of a decimal or integer string (PS3.5 6.2: DS, IS). Accept and note brackets and decimal commas."""
        raw = self._raw(keyword)
        if raw is None:
            return []
        if not isinstance(raw, bytes):
            values = raw if isinstance(raw, (list, tuple)) or type(raw).__name__ == "MultiValue" else [raw]
            try:
                return [float(v) for v in values]
            except (TypeError, ValueError, OverflowError):
                raise self._invalid(keyword, "expected a number") from None
        text = raw.decode("latin-1").strip(" \0\t\r\n")
        plain = text.strip("[](){}'\" ")
        parts = re.split(r"\\|,\s+" if plain != text else r"\\", plain)
        return [self._number(keyword, part, conforming=plain == text) for part in parts if part.strip(" \0")]

    def number(self, keyword: str, default: float) -> float:
        """Return the first of `numbers`, or the default."""
        return next(iter(self.numbers(keyword)), default)

    def items(self, keyword: str) -> list[Any]:
        """Return the items of a sequence; empty if it is missing."""
        value = self._value(keyword)
        if value is None:
            return []
        if type(value).__name__ != "Sequence":
            raise self._invalid(keyword, "expected a sequence")
        return list(value)

    def value_of(self, item: Any, sequence: str, keyword: str) -> Any:
        """Return an element of a sequence item, None if it is missing or empty."""
        try:
            value = item.get(keyword)
        except Exception:  # as in `_value`
            raise self._invalid(sequence, f"its {keyword} cannot be read") from None
        return None if _is_empty(value) else value

    @staticmethod
    def name(keyword: str) -> str:
        """Return keyword and tag for messages, as in `Rows (0028,0010)`."""
        return element_name(int(tag_for_keyword(keyword) or 0))

    def _number(self, keyword: str, text: str, *, conforming: bool) -> float:
        plain = text.strip(" \0[](){}'\"")
        if _DECIMAL_COMMA.fullmatch(plain):
            plain = plain.replace(",", ".")
        if not _NUMBER.fullmatch(plain):
            raise self._invalid(keyword, "expected a number", text.encode("latin-1"))
        if not conforming or plain != text.strip(" \0"):
            self.note(f"{self.name(keyword)} is not in the standard format and was read as {plain}")
        return float(plain)

    def _raw(self, keyword: str) -> Any:
        """Return the bytes of a text value, or the converted value if it is stored as binary numbers."""
        try:
            item: Any = self._dataset.get_item(tag_for_keyword(keyword))
        except Exception:  # as in `_value`
            raise self._invalid(keyword, "it cannot be read") from None
        if item is None or _is_empty(item.value):
            return None
        if getattr(item, "is_raw", False) and item.VR in _TEXT_VRS:
            return item.value
        return self._value(keyword)

    def _value(self, keyword: str) -> Any:
        try:
            return self._dataset.get(keyword)
        except Exception:  # pydicom converts on access and raises as its parser does, quoting values
            raise self._invalid(keyword, "it cannot be read") from None

    def _invalid(self, keyword: str, reason: str, raw: bytes = b"") -> InputError:
        # Digits and signs only, since letters may be free text.
        shown = "".join(c if c in _NUMBER_CHARACTERS else "?" for c in raw[:24].decode("latin-1")).strip()
        got = f", got {shown!r}" if shown else ""
        return InputError(f"{self.name(keyword)} of the DICOM header is invalid ({reason}{got}): export the file again")


def _is_empty(value: Any) -> bool:
    return value is None or (hasattr(value, "__len__") and len(value) == 0)


def _code(value: object) -> str:
    return "".join(c for c in str(value).upper().strip()[:32] if c.isascii() and (c.isalnum() or c in " _-"))
