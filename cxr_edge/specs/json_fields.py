"""Strict validation of JSON input: text in; Python values or an error with the path of the invalid key out.

The manifest is written on one machine and read on another, so everything is checked: no unknown, missing or duplicate key,
no NaN, no number in place of a text. `FieldError` collects the path on its way up (`members[1].preprocess.crop_px`), so that
the code that finds an error need not know its position in the file.
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
    "error_prefix",
    "field_names",
    "is_number",
    "is_share",
    "parse",
    "read_field",
    "read_list",
    "require",
    "require_integer",
    "require_keys",
    "require_number",
    "require_object",
    "require_shape",
    "require_text",
    "show",
]

Value = TypeVar("Value")

_MAX_SHOWN = 80
_MAX_TEXT = 10_000


class FieldError(BundleError):
    """A key of the manifest with an invalid value."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(f"manifest.json: {key or 'the whole file'} {message}")
        self.key = key  # its path; empty for the file itself
        self.message = message

    def within(self, prefix: str) -> FieldError:
        """Return the same error with `prefix` before the key."""
        joint = "" if not self.key or self.key.startswith("[") else "."
        return FieldError(f"{prefix}{joint}{self.key}", self.message)


@contextmanager
def error_prefix(key: str) -> Iterator[None]:
    """Add `key` before the path of a FieldError raised in the block."""
    try:
        yield
    except FieldError as error:
        raise error.within(key) from None


def parse(text: bytes) -> Any:
    """Parse JSON in UTF-8. Raises FieldError for invalid JSON, a duplicate key, NaN or infinity."""
    try:
        return json.loads(text.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except FieldError:
        raise
    except (ValueError, RecursionError) as error:
        raise FieldError("", f"must be JSON in UTF-8, got {type(error).__name__}: {error}") from None


def require_keys(value: object, keys: Collection[str]) -> dict[str, Any]:
    """Return a copy of `value`, an object with exactly these keys."""
    found = dict(require_object(value, ""))
    unknown, missing = sorted(set(found) - set(keys)), sorted(set(keys) - set(found))
    if unknown:
        name = unknown[0] if unknown[0].isprintable() and len(unknown[0]) <= _MAX_SHOWN else show(unknown[0])
        raise FieldError(name, f"is not a key of this format; known here: {', '.join(sorted(keys))}")
    if missing:
        raise FieldError(missing[0], "is missing")
    return found


def read_field(fields: Mapping[str, Any], key: str, read: Callable[[Any], Value]) -> Value:
    """Return `read` applied to the value under `key`."""
    with error_prefix(key):
        return read(fields[key])


def read_list(
    fields: Mapping[str, Any], key: str, read: Callable[[Any], Value] = lambda item: item
) -> tuple[Value, ...]:
    """Return `read` applied to every item of the list under `key`."""
    values = fields[key]
    require(isinstance(values, list), key, "a list", values)
    read_values = []
    for i, value in enumerate(values):
        with error_prefix(f"{key}[{i}]"):
            read_values.append(read(value))
    return tuple(read_values)


def require(holds: bool, key: str, expected: str, actual: object) -> None:
    """Raise a FieldError with the expected and the actual value, unless `holds`."""
    if not holds:
        raise FieldError(key, f"must be {expected}, got {show(actual)}")


def require_object(value: object, key: str) -> dict[str, Any]:
    """Return `value`, an object with text keys."""
    require(isinstance(value, dict) and all(isinstance(k, str) for k in value), key, "an object", value)
    return cast("dict[str, Any]", value)


def require_text(value: object, key: str, *, longest: int = _MAX_TEXT) -> None:
    """Require a text that is not blank and has no control characters except line ends and tabs."""
    valid = isinstance(value, str) and value.strip() and len(value) <= longest
    valid = valid and all(c.isprintable() or c in "\n\t" for c in str(value))
    require(bool(valid), key, f"a printable text of 1 to {longest} characters", value)


def require_integer(value: object, key: str, *, least: int) -> None:
    """Require an integer of at least `least`; true and 1.0 are not integers."""
    valid = isinstance(value, int) and not isinstance(value, bool) and value >= least
    require(valid, key, f"a whole number, {least} or more", value)


def require_number(value: object, key: str, expected: str, holds: Callable[[float], bool]) -> None:
    """Require a finite number for which `holds` is true; `expected` describes it."""
    require(is_number(value) and holds(float(cast(float, value))), key, expected, value)


def require_shape(value: object, key: str, shape: tuple[int | None, ...]) -> tuple[int, ...]:
    """Require nested lists of finite numbers of that shape, None for any length of 1 or more. Returns the lengths."""
    if not shape:
        require(is_number(value), key, "a finite number", value)
        return ()
    length = shape[0]
    expected = "a list that is not empty" if length is None else f"a list of {length}"
    valid = isinstance(value, list | tuple) and len(value) > 0 and length in (None, len(value))
    require(valid, key, expected, f"{len(value)} items" if isinstance(value, list | tuple) else value)
    items = cast("Sequence[object]", value)
    inner: tuple[int | None, ...] = shape[1:]
    for i, item in enumerate(items):
        with error_prefix(f"{key}[{i}]"):
            inner = require_shape(item, "", inner)  # later items must be as long as the first
    return (len(items), *cast("tuple[int, ...]", inner))


def is_number(value: object) -> bool:
    """Return True for a finite JSON number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer too long for a float
        return False


def show(value: object) -> str:
    """Format `value` for an error message: JSON if possible, shortened if long."""
    try:
        text = json.dumps(value, ensure_ascii=True)
    except (TypeError, ValueError, RecursionError):
        text = ascii(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 3]}..."


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
    """Return the field names of a dataclass, which are the keys of its JSON object."""
    return [f.name for f in fields(cls)]


def is_share(value: float) -> bool:
    """Return True for a number from 0 to 1."""
    return 0 <= value <= 1
