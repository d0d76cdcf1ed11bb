"""Records of screenings in the evidence log: a run, each screening or failure of it, its end; as dataclasses and as JSON.

Numbers are stored as Python prints them, which restores every float32 and float64 exactly. No name of a patient or a file is
stored unless the log was opened with `names`: inputs are identified by their SHA-256, names and UIDs by hashes with the site's
key.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, TypeVar

from cxr_edge.errors import InputError
from cxr_edge.evidence.lines import Line, require_digest
from cxr_edge.specs.json_fields import (
    FieldError,
    field_names,
    is_number,
    read_field,
    read_list,
    require,
    require_integer,
    require_keys,
    require_object,
)

__all__ = [
    "BundleRecord",
    "DroppedRecord",
    "EngineRecord",
    "FailureRecord",
    "InputRecord",
    "LibraryRecord",
    "MachineRecord",
    "RunEndRecord",
    "RunRecord",
    "ScreeningRecord",
    "SoftwareRecord",
    "read_record",
]

_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}

Kind = TypeVar("Kind")


@dataclass(frozen=True, kw_only=True)
class BundleRecord:
    """The bundle of a run."""

    name: str
    version: str
    sha256: str  # of its manifest, which has the SHA-256 of every other file
    counter: int  # of the release; 0 if it has none


@dataclass(frozen=True, kw_only=True)
class EngineRecord:
    """An engine of a run."""

    part: str
    precision: str
    sha256: str  # of its file; empty if it was not loaded from one


@dataclass(frozen=True, kw_only=True)
class LibraryRecord:
    """A Python package of a run."""

    version: str
    sha256: str  # of the list of its files with their SHA-256 that its installer wrote; empty if there is none


@dataclass(frozen=True, kw_only=True)
class SoftwareRecord:
    """The software of a run."""

    cxr_edge: str  # version
    code_sha256: str  # of the Python files of cxr_edge as they were at the start
    core_sha256: str  # of the native core's file
    python: str
    libraries: Mapping[str, LibraryRecord]  # by name


@dataclass(frozen=True, kw_only=True)
class MachineRecord:
    """The machine of a run."""

    host: str
    processor: str
    instruction_sets: str
    platform: str


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """Common to all screenings of a run. It is repeated in every file of the log that the run writes to."""

    kind: ClassVar[str] = "run"

    bundle: BundleRecord
    labels: tuple[str, ...]
    operating_point: str  # SHA-256 of thresholds and error budget
    backend: str
    execution: str  # the screener's description: precisions and execution mode
    engines: tuple[EngineRecord, ...]
    versions: Mapping[str, str]  # of the backend: runtime, driver, processor
    machine: MachineRecord
    software: SoftwareRecord
    options: Mapping[str, Any]  # by which the images were answered
    site_key: str  # id of the key of hashed names and UIDs
    signer: str  # id of the key of checkpoints; empty for none

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "labels": list(self.labels), "engines": [asdict(e) for e in self.engines]}

    @classmethod
    def from_json(cls, value: object) -> RunRecord:
        found = require_keys(value, field_names(cls))
        return cls(
            **{
                **found,
                "bundle": read_field(found, "bundle", lambda v: _plain(BundleRecord, v)),
                "labels": read_list(found, "labels"),
                "engines": read_list(found, "engines", lambda v: _plain(EngineRecord, v)),
                "versions": require_object(found["versions"], "versions"),
                "machine": read_field(found, "machine", lambda v: _plain(MachineRecord, v)),
                "software": read_field(found, "software", _software),
                "options": require_object(found["options"], "options"),
            }
        )


@dataclass(frozen=True, kw_only=True)
class InputRecord:
    """An input."""

    sha256: str  # of the file's bytes (of pixels in memory: of theirs); empty if it could not be read
    name: str  # its name's hash
    source: str | None = None  # its name, if the log has names
    uid: str | None = None  # hash of the SOP Instance UID; None without one
    format: str | None = None
    width_px: int | None = None
    height_px: int | None = None

    def __post_init__(self) -> None:
        require(isinstance(self.sha256, str), "sha256", "a text", self.sha256)
        require_digest(self.name, "name")


@dataclass(frozen=True, kw_only=True)
class DroppedRecord:
    """A member that did not answer."""

    member: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class ScreeningRecord:
    """A screening, to the last bit."""

    kind: ClassVar[str] = "screening"

    input: InputRecord
    outcome: str
    reason: str | None  # code
    decision: str | None  # None without an answer
    forced_decision: str
    findings: tuple[str, ...] | None
    prediction_set: tuple[str, ...] | None
    probabilities: tuple[float, ...]  # in the order of the run's labels
    members: Mapping[str, tuple[float, ...]]  # by name, each in the order of the labels
    roi: tuple[int, int, int, int]
    view: str
    view_estimated: bool
    checks: Mapping[str, float]
    flags: tuple[str, ...]  # codes
    times_ms: Mapping[str, float]
    dropped: tuple[DroppedRecord, ...] | None = None  # members that did not answer; None if all did

    def as_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "probabilities": [_number(p) for p in self.probabilities],
            "members": {name: [_number(p) for p in row] for name, row in self.members.items()},
            "checks": {name: _number(v) for name, v in self.checks.items()},
        }

    @classmethod
    def from_json(cls, value: object) -> ScreeningRecord:
        found = require_keys(value, field_names(cls))
        members = {k: tuple(map(_float, v)) for k, v in require_object(found["members"], "members").items()}
        return cls(
            **{
                **found,
                "input": read_field(found, "input", lambda v: _plain(InputRecord, v)),
                "findings": None if found["findings"] is None else read_list(found, "findings"),
                "prediction_set": None if found["prediction_set"] is None else read_list(found, "prediction_set"),
                "probabilities": read_list(found, "probabilities", _float),
                "members": members,
                "roi": read_list(found, "roi"),
                "checks": {k: _float(v) for k, v in require_object(found["checks"], "checks").items()},
                "flags": read_list(found, "flags"),
                "times_ms": require_object(found["times_ms"], "times_ms"),
                "dropped": None
                if found["dropped"] is None
                else read_list(found, "dropped", lambda v: _plain(DroppedRecord, v)),
            }
        )


@dataclass(frozen=True, kw_only=True)
class FailureRecord:
    """An input that failed."""

    kind: ClassVar[str] = "failure"

    input: InputRecord
    error: str  # the reason, without the input's name

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: object) -> FailureRecord:
        found = require_keys(value, field_names(cls))
        return cls(input=read_field(found, "input", lambda v: _plain(InputRecord, v)), error=str(found["error"]))


@dataclass(frozen=True, kw_only=True)
class RunEndRecord:
    """End of a run; a run that was killed has none."""

    kind: ClassVar[str] = "end"

    screenings: int
    failures: int
    complete: bool = field(default=True)  # False: an error or a signal ended it

    def __post_init__(self) -> None:
        require_integer(self.screenings, "screenings", least=0)
        require_integer(self.failures, "failures", least=0)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: object) -> RunEndRecord:
        return cls(**require_keys(value, field_names(cls)))


def read_record(line: Line) -> RunRecord | ScreeningRecord | FailureRecord | RunEndRecord | None:
    """Return the record of a screening's line; None of a line that the log writes about itself.

    Raises InputError for a record that this version does not know.
    """
    kinds = {k.kind: k for k in (RunRecord, ScreeningRecord, FailureRecord, RunEndRecord)}
    if line.kind not in kinds:
        return None
    try:
        return kinds[line.kind].from_json(line.record)
    except FieldError as error:
        raise InputError(
            f"line {line.number} of the evidence log cannot be read (record.{error.key} {error.message}): it was written by "
            "another version of cxr-edge, use that one"
        ) from None


def _plain(kind: type[Kind], value: object) -> Kind:
    return kind(**require_keys(value, field_names(kind)))


def _software(value: object) -> SoftwareRecord:
    found = require_keys(value, field_names(SoftwareRecord))
    libraries = require_object(found["libraries"], "libraries")
    return SoftwareRecord(**{**found, "libraries": {k: _plain(LibraryRecord, v) for k, v in libraries.items()}})


def _number(value: float) -> float | str:
    """Return the number as JSON can have it."""
    return value if math.isfinite(value) else repr(value)


def _float(value: object) -> float:
    if isinstance(value, str) and value in _NOT_FINITE:
        return _NOT_FINITE[value]
    require(is_number(value), "", "a number", value)
    return float(value)  # type: ignore[arg-type]
