"""Preprocessing of gray pixels and a lung box into the members' input tensors, shared by training and deployment.

A `PreprocessSpec` describes the preprocessing that a member was trained with; its digest is stored with the weights, so that
a difference is an error and not a silent loss of accuracy. Training calls the two halves, with its augmentation in between:
`canvas` (box and area resize, integer pixels) and `normalize` (centre crop, median, scaling, standardisation).
`Preprocessor` runs both fused, for all members at once. All three call the same C++ (csrc/preprocess.cc), whose integer
arithmetic is exact: the fused result equals `normalize(canvas(...))` bit for bit, on every processor.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

import cxr_edge._core as _core
from cxr_edge.errors import BackendError, ContractError, InputError
from cxr_edge.forks import keep_in_children
from cxr_edge.records import GrayPixels, Roi
from cxr_edge.specs.preprocess import PreprocessSpec

__all__ = ["Preprocessor", "canvas", "core_spec", "normalize"]


_MAX_IMAGE_SIDE_PX = 65535  # limit of the integer sums of csrc/include/cxr/resize_plan.h


def canvas(pixels: GrayPixels, roi: Roi, spec: PreprocessSpec) -> GrayPixels:
    """Cut `roi` out of `pixels` (height, width) and resize it to (canvas_px, canvas_px), same dtype.

    The caller selects the roi, so that training can store canvases of lung boxes or of full frames; `spec.region` is
    ignored. Raises InputError if the roi is not inside the image.
    """
    return _core.canvas(_gray(pixels), _inside(roi, pixels).as_tuple(), spec.canvas_px)


def normalize(canvas: GrayPixels, spec: PreprocessSpec) -> npt.NDArray[Any]:
    """Crop, filter, scale and standardise a canvas (canvas_px, canvas_px) to (channels, crop_px, crop_px), spec.dtype."""
    if canvas.shape != (spec.canvas_px, spec.canvas_px):
        raise ContractError(f"the spec has canvases of {spec.canvas_px}x{spec.canvas_px}, got shape {canvas.shape}")
    return _core.normalize(_gray(canvas), core_spec(spec))


class Preprocessor:
    """Fused preprocessing for several members at once.

    specs: one per member, in the members' order. Members with the same region and canvas share one resize.
    threads: number of threads per `run`.

    Several Python threads may use an instance: each `run` has its own scratch memory and releases the GIL. With several
    threads it works in the process that made it, and not in a child that inherited it by fork.
    """

    def __init__(self, specs: Sequence[PreprocessSpec], *, threads: int = 1) -> None:
        if not specs:
            raise ContractError("a preprocessor needs at least one spec, got none")
        if threads < 1:
            raise InputError(f"threads must be 1 or more, got {threads}")
        self.specs = tuple(specs)
        self._core = _core.Preprocessor([core_spec(s) for s in specs], threads)
        self._process = os.getpid() if threads > 1 else None  # that has its threads
        keep_in_children(self)

    def allocate(self, images: int) -> list[npt.NDArray[Any]]:
        """Allocate output arrays for `images` images, one per spec: (images, channels, crop_px, crop_px)."""
        return [np.empty((images, *s.tensor_shape), dtype=s.dtype) for s in self.specs]

    def run(
        self,
        pixels: Sequence[GrayPixels],
        lungs: Sequence[Roi],
        out: Sequence[npt.NDArray[Any]] | None = None,
    ) -> Sequence[npt.NDArray[Any]]:
        """Preprocess a batch of images of any sizes.

        pixels: (height, width) uint8 or uint16 each; rows may be strided.
        lungs: the lung box of each image; a spec with region `frame` uses the full image instead.
        out: arrays like those of `allocate(len(pixels))`, C-contiguous, overwritten; None allocates.

        Returns out. Raises InputError for a roi outside its image or unequal counts, ContractError for outputs of a wrong
        shape or dtype, BackendError in a forked child.
        """
        if self._process not in (None, os.getpid()):
            raise BackendError(f"this Preprocessor was made in process {self._process}: make one in the forked child")
        if len(pixels) != len(lungs):
            raise InputError(f"each image needs one lung box, got {len(pixels)} images and {len(lungs)} boxes")
        out = self.allocate(len(pixels)) if out is None else out
        self._check_outputs(out, len(pixels))
        boxes = [_inside(roi, p).as_tuple() for roi, p in zip(lungs, pixels, strict=True)]
        self._core.run([_gray(p) for p in pixels], boxes, list(out))
        return out

    def _check_outputs(self, out: Sequence[npt.NDArray[Any]], images: int) -> None:
        if len(out) != len(self.specs):
            raise ContractError(f"expected {len(self.specs)} output arrays, one per spec, got {len(out)}")
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
    """Convert the spec to its native form."""
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
    """Check `pixels`; return them with adjacent columns (rows may be strided)."""
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
