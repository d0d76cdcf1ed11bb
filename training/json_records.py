"""Result files: frozen dataclasses in, JSON out, and back; a key of a file is a field of a class, which mypy checks.

A field is a key of the same name, in the order of the class; NaN becomes null. Metadata of a field: `ROUNDED` to six digits;
`OPTIONAL`, absent from the file where it is None; `named(KEY)`, with another key; `formerly(KEY)`, which earlier versions wrote;
`spread(PREFIX)`, a mapping with a key of the object per item. A field with a default may be missing in files of earlier versions.
"""

from __future__ import annotations

import json
import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from cxr_edge.errors import InputError
from training.shared_files import write_text

__all__ = [
    "OPTIONAL",
    "ROUNDED",
    "as_json",
    "as_stored",
    "formerly",
    "from_json",
    "named",
    "read_json",
    "spread",
    "write_json",
]

Kind = TypeVar("Kind")

ROUNDED: Mapping[str, Any] = {"digits": 6}
OPTIONAL: Mapping[str, Any] = {"optional": True}


def named(key: str) -> Mapping[str, Any]:
    """Return the metadata of a field with another key in the file."""
    return {"key": key}


def formerly(key: str, more: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the metadata of a field that had another key in files of earlier versions. more: further metadata."""
    return {"formerly": key, **more}


def spread(prefix: str = "") -> Mapping[str, Any]:
    """Return the metadata of a mapping whose items are keys of the object itself, each after `prefix`."""
    return {"prefix": prefix}


def as_json(value: Any) -> Any:
    """Return a record, or a mapping or sequence of records, as JSON values."""
    if is_dataclass(value) and not isinstance(value, type):
        own = getattr(value, "as_json", None)
        return own() if own is not None else _fields_as_json(value)
    if isinstance(value, Mapping):
        return {k: as_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(v) for v in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _fields_as_json(record: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for f in fields(record):
        value = as_json(getattr(record, f.name))
        if "prefix" in f.metadata:
            found |= {f"{f.metadata['prefix']}{k}": v for k, v in value.items()}
        elif value is not None or not f.metadata.get("optional"):
            rounded = value is not None and "digits" in f.metadata
            found[_key(f)] = round(value, f.metadata["digits"]) if rounded else value
    return found


def as_stored(record: Kind) -> Kind:
    """Return a record with its values as a file holds them, so that a page is the same from memory and from the file."""
    return from_json(type(record), as_json(record))


def write_json(file: Path, record: Any) -> None:
    """Write a record to `file`; creates its folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(as_json(record), indent=1) + "\n")


def read_json(kind: type[Kind], file: Path) -> Kind:
    """Read a record from `file`. Raises InputError for a missing file and for other content."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read: {error}; run the command that writes it") from None
    return from_json(kind, value, f"{file}: ")


def from_json(kind: type[Kind], value: Any, where: str = "") -> Kind:
    """Return JSON values as a record. Keys that `kind` lacks are ignored.

    kind: a dataclass with fields of JSON's types, other dataclasses, and mappings, tuples and unions of them with None.
    where: position, for errors. Raises InputError for a missing key and for a value of another type.
    """
    return cast(Kind, _read(kind, value, where))


def _read(kind: Any, value: Any, where: str) -> Any:
    origin, arms = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return None if value is None else _read(next(a for a in arms if a is not type(None)), value, where)
    if origin is Literal:
        return _checked(value, value in arms, where, f"one of {arms}")
    if origin is tuple:
        return _read_items(arms, _checked(value, isinstance(value, list), where, "a list"), where)
    if origin is not None:  # a mapping
        pairs = _checked(value, isinstance(value, dict), where, "an object").items()
        return {k: _read(arms[1], v, f"{where}{k}.") for k, v in pairs}
    if is_dataclass(kind):
        own = getattr(kind, "from_json", None)
        content = _checked(value, isinstance(value, dict), where, "an object")
        return own(content, where) if own is not None else _read_fields(kind, content, where)
    if kind is float and value is None:
        return math.nan
    accepted = (int, float) if kind is float else kind
    holds = kind is Any or (isinstance(value, accepted) and isinstance(value, bool) == (kind is bool))
    return _checked(value, holds, where, "another value" if kind is Any else kind.__name__)


def _read_items(arms: tuple[Any, ...], values: list[Any], where: str) -> tuple[Any, ...]:
    kinds = [arms[0]] * len(values) if arms[-1] is Ellipsis else arms
    _checked(values, len(values) == len(kinds), where, f"{len(kinds)} items")
    return tuple(_read(k, v, f"{where}{i}.") for i, (k, v) in enumerate(zip(kinds, values, strict=True)))


def _read_fields(kind: Any, content: Mapping[str, Any], where: str) -> Any:
    found, plain = {}, {_key(f) for f in fields(kind) if "prefix" not in f.metadata}
    for f in fields(kind):
        key, prefix = _key(f), f.metadata.get("prefix")
        if prefix is not None:
            given = {k.removeprefix(prefix): v for k, v in content.items() if k.startswith(prefix) and k not in plain}
        elif (key := key if key in content else f.metadata.get("formerly", key)) in content:
            given = content[key]
        elif f.default is MISSING and f.default_factory is MISSING:
            raise InputError(f"{where}{key} is missing: make the file again with this version")
        else:
            continue
        found[f.name] = _read(_hints(kind)[f.name], given, where if prefix is not None else f"{where}{key}.")
    return kind(**found)


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _key(f: Field[Any]) -> str:
    return str(f.metadata.get("key", f.name))


def _checked(value: Any, holds: bool, where: str, expected: str) -> Any:
    if not holds:
        raise InputError(
            f"{where.rstrip('.')}: expected {expected}, got {str(value)[:80]!r}: make the file again with this version"
        )
    return value
