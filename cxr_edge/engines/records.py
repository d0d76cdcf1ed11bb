"""JSON records beside built engines: the side-car of each engine file and build.json of each folder.

Both are read strictly: unknown or missing keys, or another schema, raise ValueError.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_edge.backends.base import GpuOptions
from cxr_edge.errors import InputError

if TYPE_CHECKING:
    pass

__all__ = ["BUILD_FILE", "Asked", "Selection", "SideCar"]


BUILD_FILE = "build.json"


_ENGINE_SCHEMA = "cxr-edge-engine/1"


_BUILD_SCHEMA = "cxr-edge-build/1"


@dataclass(frozen=True, kw_only=True)
class SideCar:
    """What one engine file was made of and for. bundle_sha256: None for a network that was built alone.

    versions: of the backend, as `Backend.versions` gave them; portable: those of them that may differ where it runs.
    gate: the figures that let it pass, for people.
    """

    part: str
    precision: str
    backend: str
    bundle_sha256: str | None
    onnx_sha256: str
    engine_sha256: str
    preprocess_sha256: str
    versions: Mapping[str, str]
    threads: int
    created: str
    cxr_edge: str
    gate: Mapping[str, Any]
    portable: Sequence[str] = ()

    def write(self, path: Path) -> None:
        """Write the JSON file."""
        path.write_text(json.dumps({"schema": _ENGINE_SCHEMA, **asdict(self)}, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> SideCar:
        """Read what `write` wrote. Raises ValueError if it is not that."""
        return cls(**_read_json(path, _ENGINE_SCHEMA, {f.name for f in fields(cls)}))


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a build was asked for, as far as it decides which engines come out; see `build.engine.BuildRequest`."""

    precision: str = "auto"
    calibration: Path | None = None
    max_loss: float = 0.01
    gpu: GpuOptions = field(default_factory=GpuOptions)

    def words(self) -> list[str]:
        """The command line's options that ask for it; none for the defaults."""
        words: list[str] = []
        for values in (self, self.gpu):
            for option in fields(values):
                value = getattr(values, option.name)
                if option.name != "gpu" and value != option.default:
                    words += [f"--{option.name.replace('_', '-')}", *([] if value is True else [str(value)])]
        return words

    def as_json(self) -> dict[str, Any]:
        return _paths_as_text({**asdict(self), "gpu": _paths_as_text(asdict(self.gpu))})

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Asked:
        """Read `as_json`'s form. Raises ValueError for options that do not exist or make no sense."""
        try:
            gpu = GpuOptions(**_text_as_path(values["gpu"], "timing_cache"))
            return cls(**{**_text_as_path(values, "calibration"), "gpu": gpu})
        except (TypeError, KeyError, InputError) as error:
            raise ValueError(f"what its build was asked for cannot be read: {error}") from None


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The head of build.json: which engine each part runs with, and what was asked for when they were built.

    asked: the `Asked` of the build, so that building anew asks for the same. report: the build's table, for people.
    """

    backend: str
    bundle_sha256: str
    precisions: Mapping[str, str]
    asked: Asked
    report: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        return {"schema": _BUILD_SCHEMA, **asdict(self), "asked": self.asked.as_json()}

    @classmethod
    def read(cls, path: Path) -> Selection:
        """Read a build.json. Raises ValueError if it is not one."""
        values = _read_json(path, _BUILD_SCHEMA, {f.name for f in fields(cls)})
        return cls(**{**values, "asked": Asked.from_json(values["asked"])})


def _paths_as_text(values: dict[str, Any]) -> dict[str, Any]:
    return {name: str(v) if isinstance(v, Path) else v for name, v in values.items()}


def _text_as_path(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {**values, name: None if values[name] is None else Path(values[name])}


def _read_json(path: Path, schema: str, keys: set[str]) -> dict[str, Any]:
    """The object in `path` without its schema. Raises ValueError for anything else than exactly those keys."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path.name}: {error.strerror}") from None
    if not isinstance(values, dict) or values.pop("schema", None) != schema or set(values) != keys:
        raise ValueError(f"{path.name} does not follow {schema}")
    return values
