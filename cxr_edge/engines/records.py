"""JSON records beside built engines: the side-car of each engine file, build.json and measured.json of each folder.

Also the `BuildSettings` that build.json stores, which are the options of `cxr-edge build-engine` too: a new option is one
field here and the code that uses it. Records are read strictly: unknown or missing keys, or another schema, raise
ValueError.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from cxr_edge.backends.base import GpuOptions, option
from cxr_edge.errors import InputError
from cxr_edge.specs.budget import OperatingPoint
from cxr_edge.specs.degraded import ModePoint
from cxr_edge.specs.json_fields import FieldError, is_number, is_share, read_list

__all__ = [
    "BUILD_FILE",
    "MEASURED_FILE",
    "PRECISION_CHOICES",
    "BuildRecord",
    "BuildSettings",
    "Measured",
    "PrecisionChoice",
    "SideCar",
]

BUILD_FILE = "build.json"
MEASURED_FILE = "measured.json"

PrecisionChoice = Literal["auto", "fp32", "fp16", "bf16", "int8"]
PRECISION_CHOICES: tuple[str, ...] = get_args(PrecisionChoice)

_ENGINE_SCHEMA = "cxr-edge-engine/1"
_MEASURED_SCHEMA = "cxr-edge-measured/1"
_BUILD_SCHEMA = "cxr-edge-build/3"
# Without an operating point: its engines are refused, and a rebuild repeats its settings.
_BUILD_SCHEMA_2 = "cxr-edge-build/2"

Options = TypeVar("Options")


@dataclass(frozen=True, kw_only=True)
class SideCar:
    """Record of one engine file: what it was built from, for and with."""

    part: str  # name of the network
    precision: str
    backend: str
    bundle_sha256: str | None  # None for a network built without a bundle
    onnx_sha256: str
    engine_sha256: str
    preprocess_sha256: str
    versions: Mapping[str, str]  # of the backend, from `Backend.versions`
    threads: int
    created: str  # UTC, ISO 8601
    cxr_edge: str  # version
    gate: Mapping[str, Any]  # figures of the parity check, for people
    portable: Sequence[str] = ()  # keys of `versions` that may differ where the engine runs

    def write(self, path: Path) -> None:
        """Write the JSON file."""
        path.write_text(json.dumps({"schema": _ENGINE_SCHEMA, **asdict(self)}, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> SideCar:
        """Read a file that `write` wrote. Raises ValueError if it is none."""
        return cls(**_read_json(path, _ENGINE_SCHEMA, _names(cls)))


@dataclass(frozen=True, kw_only=True)
class BuildSettings:
    """Build settings that determine the engines; stored in build.json so that a rebuild repeats them.

    Each field is the `build-engine` option of the same name. Raises InputError for a value out of range.
    """

    precision: PrecisionChoice = field(
        default="auto",
        metadata=option(
            "auto (default) tries every precision of the backend; one of less than 32 bits that the gate rejects is "
            "tried again with its most sensitive layers in fp32"
        ),
    )
    calibration: Path | None = field(
        default=None,
        metadata=option(
            "X-rays to measure int8 ranges and compare engines on (default: the ranges and synthetic images of the "
            "bundle); files in sub-folders named like the labels count as labelled",
            "DIR",
        ),
    )
    images: int = field(default=200, metadata=option("use at most N files of --calibration (%(default)s)", "N"))
    max_loss: float = field(
        default=0.01,
        metadata=option("share of decisions, and of AUC, that may be lost against fp32 (%(default)s)", "X"),
    )
    gpu: GpuOptions = field(default_factory=GpuOptions)

    def __post_init__(self) -> None:
        if self.precision not in PRECISION_CHOICES:
            raise InputError(f"precision is one of {', '.join(PRECISION_CHOICES)}, got {self.precision!r}")
        if not 0.0 < self.max_loss <= 1.0:
            raise InputError(f"max_loss is a share above 0 and at most 1, got {self.max_loss}")
        if self.images < 1:
            raise InputError(f"the image limit must be 1 or more, got {self.images}")

    def cli_options(self) -> list[str]:
        """Return the command-line options that give these settings; none for the defaults."""
        words: list[str] = []
        for options in (self, self.gpu):
            for setting in fields(options):
                value = getattr(options, setting.name)
                if setting.name != "gpu" and value != setting.default:
                    words += [f"--{setting.name.replace('_', '-')}", *([] if value is True else [str(value)])]
        return words

    def as_json(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        return {**_paths_as_text(asdict(self)), "gpu": _paths_as_text(asdict(self.gpu))}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> BuildSettings:
        """Read `as_json`'s form. Raises ValueError for unknown or missing options and values out of range."""
        try:
            return _options(cls, {**values, "gpu": _options(GpuOptions, values["gpu"])})
        except (TypeError, KeyError, InputError) as error:
            raise ValueError(f"its build settings are invalid: {error}") from None


@dataclass(frozen=True, kw_only=True)
class BuildRecord:
    """Contents of build.json: chosen precision per network, settings, operating point and report."""

    backend: str
    bundle_sha256: str
    precisions: Mapping[str, str]  # by name of the network
    settings: BuildSettings
    operating_point: OperatingPoint | None  # of these engines; None: the manifest's decision and budget
    report: Mapping[str, Any]  # the build's table, for people
    mode_points: tuple[ModePoint, ...] = ()  # of degraded modes whose limits were moved for these engines

    def as_json(self) -> dict[str, Any]:
        """Return the record as JSON values; `mode_points` only where there are some."""
        point = self.operating_point
        values = {name: value for name, value in asdict(self).items() if name != "mode_points"}
        return {
            "schema": _BUILD_SCHEMA,
            **values,
            "settings": self.settings.as_json(),
            "operating_point": None if point is None else point.as_json(),
            **({"mode_points": [mode.as_json() for mode in self.mode_points]} if self.mode_points else {}),
        }

    @classmethod
    def read(cls, path: Path) -> BuildRecord:
        """Read a build.json. Raises ValueError if it is none, or of another schema."""
        values = _read_json(path, _BUILD_SCHEMA, _names(cls), {"mode_points": []})
        settings, point = BuildSettings.from_json(values["settings"]), _operating_point(values["operating_point"])
        modes = _mode_points(values["mode_points"])
        return cls(**{**values, "settings": settings, "operating_point": point, "mode_points": modes})

    @classmethod
    def read_settings(cls, path: Path) -> BuildSettings:
        """Read the settings of a build.json, of schema 2 too, for a rebuild. Raises ValueError if it is none."""
        try:
            return cls.read(path).settings
        except ValueError:
            values = _read_json(path, _BUILD_SCHEMA_2, _names(cls) - {"operating_point", "mode_points"})
            return BuildSettings.from_json(values["settings"])


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Contents of measured.json: what a build's engines gave and took when they were new, for the self-test.

    Only the self-test reads it, so that engines of builds without the file load all the same.
    """

    bundle_sha256: str
    threads: int  # of the screenings below
    known_answers: tuple[tuple[float, ...], ...]  # probabilities of the ensemble for each known answer, in order
    gate_set: tuple[tuple[float, ...], ...]  # likewise for each image of the bundle's gate set; () if it has none
    screening_ms: float  # median time of a screening of a known answer, with its decoding; 0 if there is none
    screenings: int  # that were timed

    def __post_init__(self) -> None:
        for rows in (self.known_answers, self.gate_set):
            if not all(is_number(share) and is_share(share) for row in rows for share in row):
                raise ValueError("probabilities must be numbers from 0 to 1")
        if not is_number(self.screening_ms) or self.screening_ms < 0:
            raise ValueError(f"screening_ms must be a number of 0 or more, got {self.screening_ms!r}")
        for name, least in (("threads", 1), ("screenings", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be a whole number of {least} or more, got {value!r}")

    def write(self, path: Path) -> None:
        """Write the JSON file."""
        path.write_text(json.dumps({"schema": _MEASURED_SCHEMA, **asdict(self)}, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Measured:
        """Read a file that `write` wrote. Raises ValueError if it is none."""
        values = _read_json(path, _MEASURED_SCHEMA, _names(cls))
        return cls(**{**values, **{name: _rows(values, name) for name in ("known_answers", "gate_set")}})


def _rows(values: Mapping[str, Any], name: str) -> tuple[tuple[float, ...], ...]:
    if not isinstance(values[name], list) or not all(isinstance(row, list) for row in values[name]):
        raise ValueError(f"{name} must be a list of lists of numbers")
    return tuple(tuple(row) for row in values[name])


def _operating_point(value: object) -> OperatingPoint | None:
    """Return the operating point of its JSON values. Raises ValueError for anything else."""
    try:
        return None if value is None else OperatingPoint.from_json(value)
    except FieldError as error:
        raise ValueError(f"its operating point is invalid: {error.key} {error.message}") from None


def _mode_points(value: object) -> tuple[ModePoint, ...]:
    """Return the points of degraded modes of their JSON values. Raises ValueError for anything else."""
    try:
        return read_list({"mode_points": value}, "mode_points", ModePoint.from_json)
    except FieldError as error:
        raise ValueError(f"its operating points are invalid: {error.key} {error.message}") from None


def _names(kind: Any) -> set[str]:
    return {f.name for f in fields(kind)}


def _paths_as_text(values: dict[str, Any]) -> dict[str, Any]:
    return {name: str(v) if isinstance(v, Path) else v for name, v in values.items()}


def _options(kind: type[Options], values: Mapping[str, Any]) -> Options:
    """Construct `kind` from JSON values with exactly its keys; text becomes a Path where the field is one."""
    if set(values) != _names(kind):
        raise KeyError(*sorted(set(values) ^ _names(kind)))
    paths = {f.name for f in fields(kind) if "Path" in str(f.type)}  # type: ignore[arg-type]
    return kind(**{name: Path(v) if name in paths and v is not None else v for name, v in values.items()})


def _read_json(path: Path, schema: str, keys: set[str], absent: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the object in `path` without its schema. Raises ValueError unless it has exactly these keys.

    absent: values of keys that may be absent.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path.name}: {error.strerror}") from None
    if not isinstance(values, dict) or values.pop("schema", None) != schema or {*values, *(absent or {})} != keys:
        raise ValueError(f"{path.name} does not follow {schema}")
    return {**(absent or {}), **values}
