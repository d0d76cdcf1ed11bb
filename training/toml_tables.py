"""Strict reading of TOML: a file or table in, dataclasses out; unknown and missing keys are errors."""

from __future__ import annotations

import json
import re
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

__all__ = ["Kind", "as_toml", "check_keys", "construct", "parse_table", "read_toml", "require_table"]


Kind = TypeVar("Kind")


def read_toml(file: Path) -> dict[str, Any]:
    """Read a TOML file, merged table by table over the file in the same folder that its key `extends` names.

    Raises InputError for an unreadable file, and if the extended file has `extends` itself.
    """
    values = _parse(file)
    base = values.pop("extends", None)
    if base is None:
        return values
    if not isinstance(base, str) or "extends" in (below := _parse(file.parent / base)):
        raise InputError(
            f"{file}: extends is the name of one configuration in the same folder, which extends no other; got {base!r}: "
            "name the file that holds the other values"
        )
    return _merge(below, values)


def _parse(file: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(f"the configuration {file} is not in UTF-8 (byte {error.start}): save it as UTF-8") from error
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"the configuration {file} cannot be read: {error}") from error
    return values


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    tables = {k for k in above if isinstance(above[k], dict) and isinstance(below.get(k), dict)}
    return {**below, **above, **{k: _merge(below[k], above[k]) for k in tables}}


def as_toml(values: Mapping[str, Any]) -> str:
    """Return tables as TOML, those of the first two levels with a heading each; None is left out.

    values: texts, numbers, switches, sequences, and tables of them. Raises TypeError for other values.
    """
    return "\n".join(_toml_lines(values, "")).strip() + "\n"


def _toml_lines(values: Mapping[str, Any], name: str) -> list[str]:
    level = name.count(".") + 1 if name else 0
    tables = {k: v for k, v in values.items() if isinstance(v, Mapping) and v and level < 2}
    lines = [f"{_toml(k)} = {_toml_value(v)}" for k, v in values.items() if k not in tables and v is not None]
    head = ["", f"[{name}]"] if name and (lines or not tables) else []
    return [
        *head,
        *lines,
        *(line for k, v in tables.items() for line in _toml_lines(v, f"{name}.{_toml(k)}" if name else _toml(k))),
    ]


def _toml_value(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{_toml(k)} = {_toml_value(v)}' for k, v in value.items() if v is not None)} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml_value, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if not isinstance(value, str):
        raise TypeError(f"{value!r} has no form in TOML")
    # JSON's escapes are TOML's, besides those of the delete character and of surrogates, which no TOML text can hold.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")


def _toml(key: str) -> str:
    return key if re.fullmatch("[A-Za-z0-9_-]+", key) else _toml_value(key)


def parse_table(kind: type[Kind], values: Mapping[str, Any], where: str) -> Kind:
    """Return a table of the file as a dataclass; lists become tuples.

    where: file and table, for messages. Raises InputError for unknown or missing keys and for invalid values.
    """
    require_table(values, where)
    check_keys(values, kind, where)
    needed = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]  # type: ignore[arg-type]
    if missing := [name for name in needed if name not in values]:
        raise InputError(f"{where}: {', '.join(missing)} is missing: give every table its {' and '.join(needed)}")
    return construct(lambda: kind(**{k: _to_tuples(v) for k, v in values.items()}), where)


def _to_tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_to_tuples(v) for v in value)
    return {k: _to_tuples(v) for k, v in value.items()} if isinstance(value, dict) else value


def construct(make: Callable[[], Kind], where: str) -> Kind:
    """Call `make`; raise its errors as InputError that begins with `where`."""
    try:
        return make()
    except (TypeError, ValueError, CxrEdgeError) as error:
        raise InputError(f"{where}: {error}") from error


def require_table(values: object, where: str) -> None:
    """Raise InputError if `values` is no table, such as `search = 3` in place of `[search]`."""
    if not isinstance(values, Mapping):
        raise InputError(f"{where} is a table ([{where.rpartition(' ')[2]}] with keys below it), got {values!r}")


def check_keys(values: Mapping[str, Any], kind: type, where: str) -> None:
    """Raise InputError for keys that are not fields of the dataclass `kind`."""
    known = [f.name for f in fields(kind)]
    if set(values) - set(known):
        raise InputError(f"{where}: unknown keys {sorted(set(values) - set(known))}; known are {sorted(known)}")
