"""State of a drift monitor in a file, so that it goes on from run to run: a monitor comes in, JSON goes out, and back.

The file is bound to the bundle by its digest, since other networks and another reference make other numbers. It holds statistics
of up to 4,200 exams and the beginnings of their pictures' SHA-256, no names. It is replaced in one step, complete or not at all.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from cxr_edge.drift import betting
from cxr_edge.drift.monitor import Alarm, DriftMonitor, Moved, Progress, Row
from cxr_edge.errors import InputError, OutputError
from cxr_edge.specs.json_fields import (
    FieldError,
    field_names,
    is_number,
    parse,
    read_field,
    read_list,
    require,
    require_integer,
    require_keys,
    require_shape,
    require_text,
)

__all__ = ["SCHEMA", "read_state", "write_state"]

SCHEMA = "cxr-edge-drift-state/1"

_MAX_BYTES = 64 * 1024 * 1024
_HEAD = ("schema", "bundle", "false_alarms", "seed", "names")
_START_AGAIN = "move it away, and the next run begins a new state"


def read_state(monitor: DriftMonitor, file: Path, *, digest: str) -> bool:
    """Let the monitor go on from the file. Returns False if there is none yet.

    digest: of the bundle. Raises InputError if the file belongs to another bundle, is damaged, or could not be written.
    """
    if not file.exists():
        if not file.absolute().parent.is_dir():
            raise InputError(
                f"{file.absolute().parent} is no folder: give a file in an existing one for the drift state"
            )
        return False
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise InputError(f"{file} has more than {_MAX_BYTES} bytes, it is no drift state: give another file")
        found = require_keys(parse(file.read_bytes()), [*_HEAD, *field_names(Progress)])
        require(found["schema"] == SCHEMA, "schema", SCHEMA, found["schema"])
        _check_owner(found, monitor, file, digest)
        monitor.restore(_progress(found, len(monitor.names)))
    except FieldError as error:
        raise InputError(f"{file}: {error.key or 'the whole file'} {error.message}; {_START_AGAIN}") from None
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}): check the path and its permissions") from None
    return True


def write_state(monitor: DriftMonitor, file: Path, *, digest: str) -> None:
    """Replace the file by the monitor's state. Raises OutputError; the old file then stays."""
    p = monitor.progress
    values = {name: getattr(p, name) for name in field_names(Progress)}
    arrays = {"wealth": p.wealth.tolist(), "highest": p.highest.tolist()}
    alarm = None if p.alarm is None else {k: v for k, v in asdict(p.alarm).items() if k != "source"}
    head = dict(zip(_HEAD, (SCHEMA, digest, monitor.false_alarms, monitor.seed, monitor.names), strict=True))
    text = json.dumps({**head, **values, **arrays, "alarm": alarm}, separators=(",", ":"), allow_nan=False)
    unfinished = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        unfinished.write_text(text + "\n", encoding="utf-8")
        unfinished.replace(file)
    except OSError as error:
        raise OutputError(f"the drift state could not be written to {file}: {error.strerror}") from None
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)


def _check_owner(found: dict[str, Any], monitor: DriftMonitor, file: Path, digest: str) -> None:
    if found["bundle"] != digest:
        raise InputError(
            f"{file} is the drift state of another bundle, or of another version of it: expected digest {digest[:12]}..., it has "
            f"{str(found['bundle'])[:12]}...; give another file, or {_START_AGAIN}"
        )
    own = (list(monitor.names), monitor.false_alarms, monitor.seed)
    require(
        (found["names"], found["false_alarms"], found["seed"]) == own, "names", "those of this monitor", found["names"]
    )


def _progress(found: dict[str, Any], count: int) -> Progress:
    for name in ("exams", "repeated", "epoch", "first"):
        require_integer(found[name], name, least=0)
    rows = read_list(found, "rows", lambda row: _row(row, count))
    within = found["first"] <= len(rows) <= found["first"] + betting.EPOCH_EXAMS
    require(within, "rows", f"a list of the epoch's exams after first = {found['first']}", len(rows))
    seen = read_list(found, "seen", _key)
    require(len(seen) == len(rows), "seen", f"a list of {len(rows)}, one of each row", len(seen))
    alarm_exams: tuple[Any, ...] = read_list(found, "alarm_exams")
    require_shape(alarm_exams, "alarm_exams", (count,))
    return Progress(
        **{name: found[name] for name in ("exams", "repeated", "epoch", "first")},
        rows=list(rows),
        seen=list(seen),
        wealth=_array(found, "wealth", (count, betting.prior().size)),
        highest=_array(found, "highest", (count,)),
        alarm_exams=[int(exam) for exam in alarm_exams],
        alarm=read_field(found, "alarm", _alarm),
    )


def _row(value: Any, count: int) -> Row:
    require_shape(value, "", (count,))
    return tuple(map(float, value))


def _key(value: Any) -> str:
    require(isinstance(value, str) and len(value) <= 64, "", "a text", value)
    return str(value)


def _array(found: dict[str, Any], key: str, shape: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.float64]]:
    require_shape(found[key], key, shape)
    values = np.array(found[key], dtype=np.float64)
    require(bool((values >= 0).all()), key, "numbers of 0 or more", float(values.min()))
    return values


def _alarm(value: Any) -> Alarm | None:
    if value is None:
        return None
    found = require_keys(value, ["exam", "moved"])
    require_integer(found["exam"], "exam", least=1)
    return Alarm(exam=found["exam"], moved=read_list(found, "moved", _moved))


def _moved(value: Any) -> Moved:
    found = require_keys(value, field_names(Moved))
    require_text(found["name"], "name", longest=200)
    for name in ("reference_median", "median", "above"):
        require(is_number(found[name]), name, "a finite number", found[name])
    return Moved(**found)
