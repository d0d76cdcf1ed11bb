"""Input that a network was trained with, as its owner states it: a preset's name or a TOML or JSON file in, a spec out.

`TrainedInput.deployed` translates it into a `PreprocessSpec`; what a spec cannot express, brightness that falls, becomes a
factor and an offset at the graph's input. docs/import.md has the keys.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from cxr_edge.errors import ContractError, CxrEdgeError, InputError
from cxr_edge.specs.json_fields import is_number
from cxr_edge.specs.preprocess import PreprocessSpec

__all__ = ["PRESETS", "DeployedInput", "Layout", "TrainedInput", "read_trained_input"]

Layout = Literal["nchw", "nhwc"]


@dataclass(frozen=True, kw_only=True)
class DeployedInput:
    """Input of a member of a bundle."""

    spec: PreprocessSpec
    factor: tuple[float, ...] = ()  # one per channel, for nodes after the spec's tensor; empty if none are needed
    offset: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TrainedInput:
    """Input of a network as it was trained. Raises InputError for values that contradict each other."""

    size: int | None = None  # side in pixels; None: the one of the graph's input
    resize: int | None = None  # side that the image is resized to before its centre of `size` is cut out; None: size
    channels: Literal[1, 3] | None = None  # None: those of the graph's input
    region: Literal["frame", "lungs"] = "frame"
    median: bool = False
    per_image: bool = False  # by the image's own mean and standard deviation; else by range, mean and std
    range: tuple[float, ...] = (0.0, 1.0)  # values of black and of white
    mean: tuple[float, ...] = ()  # subtracted after `range`: one number, or one per channel in the network's order
    std: tuple[float, ...] = ()  # then divided by
    layout: Layout | None = None  # None: that of the graph's input

    def __post_init__(self) -> None:
        _check(_is_side(self.size), "size", "a whole number from 1 to 4096", self.size)
        _check(_is_side(self.resize), "resize", "a whole number from 1 to 4096", self.resize)
        _check(self.channels in (None, 1, 3), "channels", "1 or 3", self.channels)
        _check(self.region in ("frame", "lungs"), "region", '"frame" or "lungs"', self.region)
        _check(isinstance(self.median, bool), "median", "true or false", self.median)
        _check(isinstance(self.per_image, bool), "per_image", "true or false", self.per_image)
        _check(self.layout in (None, "nchw", "nhwc"), "layout", '"nchw" or "nhwc"', self.layout)
        for name in ("range", "mean", "std"):
            values = getattr(self, name)
            _check(all(map(is_number, values)), name, "a list of finite numbers", values)
        _check(len(self.range) == 2 and len(set(self.range)) == 2, "range", "two different numbers", self.range)
        _check(len(self.mean) in (0, 1, 3), "mean", "one number, or one per channel", self.mean)
        _check(len(self.std) in (0, 1, 3) and all(v > 0 for v in self.std), "std", "numbers above 0", self.std)
        alone = not self.per_image or (self.range, self.mean, self.std) == ((0.0, 1.0), (), ())
        _check(alone, "per_image", "without range, mean and std", self.per_image)

    def deployed(self, size: int, channels: Literal[1, 3]) -> DeployedInput:
        """Return the member's input. size, channels: of the graph's input. Raises InputError for an impossible spec."""
        if self.per_image:
            return DeployedInput(spec=self._spec(size, channels, standardize="image"))
        low, high = self.range
        means, stds = self._per_channel("mean", channels, 0.0), self._per_channel("std", channels, 1.0)
        if high < low:  # a spec's brightness rises
            factor = tuple((high - low) / s for s in stds)
            offset = tuple((low - m) / s for m, s in zip(means, stds, strict=True))
            return DeployedInput(spec=self._spec(size, channels, standardize="none"), factor=factor, offset=offset)
        mean = tuple((m - low) / (high - low) for m in means)
        std = tuple(s / (high - low) for s in stds)
        if mean == (0.0,) * channels and std == (1.0,) * channels:
            return DeployedInput(spec=self._spec(size, channels, standardize="none"))
        return DeployedInput(spec=self._spec(size, channels, standardize="fixed", mean=mean, std=std))

    def values_per_channel(self, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and std, one number per channel each."""
        return self._per_channel("mean", channels, 0.0), self._per_channel("std", channels, 1.0)

    def describe(self) -> str:
        """Return the values in words, for the model card."""
        if self.per_image:
            values = "mean and standard deviation of the image"
        else:
            values = f"black {self.range[0]:g}, white {self.range[1]:g}"
            values += f", minus {_listed(self.mean)}" if self.mean else ""
            values += f", divided by {_listed(self.std)}" if self.std else ""
        return f"{'lung box' if self.region == 'lungs' else 'full frame'}, {values}"

    def _spec(self, size: int, channels: Literal[1, 3], **values: Any) -> PreprocessSpec:
        try:
            return PreprocessSpec(
                region=self.region,
                canvas_px=self.resize or size,
                crop_px=size,
                median=self.median,
                channels=channels,
                **values,
            )
        except ContractError as error:
            raise InputError(f"the preprocessing cannot be used: {error}") from None

    def _per_channel(self, name: str, channels: int, default: float) -> tuple[float, ...]:
        values: tuple[float, ...] = getattr(self, name) or (default,)
        if len(values) not in (1, channels):
            raise InputError(
                f"--preprocess: {name} has {len(values)} numbers, and the network's input has {channels} channel(s): give one "
                "number, or one per channel"
            )
        return values if len(values) == channels else values * channels


def read_trained_input(text: str) -> TrainedInput:
    """Return the preset called `text`, or the values of the TOML or JSON file `text`. Raises InputError."""
    if text in PRESETS:
        return PRESETS[text]
    path = Path(text)
    if path.suffix.lower() not in (".toml", ".json"):
        raise InputError(
            f"--preprocess takes {', '.join(PRESETS)}, or a .toml or .json file with the values, got {text!r}: "
            "docs/import.md has the keys"
        )
    return _from_table(_read(path), path)


def _read(path: Path) -> Mapping[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        found = json.loads(text) if path.suffix.lower() == ".json" else _toml().loads(text)
    except (OSError, ValueError) as error:  # a TOMLDecodeError is a ValueError
        raise InputError(f"the preprocessing {path} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise InputError(f"the preprocessing {path} must be a table of keys and values, as in docs/import.md")
    return found


def _toml() -> Any:
    for name in ("tomllib", "tomli"):  # Python 3.10 has none of its own
        try:
            return import_module(name)
        except ModuleNotFoundError:
            continue
    raise InputError("this Python reads no TOML: install tomli, or give the same keys as a .json file")


def _from_table(found: Mapping[str, Any], path: Path) -> TrainedInput:
    known = [f.name for f in fields(TrainedInput)]
    unknown = sorted(set(found) - {*known, "preset"})
    if unknown:
        raise InputError(f"{path}: {unknown[0]!r} is no key here; known: preset, {', '.join(known)}")
    preset = found.get("preset", "unit")
    if not isinstance(preset, str) or preset not in PRESETS:
        raise InputError(f"{path}: preset is one of {', '.join(PRESETS)}, got {preset!r}")
    values = {name: _numbers(value) for name, value in found.items() if name != "preset"}
    try:
        return replace(PRESETS[preset], **values)
    except (CxrEdgeError, TypeError) as error:
        raise InputError(f"{path}: {error}") from None


def _numbers(value: Any) -> Any:
    return tuple(float(v) if is_number(v) else v for v in value) if isinstance(value, list) else value


def _check(holds: bool, name: str, expected: str, actual: object) -> None:
    if not holds:
        raise InputError(f"{name} must be {expected}, got {actual!r}")


def _is_side(value: object) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 4096)


def _listed(values: tuple[float, ...]) -> str:
    return " / ".join(f"{v:g}" for v in values)


# Sources: torchxrayvision.datasets.normalize; torchvision's and timm's ImageNet weights; Keras' Rescaling and applications.
PRESETS: dict[str, TrainedInput] = {
    "torchxrayvision": TrainedInput(range=(-1024.0, 1024.0)),
    "imagenet": TrainedInput(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    "unit": TrainedInput(),
    "bytes": TrainedInput(range=(0.0, 255.0)),
    "symmetric": TrainedInput(range=(-1.0, 1.0)),
    "per-image": TrainedInput(per_image=True),
}
