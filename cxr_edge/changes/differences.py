"""Differences of two JSON values, leaf by leaf: two values in, the path, old and new value of each difference out.

Every key of two manifests is compared through this module, so that a key which nobody thought of is shown too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from re import Pattern
from typing import Any

__all__ = ["ABSENT", "Change", "differences", "value_text"]

ABSENT = "absent"
_MAX_TEXT = 100
_MAX_OBJECT = 400
_DIGEST_SHOWN = 12
_DIGEST_LENGTH = 64


class _Absent:
    """Value of a key that one side does not have."""

    def __repr__(self) -> str:
        return ABSENT


_NONE = _Absent()
_NEVER = re.compile("(?!)")


@dataclass(frozen=True, kw_only=True)
class Change:
    """One difference."""

    key: str  # its path: `decision.thresholds.covid-19`
    words: str  # what it is, in words; empty: as the key says
    old: Any  # JSON value; ABSENT where there is none
    new: Any

    def lines(self) -> list[str]:
        """Return the difference as text, long texts one below the other and whole."""
        name = self.words or self.key
        if any(isinstance(v, str) and len(v) > _MAX_TEXT for v in (self.old, self.new)):
            return [f"{name}:", f"  old: {_one_line(self.old)}", f"  new: {_one_line(self.new)}"]
        return [f"{name}: {value_text(self.old)} -> {value_text(self.new)}"]

    def as_json(self) -> dict[str, Any]:
        return {"key": self.key, "words": self.words, "old": self.old, "new": self.new}


def differences(old: Any, new: Any, key: str = "", whole: Pattern[str] = _NEVER) -> Iterator[Change]:
    """Yield the differences of two JSON values; objects are compared key by key, anything else as a whole.

    whole: keys of objects that are one difference, not one by key, where the other side has none.
    """
    if not whole.fullmatch(key):
        old, new = (_opened(value, other) for value, other in ((old, new), (new, old)))
    if isinstance(old, dict) and isinstance(new, dict):
        for name in dict.fromkeys((*old, *new)):
            path = f"{key}.{name}" if key else name
            yield from differences(old.get(name, _NONE), new.get(name, _NONE), path, whole)
    elif not _same(old, new):
        yield Change(key=key, words="", old=_shown(old), new=_shown(new))


def _opened(value: Any, other: Any) -> Any:
    """Return an empty object in place of a value that is absent where the other side has an object with keys."""
    return {} if value is _NONE and isinstance(other, dict) and other else value


def _same(old: Any, new: Any) -> bool:
    """Return True for equal values; true is not 1, but 1 is 1.0."""
    kinds = [float if type(value) is int else type(value) for value in (old, new)]
    return kinds[0] is kinds[1] and bool(old == new)


def value_text(value: Any) -> str:
    """Format a value for a line of text: digests and long lists are shortened, JSON has them whole."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"
    if isinstance(value, dict):
        return _shortened(", ".join(f"{k} {value_text(v)}" for k, v in value.items()) or "none", _MAX_OBJECT)
    if isinstance(value, list | tuple):
        text = ", ".join(map(value_text, value)) or "none"
    else:
        text = str(value)
        is_digest = len(text) == _DIGEST_LENGTH and set(text) <= set("0123456789abcdef")
        return text[:_DIGEST_SHOWN] if is_digest else _shortened(text)
    return _shortened(text)


def _one_line(value: Any) -> str:
    return " ".join(str(value).split())


def _shortened(text: str, longest: int = _MAX_TEXT) -> str:
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def _shown(value: Any) -> Any:
    return ABSENT if value is _NONE else value
