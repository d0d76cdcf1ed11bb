"""From gray pixels and a lung box to the tensors that the members take: one code for training and for the device.

A `PreprocessSpec` says what one member was trained on; its digest travels with the weights, so a difference is an error
and not a quiet loss of accuracy. `canvas` (box and area resize, integer pixels) and `normalize` (centre crop, median,
scaling, standardisation) are the two halves that training needs, with its augmentation in between; `Preprocessor` runs
both fused, for all members at once. All three call the same C++ (csrc/preprocess.cc), whose integer arithmetic is
exact: the fused result equals `normalize(canvas(...))` to the last bit, on every processor.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cxr_edge import _core
from cxr_edge.errors import ContractError, InputError
from cxr_edge.records import GrayPixels, Roi

__all__ = ["PRESETS", "PreprocessSpec", "Preprocessor", "canvas", "core_spec", "normalize", "preset"]

# Bumped when the same spec starts to give other numbers, so that old digests stop matching.
ARITHMETIC_VERSION = 1

_MAX_SIDE_PX = 4096  # of a canvas
_MAX_IMAGE_SIDE_PX = 65535  # what the integer sums of csrc/resize_plan.h have room for


@dataclass(frozen=True, kw_only=True)
class PreprocessSpec:
    """What happens between a decoded image and one member's input. Steps in this order:

    region: take the lung box (`lungs`) or the whole frame (`frame`).
    canvas_px: side of the square that the region is resized to; exact area average where it shrinks, bilinear where it
        grows, each axis by itself (the aspect is not kept, as in both papers).
    crop_px: side of the centre crop of the canvas; equal to canvas_px for none.
    median: True for a 3x3 median with replicated border.
    standardize: `none` leaves 0..1; `fixed` subtracts mean and divides by std, per channel, on the 0..1 scale; `image`
        uses the crop's own mean and standard deviation (floored at 0.001).
    channels: 1, or 3 equal copies. dtype: `float32` or `float16`.
    """

    region: Literal["lungs", "frame"] = "lungs"
    canvas_px: int = 224
    crop_px: int = 224
    median: bool = False
    standardize: Literal["none", "fixed", "image"] = "image"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
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
        wanted = self.channels if self.standardize == "fixed" else 0
        for name, values in (("mean", self.mean), ("std", self.std)):
            _check(
                len(values) == wanted and all(np.isfinite(v) for v in values),
                name,
                f"{wanted} finite numbers with standardize={self.standardize!r} and channels={self.channels}",
                values,
            )
        _check(all(v > 0 for v in self.std), "std", "numbers above 0", self.std)

    @property
    def tensor_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of the tensor for one image."""
        return (self.channels, self.crop_px, self.crop_px)

    def as_json(self) -> dict[str, Any]:
        """The JSON object that manifests and ONNX metadata hold; `from_json` reads it."""
        values = asdict(self)
        return {**values, "mean": list(self.mean), "std": list(self.std), "arithmetic": ARITHMETIC_VERSION}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> PreprocessSpec:
        """Read `as_json`'s form. Raises ContractError for unknown or missing keys, or another arithmetic version."""
        known = {f.name for f in fields(cls)} | {"arithmetic"}
        if set(values) != known:
            raise ContractError(
                f"a preprocess spec has exactly the keys {sorted(known)}; "
                f"missing: {sorted(known - set(values))}, unknown: {sorted(set(values) - known)}"
            )
        if values["arithmetic"] != ARITHMETIC_VERSION:
            raise ContractError(
                f"this cxr-edge preprocesses by arithmetic version {ARITHMETIC_VERSION}, the spec asks for version "
                f"{values['arithmetic']!r}: use the cxr-edge release that the bundle was made with, or export it again"
            )
        rest = {k: v for k, v in values.items() if k != "arithmetic"}
        for name in ("mean", "std"):
            _check(isinstance(rest[name], list | tuple), name, "a list of numbers", rest[name])
        return cls(**{**rest, "mean": tuple(rest["mean"]), "std": tuple(rest["std"])})

    def digest(self) -> str:
        """SHA-256 (hexadecimal) of the canonical JSON: equal digests give equal tensors."""
        text = json.dumps(self.as_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def _check(holds: bool, name: str, expected: str, came: object) -> None:
    if not holds:
        raise ContractError(f"preprocess spec: {name} must be {expected}, got {came!r}")


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
    """The spec of that name: `rajaraman-paper`, `rajaraman-code`, `flannel-paper`, `flannel-code` or `sane`."""
    if name not in PRESETS:
        raise ContractError(f"no preprocessing preset is called {name!r}: choose from {', '.join(PRESETS)}")
    return PRESETS[name]


def canvas(pixels: GrayPixels, roi: Roi, spec: PreprocessSpec) -> GrayPixels:
    """Cut `roi` out of `pixels` (height, width) and resize it to (canvas_px, canvas_px), same dtype.

    The caller picks the roi, so that training can store canvases of lung boxes or of whole frames; `spec.region` is not
    looked at. Raises InputError if the roi is not inside the image.
    """
    return _core.canvas(_gray(pixels), _inside(roi, pixels).as_tuple(), spec.canvas_px)


def normalize(canvas: GrayPixels, spec: PreprocessSpec) -> npt.NDArray[Any]:
    """Crop, filter, scale and standardise a canvas (canvas_px, canvas_px): (channels, crop_px, crop_px) of spec.dtype."""
    if canvas.shape != (spec.canvas_px, spec.canvas_px):
        raise ContractError(f"the spec has canvases of {spec.canvas_px}x{spec.canvas_px}, got shape {canvas.shape}")
    return _core.normalize(_gray(canvas), core_spec(spec))


class Preprocessor:
    """Fused preprocessing for several members at once.

    specs: one a member, in the members' order. Members whose canvases agree share one resize.
    threads: how many threads one `run` uses. An instance may be used by several Python threads: each `run` has its own
    scratch memory, and the GIL is released while it works.
    """

    def __init__(self, specs: Sequence[PreprocessSpec], *, threads: int = 1) -> None:
        if not specs:
            raise ContractError("a preprocessor needs at least one spec, got none")
        if threads < 1:
            raise InputError(f"threads must be 1 or more, got {threads}")
        self.specs = tuple(specs)
        self._core = _core.Preprocessor([core_spec(s) for s in specs], threads)

    def allocate(self, images: int) -> list[npt.NDArray[Any]]:
        """Output arrays for `images` images, one a spec: (images, channels, crop_px, crop_px)."""
        return [np.empty((images, *s.tensor_shape), dtype=s.dtype) for s in self.specs]

    def run(
        self,
        pixels: Sequence[GrayPixels],
        lungs: Sequence[Roi],
        out: Sequence[npt.NDArray[Any]] | None = None,
    ) -> Sequence[npt.NDArray[Any]]:
        """Preprocess a batch of images of any sizes.

        pixels: (height, width) uint8 or uint16 each; rows may be strided. lungs: the lung box of each; a spec with
        region `frame` uses the whole image instead. out: arrays as `allocate(len(pixels))` makes them, C-contiguous,
        overwritten; None allocates. Returns out. Raises InputError for a roi outside its image or counts that differ,
        ContractError for outputs of a wrong shape or dtype.
        """
        if len(pixels) != len(lungs):
            raise InputError(f"each image needs one lung box, got {len(pixels)} images and {len(lungs)} boxes")
        out = self.allocate(len(pixels)) if out is None else out
        self._check_outputs(out, len(pixels))
        boxes = [_inside(roi, p).as_tuple() for roi, p in zip(lungs, pixels, strict=True)]
        self._core.run([_gray(p) for p in pixels], boxes, list(out))
        return out

    def _check_outputs(self, out: Sequence[npt.NDArray[Any]], images: int) -> None:
        if len(out) != len(self.specs):
            raise ContractError(f"expected {len(self.specs)} output arrays, one a spec, got {len(out)}")
        for i, (array, spec) in enumerate(zip(out, self.specs, strict=True)):
            shape = (images, *spec.tensor_shape)
            if (
                array.shape != shape
                or array.dtype != spec.dtype
                or not array.flags.c_contiguous
                or not array.flags.writeable
            ):
                raise ContractError(
                    f"output {i} must be a writable C-contiguous {spec.dtype} array of shape {shape}, "
                    f"got {array.dtype} {array.shape}"
                )


def core_spec(spec: PreprocessSpec) -> _core.Spec:
    """The spec as csrc takes it."""
    return _core.Spec(
        lungs=spec.region == "lungs",
        canvas_px=spec.canvas_px,
        crop_px=spec.crop_px,
        median=spec.median,
        standardize=spec.standardize,
        mean=list(spec.mean),
        std=list(spec.std),
        channels=spec.channels,
        half=spec.dtype == "float16",
    )


def _gray(pixels: GrayPixels) -> GrayPixels:
    """`pixels` checked, with unit column stride (rows may be strided)."""
    if pixels.ndim != 2 or pixels.dtype not in (np.uint8, np.uint16) or pixels.size == 0:
        raise InputError(
            f"expected gray pixels (height, width) of uint8 or uint16, got shape {pixels.shape}, dtype {pixels.dtype}"
        )
    if max(pixels.shape) > _MAX_IMAGE_SIDE_PX:
        raise InputError(
            f"an image side may have at most {_MAX_IMAGE_SIDE_PX} px, got {pixels.shape[1]}x{pixels.shape[0]}: "
            "is it a chest X-ray?"
        )
    if pixels.strides[1] == pixels.itemsize and pixels.strides[0] > 0:
        return pixels
    adjacent: GrayPixels = pixels.copy(order="C")
    return adjacent


def _inside(roi: Roi, pixels: GrayPixels) -> Roi:
    height, width = pixels.shape
    if roi.x1 > width or roi.y1 > height:
        raise InputError(f"the box {roi.as_tuple()} (x0, y0, x1, y1) reaches outside the image of {width}x{height} px")
    return roi
