"""Strict reading of TOML: a file or table in, dataclasses out; unknown and missing keys are errors."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar

from cxr_edge.errors import CxrEdgeError, InputError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["Kind", "check_keys", "made_of", "read_toml", "table_of"]


Kind = TypeVar("Kind")


def read_toml(file: Path) -> dict[str, Any]:
    """The values of a TOML file, over those of the file beside it that its key `extends` names, table by table.

    Raises InputError for a file that cannot be read, and for one that is extended and extends another.
    """
    values = _parsed(file)
    base = values.pop("extends", None)
    if base is None:
        return values
    if not isinstance(base, str) or "extends" in (below := _parsed(file.parent / base)):
        raise InputError(
            f"{file}: extends is the name of one configuration in the same folder, which extends no other; got {base!r}: "
            "name the file that holds all the rest"
        )
    return _merged(below, values)


def _parsed(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"the configuration {file} cannot be read: {error}") from error


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    tables = {k for k in above if isinstance(above[k], dict) and isinstance(below.get(k), dict)}
    return {**below, **above, **{k: _merged(below[k], above[k]) for k in tables}}


def table_of(kind: type[Kind], values: Mapping[str, Any], where: str) -> Kind:
    """A table of the file as a dataclass; lists become tuples. Raises InputError for keys or values that mean nothing, and for
    keys that are missing."""
    check_keys(values, kind, where)
    needed = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]  # type: ignore[arg-type]
    if missing := [name for name in needed if name not in values]:
        raise InputError(f"{where}: {', '.join(missing)} is missing: give every table its {' and '.join(needed)}")
    return made_of(lambda: kind(**{k: _frozen(v) for k, v in values.items()}), where)


def _frozen(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_frozen(v) for v in value)
    return {k: _frozen(v) for k, v in value.items()} if isinstance(value, dict) else value


def made_of(make: Callable[[], Kind], where: str) -> Kind:
    try:
        return make()
    except (TypeError, ValueError, CxrEdgeError) as error:
        raise InputError(f"{where}: {error}") from error


def check_keys(values: Mapping[str, Any], kind: type, where: str) -> None:
    known = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    if set(values) - set(known):
        raise InputError(f"{where}: unknown keys {sorted(set(values) - set(known))}; known are {sorted(known)}")
