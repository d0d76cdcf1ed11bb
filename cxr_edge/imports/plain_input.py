"""Input tensor of a network as its training computed it: NumPy and OpenCV alone, none of the deployed arithmetic.

Gray pixels, a lung box and a `TrainedInput` come in, the array for the original network comes out. `parity` compares what
the original gives for it with what the bundle gives for the same image.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from cxr_edge.imports.trained_input import Layout, TrainedInput
from cxr_edge.records import GrayPixels, Roi

__all__ = ["plain_input"]

_LEAST_DEVIATION = 0.001  # of an image on the scale 0..1, as in specs/preprocess.py


def plain_input(
    pixels: GrayPixels, box: Roi, trained: TrainedInput, *, size: int, channels: int, layout: Layout, dtype: str
) -> npt.NDArray[Any]:
    """Return the tensor of one image, (1, channels, size, size), or (1, size, size, channels) for `nhwc`.

    pixels: (height, width). box: used if the network was trained on the lung box. dtype: of the tensor; whole numbers are
    rounded.
    """
    region = pixels[box.y0 : box.y1, box.x0 : box.x1] if trained.region == "lungs" else pixels
    crop = _centre(_resized(region, trained.resize or size), size)
    if trained.median:
        crop = _pixels(cv2.medianBlur(crop, 3), crop)
    planes = _scaled(crop / float(np.iinfo(pixels.dtype).max), trained, channels)
    tensor = planes[None] if layout == "nchw" else planes.transpose(1, 2, 0)[None]
    rounded = np.rint(tensor) if np.issubdtype(np.dtype(dtype), np.integer) else tensor
    return np.ascontiguousarray(rounded, dtype=dtype)


def _resized(region: GrayPixels, side: int) -> GrayPixels:
    """Resize to a square, each axis by itself, and round as pixels are."""
    rows, columns = (_resampling(length, side) for length in region.shape)
    values = rows @ region.astype(np.float64) @ columns.T
    return _pixels(np.floor(np.round(values, 9) + 0.5), region)  # exact halves go up, whatever the sums' rounding


def _resampling(length: int, side: int) -> npt.NDArray[np.float64]:
    """Return the weights (side, length): means of areas where the axis shrinks, else linear between pixel centres."""
    source, scale = np.arange(length), length / side
    if side < length:
        first = np.arange(side)[:, None] * scale
        overlap = np.minimum(first + scale, source + 1) - np.maximum(first, source)
        return np.asarray(np.clip(overlap, 0, None) / scale)
    centre = np.clip((np.arange(side)[:, None] + 0.5) * scale - 0.5, 0, length - 1)
    return np.asarray(np.clip(1 - np.abs(source - centre), 0, None))


def _centre(canvas: GrayPixels, size: int) -> GrayPixels:
    first = (canvas.shape[0] - size) // 2
    return _pixels(canvas[first : first + size, first : first + size], canvas)


def _pixels(values: npt.NDArray[Any], like: GrayPixels) -> GrayPixels:
    found: Any = np.ascontiguousarray(values, dtype=like.dtype)
    pixels: GrayPixels = found
    return pixels


def _scaled(unit: npt.NDArray[np.float64], trained: TrainedInput, channels: int) -> npt.NDArray[np.float64]:
    """Return (channels, size, size). unit: (size, size), 0..1."""
    if trained.per_image:
        values = (unit - unit.mean()) / max(float(unit.std()), _LEAST_DEVIATION)
        return np.repeat(values[None], channels, axis=0)
    low, high = trained.range
    mean, std = (np.array(v)[:, None, None] for v in trained.values_per_channel(channels))
    return np.asarray((low + unit[None] * (high - low) - mean) / std)
