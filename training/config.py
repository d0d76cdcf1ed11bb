"""What a training is made of: a TOML file in, checked values out. The file holds only what differs from the defaults."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from cxr_edge.errors import InputError
from cxr_edge.preprocess import PreprocessSpec
from training.engine import Plan

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["Config", "load_config"]


@dataclass(frozen=True, kw_only=True)
class Config:
    """labels: of the members, in order. epoch_images: how many images a member sees an epoch. partial_tuberculosis:
    whether tuberculosis images train the members as `abnormal, but not COVID-19`. left_out: sources that members never
    see, to measure what they say of an unknown site. members: plan an architecture. range_images: validation images that
    activation ranges are measured on. known_answers: synthetic images in the bundle. resamples: of the bootstrap."""

    name: str = "starter"
    version: str = "1.0.0"
    seed: int = 1
    threads: int = 2
    labels: tuple[str, ...] = ("normal", "bacterial", "viral", "covid-19")
    segmenter_px: int = 128
    canvas_px: int = 160
    epoch_images: int = 4000
    label_smoothing: float = 0.05
    partial_tuberculosis: bool = True
    left_out: tuple[str, ...] = ()
    range_images: int = 200
    known_answers: int = 20
    resamples: int = 2000
    segmenter: Plan = field(default_factory=lambda: Plan(epochs=100))
    members: dict[str, Plan] = field(default_factory=dict)

    @property
    def segmenter_spec(self) -> PreprocessSpec:
        """What the segmenter sees: the whole frame."""
        return PreprocessSpec(
            region="frame", canvas_px=self.segmenter_px, crop_px=self.segmenter_px, standardize="image"
        )

    @property
    def member_spec(self) -> PreprocessSpec:
        """What every member sees: the lung box."""
        return PreprocessSpec(region="lungs", canvas_px=self.canvas_px, crop_px=self.canvas_px, standardize="image")


def load_config(file: Path) -> Config:
    """Read a TOML file. Raises InputError for a file that is not there and for keys that mean nothing."""
    try:
        values = tomllib.loads(file.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"the configuration {file} cannot be read: {error}") from error
    shared = {"threads": values.get("threads", 2), "seed": values.get("seed", 1)}
    _known(values, Config, str(file))
    if "segmenter" in values:
        values["segmenter"] = _plan(values["segmenter"], shared, f"{file}: segmenter")
    members = values.get("members", {})
    values["members"] = {name: _plan(v, shared, f"{file}: members.{name}") for name, v in members.items()}
    values.update({name: tuple(values[name]) for name in ("labels", "left_out") if name in values})
    return Config(**values)


def _plan(values: dict[str, Any], shared: dict[str, Any], where: str) -> Plan:
    _known(values, Plan, where)
    return Plan(**{**shared, **values})


def _known(values: dict[str, Any], kind: type, where: str) -> None:
    unknown = set(values) - {f.name for f in fields(kind)}
    if unknown:
        raise InputError(f"{where}: unknown keys {sorted(unknown)}; known are {sorted(f.name for f in fields(kind))}")
