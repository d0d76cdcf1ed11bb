"""Strict reading of JSON from outside: text in, Python values or an error that names the key by its path out.

The manifest is written by one machine and read by another, so nothing in it is taken on trust: no unknown, missing or
doubled key, no NaN, no number where a text belongs. `FieldError` collects the path on its way up
(`members[1].preprocess.crop_px`), so that the code that finds a fault need not know where in the file it stands.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, TypeVar, cast

from cxr_edge.errors import BundleError

__all__ = [
    "FieldError",
    "each",
    "exactly",
    "field_names",
    "inside",
    "is_number",
    "is_share",
    "nested",
    "parse",
    "require",
    "require_integer",
    "require_number",
    "require_object",
    "require_shape",
    "require_text",
    "show",
]

Value = TypeVar("Value")

_SHOWN_CHARACTERS = 80
_MAX_TEXT = 10_000


class FieldError(BundleError):
    """A key of the manifest whose value cannot be used. key: its path, empty for the whole file."""

    def __init__(self, key: str, complaint: str) -> None:
        super().__init__(f"manifest.json: {key or 'the whole file'} {complaint}")
        self.key = key
        self.complaint = complaint

    def within(self, prefix: str) -> FieldError:
        """The same complaint, seen from the object that holds this one under `prefix`."""
        joint = "" if not self.key or self.key.startswith("[") else "."
        return FieldError(f"{prefix}{joint}{self.key}", self.complaint)


@contextmanager
def inside(key: str) -> Iterator[None]:
    """Put `key` before the path of any FieldError raised in the block."""
    try:
        yield
    except FieldError as error:
        raise error.within(key) from None


def parse(text: bytes) -> Any:
    """JSON in UTF-8 as Python values. Raises FieldError for what is not JSON, a doubled key, NaN or infinity."""
    try:
        return json.loads(text.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except FieldError:
        raise
    except (ValueError, RecursionError) as error:
        raise FieldError("", f"must be JSON in UTF-8, got {type(error).__name__}: {error}") from None


def exactly(value: object, keys: Collection[str]) -> dict[str, Any]:
    """A copy of `value`, an object that has these keys and no others."""
    found = dict(require_object(value, ""))
    unknown, missing = sorted(set(found) - set(keys)), sorted(set(keys) - set(found))
    if unknown:
        name = unknown[0] if unknown[0].isprintable() and len(unknown[0]) <= _SHOWN_CHARACTERS else show(unknown[0])
        raise FieldError(name, f"is not a key of this format; known here: {', '.join(sorted(keys))}")
    if missing:
        raise FieldError(missing[0], "is missing")
    return found


def nested(fields: Mapping[str, Any], key: str, read: Callable[[Any], Value]) -> Value:
    """What `read` makes of the value under `key`."""
    with inside(key):
        return read(fields[key])


def each(fields: Mapping[str, Any], key: str, read: Callable[[Any], Value] = lambda item: item) -> tuple[Value, ...]:
    """What `read` makes of every item of the list under `key`."""
    values = fields[key]
    require(isinstance(values, list), key, "a list", values)
    read_values = []
    for i, value in enumerate(values):
        with inside(f"{key}[{i}]"):
            read_values.append(read(value))
    return tuple(read_values)


def require(holds: bool, key: str, expected: str, came: object) -> None:
    """Raise a FieldError that says what was expected and what came, unless it holds."""
    if not holds:
        raise FieldError(key, f"must be {expected}, got {show(came)}")


def require_object(value: object, key: str) -> dict[str, Any]:
    """`value` as an object with text keys."""
    require(isinstance(value, dict) and all(isinstance(k, str) for k in value), key, "an object", value)
    return cast("dict[str, Any]", value)


def require_text(value: object, key: str, *, longest: int = _MAX_TEXT) -> None:
    """A text that is not blank and has no control characters but line ends and tabs."""
    good = isinstance(value, str) and value.strip() and len(value) <= longest
    good = good and all(c.isprintable() or c in "\n\t" for c in str(value))
    require(bool(good), key, f"a printable text of 1 to {longest} characters", value)


def require_integer(value: object, key: str, *, least: int) -> None:
    """A whole number of at least `least`; true and 1.0 are none."""
    good = isinstance(value, int) and not isinstance(value, bool) and value >= least
    require(good, key, f"a whole number, {least} or more", value)


def require_number(value: object, key: str, expected: str, holds: Callable[[float], bool]) -> None:
    """A finite number for which `holds`; `expected` says so in words."""
    require(is_number(value) and holds(float(cast(float, value))), key, expected, value)


def require_shape(value: object, key: str, shape: tuple[int | None, ...]) -> tuple[int, ...]:
    """Nested lists of finite numbers of that shape, None for any length of 1 or more. Returns the lengths."""
    if not shape:
        require(is_number(value), key, "a finite number", value)
        return ()
    length = shape[0]
    expected = "a list that is not empty" if length is None else f"a list of {length}"
    good = isinstance(value, list | tuple) and len(value) > 0 and length in (None, len(value))
    require(good, key, expected, f"{len(value)} items" if isinstance(value, list | tuple) else value)
    items = cast("Sequence[object]", value)
    inner: tuple[int | None, ...] = shape[1:]
    for i, item in enumerate(items):
        with inside(f"{key}[{i}]"):
            inner = require_shape(item, "", inner)  # from the second item on, as long as the first
    return (len(items), *cast("tuple[int, ...]", inner))


def is_number(value: object) -> bool:
    """True for a finite JSON number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer too long for a float
        return False


def show(value: object) -> str:
    """`value` as an error message shows it: JSON where it can, cut where it is long."""
    try:
        text = json.dumps(value, ensure_ascii=True)
    except (TypeError, ValueError, RecursionError):
        text = ascii(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 3]}..."


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise FieldError("", f"must give each key of an object once, got {show(key)} twice")
        found[key] = value
    return found


def _no_constant(name: str) -> Any:
    raise FieldError("", f"must hold finite numbers, got {name}")


def field_names(cls: Any) -> list[str]:
    """The fields of a dataclass: the keys that its JSON object has."""
    return [f.name for f in fields(cls)]


def is_share(value: float) -> bool:
    """Whether a number is from 0 to 1."""
    return 0 <= value <= 1
