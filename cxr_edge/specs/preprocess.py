"""Preprocessing specification of one network: the values that training and deployment must share.

A `PreprocessSpec` is stored in the manifest and in the ONNX metadata; its digest is stored with the weights, so that a
difference is an error and not a silent loss of accuracy. `cxr_edge.ops.preprocess` runs it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import numpy as np

from cxr_edge.errors import ContractError

__all__ = ["ARITHMETIC_VERSION", "PRESETS", "PreprocessSpec", "preset"]

# To be increased when the same spec yields other numbers, so that old digests no longer match.
ARITHMETIC_VERSION = 1

_MAX_SIDE_PX = 4096  # of a canvas


@dataclass(frozen=True, kw_only=True)
class PreprocessSpec:
    """Preprocessing from a decoded image to one member's input; the steps run in the order of the fields."""

    # The lung box or the full frame.
    region: Literal["lungs", "frame"] = "lungs"
    # Side of the square that the region is resized to: exact area average where it shrinks, bilinear where it grows, each
    # axis by itself (the aspect ratio is not preserved, as in both papers).
    canvas_px: int = 224
    # Side of the centre crop of the canvas; canvas_px for no crop.
    crop_px: int = 224
    # 3x3 median with replicated border.
    median: bool = False
    # `none`: 0..1; `fixed`: by mean and std, per channel, on the 0..1 scale; `image`: by the crop's own mean and standard
    # deviation (at least 0.001).
    standardize: Literal["none", "fixed", "image"] = "image"
    # One number per channel for `fixed`, else empty.
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    # 3: equal copies.
    channels: Literal[1, 3] = 1
    dtype: Literal["float32", "float16"] = "float32"

    def __post_init__(self) -> None:
        _check(self.region in ("lungs", "frame"), "region", "'lungs' or 'frame'", self.region)
        _check(_is_side(self.canvas_px), "canvas_px", f"a whole number from 1 to {_MAX_SIDE_PX}", self.canvas_px)
        _check(
            _is_side(self.crop_px) and self.crop_px <= self.canvas_px,
            "crop_px",
            f"a whole number from 1 to canvas_px = {self.canvas_px}",
            self.crop_px,
        )
        _check(isinstance(self.median, bool), "median", "true or false", self.median)
        _check(
            self.standardize in ("none", "fixed", "image"),
            "standardize",
            "'none', 'fixed' or 'image'",
            self.standardize,
        )
        _check(self.channels in (1, 3), "channels", "1 or 3", self.channels)
        _check(self.dtype in ("float32", "float16"), "dtype", "'float32' or 'float16'", self.dtype)
        expected = self.channels if self.standardize == "fixed" else 0
        for name, values in (("mean", self.mean), ("std", self.std)):
            _check(
                len(values) == expected and all(np.isfinite(v) for v in values),
                name,
                f"{expected} finite numbers with standardize={self.standardize!r} and channels={self.channels}",
                values,
            )
        _check(all(v > 0 for v in self.std), "std", "numbers above 0", self.std)

    @property
    def tensor_shape(self) -> tuple[int, int, int]:
        """Shape (channels, height, width) of the tensor of one image."""
        return (self.channels, self.crop_px, self.crop_px)

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object for manifests and ONNX metadata; `from_json` reads it."""
        values = asdict(self)
        return {**values, "mean": list(self.mean), "std": list(self.std), "arithmetic": ARITHMETIC_VERSION}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> PreprocessSpec:
        """Read the form of `as_json`. Raises ContractError for unknown or missing keys, or another arithmetic version."""
        known = {f.name for f in fields(cls)} | {"arithmetic"}
        if set(values) != known:
            raise ContractError(
                f"a preprocess spec has exactly the keys {sorted(known)}; "
                f"missing: {sorted(known - set(values))}, unknown: {sorted(set(values) - known)}"
            )
        if values["arithmetic"] != ARITHMETIC_VERSION:
            raise ContractError(
                f"this cxr-edge preprocesses by arithmetic version {ARITHMETIC_VERSION}, the spec has version "
                f"{values['arithmetic']!r}: use the cxr-edge release that the bundle was made with, or export it again"
            )
        rest = {k: v for k, v in values.items() if k != "arithmetic"}
        for name in ("mean", "std"):
            _check(isinstance(rest[name], list | tuple), name, "a list of numbers", rest[name])
        return cls(**{**rest, "mean": tuple(rest["mean"]), "std": tuple(rest["std"])})

    def digest(self) -> str:
        """Return the SHA-256 (hexadecimal) of the canonical JSON: equal digests give equal tensors."""
        text = json.dumps(self.as_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def _check(holds: bool, name: str, expected: str, actual: object) -> None:
    if not holds:
        raise ContractError(f"preprocess spec: {name} must be {expected}, got {actual!r}")


def _is_side(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _MAX_SIDE_PX


# Sources: R20 section III.B and the authors' code; FLANNEL section III and the authors' code; docs/decisions/0002.
PRESETS: dict[str, PreprocessSpec] = {
    "rajaraman-paper": PreprocessSpec(canvas_px=256, crop_px=256, median=True, standardize="image", channels=3),
    "rajaraman-code": PreprocessSpec(canvas_px=256, crop_px=256, standardize="none", channels=3),
    "flannel-paper": PreprocessSpec(
        region="frame", canvas_px=256, crop_px=224, standardize="fixed", channels=3,
        mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225),
    ),
    "flannel-code": PreprocessSpec(
        region="frame", canvas_px=336, crop_px=224, standardize="fixed", channels=3,
        mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5),
    ),
    "sane": PreprocessSpec(),
}  # fmt: skip


def preset(name: str) -> PreprocessSpec:
    """Return a preset by name: `rajaraman-paper`, `rajaraman-code`, `flannel-paper`, `flannel-code` or `sane`."""
    if name not in PRESETS:
        raise ContractError(f"no preprocessing preset is called {name!r}: choose from {', '.join(PRESETS)}")
    return PRESETS[name]
