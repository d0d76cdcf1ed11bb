"""Conversion to gray: decoded samples in, gray pixels over the full range of their type out, with flags for assumptions.

It exists because ordinary files and DICOM need the same checks: colour or gray stored as colour, number of bits in use,
constant images. Thresholds are on a scale of 0..255 and are scaled with the depth. All functions work in bands of rows, so
that besides samples and result only one band is in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from cxr_edge.errors import InputError
from cxr_edge.records import Flag, GrayPixels

__all__ = [
    "apply_table",
    "blend_on_black",
    "reject_constant",
    "row_bands",
    "scale_bits",
    "stretch_to_uint16",
    "to_gray",
]

# The chroma of a pixel is the largest difference between its channels. Up to 8: rounding and JPEG noise in neutral gray.
# Over 32: visible colour. Tinted films and scans are in between (measured on published COVID-19 collections: a tinted
# film has 0.3 % of its pixels over 32, coloured letters and arrows 0.5 %); colour photographs and heat-map overlays have
# between a fifth and nearly all of their pixels over 32.
_NOISE, _COLOUR = 8, 32
_TINTED_SHARE, _COLOURED_LIMIT = 0.05, 0.05

_USUAL_DEPTHS = (8, 10, 12, 14)
_BAND_BYTES = 1 << 20


def row_bands(array: npt.NDArray[Any]) -> Iterator[slice]:
    """Yield slices of rows that together cover `array` (rows first), about a megabyte each."""
    rows = max(1, _BAND_BYTES * len(array) // max(array.nbytes, 1))
    for start in range(0, len(array), rows):
        yield slice(start, start + rows)


def apply_table(table: npt.NDArray[Any], values: npt.NDArray[Any], low: int) -> npt.NDArray[Any]:
    """Return table[values - low], clamped to the ends of the table. values: (rows, columns) integers."""
    out = np.empty(values.shape, table.dtype)
    for rows in row_bands(values):
        np.take(table, values[rows].astype(np.intp) - low, out=out[rows], mode="clip")
    return out


def to_gray(
    samples: npt.NDArray[Any],
    as_rgb: Callable[[npt.NDArray[Any]], npt.NDArray[Any]] = lambda band: band[..., :3],
    dtype: Any = None,
) -> tuple[GrayPixels, tuple[Flag, ...]]:
    """Convert colour samples (height, width, 3 or 4) to gray (height, width), uint8 or uint16.

    as_rgb: converts a band of rows of `samples` to (rows, width, 3), red first, of `dtype`.
    dtype: type of the result; None: the samples' own.
    Raises InputError for a colour image. Flags: `tinted`, `coloured_marks`.
    """
    gray = np.empty(samples.shape[:2], dtype or samples.dtype)
    unit = 257 if gray.dtype == np.uint16 else 1
    off_gray = coloured = 0
    for rows in row_bands(samples):
        rgb = np.ascontiguousarray(as_rgb(samples[rows]))
        cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY, dst=gray[rows])
        chroma = _chroma(rgb)
        if cv2.minMaxLoc(chroma)[1] > _NOISE * unit:
            off_gray += int(np.count_nonzero(chroma > _NOISE * unit))
            coloured += int(np.count_nonzero(chroma > _COLOUR * unit))
    return gray, _colour_flags(off_gray / gray.size, coloured / gray.size)


def _chroma(rgb: npt.NDArray[Any]) -> npt.NDArray[Any]:
    red, green, blue = cv2.split(rgb)
    return np.asarray(cv2.max(cv2.absdiff(red, green), cv2.max(cv2.absdiff(green, blue), cv2.absdiff(blue, red))))


def _colour_flags(off_gray: float, coloured: float) -> tuple[Flag, ...]:
    if coloured > _COLOURED_LIMIT:
        raise InputError(
            f"this is a colour image: {coloured:.0%} of its pixels are coloured, an X-ray with coloured marks has at "
            f"most {_COLOURED_LIMIT:.0%}. Use the X-ray itself, without overlay; convert a tinted scan to gray first"
        )
    flags = []
    if off_gray > _TINTED_SHARE:
        flags.append(Flag(code="tinted", message=f"{off_gray:.0%} of the pixels are tinted; their brightness was used"))
    if coloured:
        flags.append(
            Flag(code="coloured_marks", message=f"{coloured:.2%} of the pixels are coloured marks or lettering")
        )
    return tuple(flags)


def blend_on_black(
    gray: GrayPixels, alpha: npt.NDArray[Any], *, premultiplied: bool
) -> tuple[GrayPixels, tuple[Flag, ...]]:
    """Blend gray pixels with a black background by their alpha (same shape and type), in place.

    premultiplied: the stored pixels are already blended with black.
    Flag: `alpha_composited` if any pixel is not opaque.
    """
    full = np.iinfo(alpha.dtype).max
    transparent = 0
    for rows in row_bands(gray):
        count = int(np.count_nonzero(alpha[rows] < full))
        transparent += count
        if count and not premultiplied:
            gray[rows] = np.rint(gray[rows].astype(np.float64) * alpha[rows] / full)
    if not transparent:
        return gray, ()
    blended = "are stored blended with black" if premultiplied else "were blended with black"
    message = f"{transparent / gray.size:.2%} of the pixels are fully or partly transparent and {blended}"
    return gray, (Flag(code="alpha_composited", message=message),)


def scale_bits(pixels: GrayPixels, *, bits: int, declared_bits: int | None) -> tuple[GrayPixels, int, tuple[Flag, ...]]:
    """Scale pixels that do not use the upper bits of their type to the full range: v * top / (2^bits - 1), rounded.

    16-bit samples without declared bits are scaled from the smallest of 8, 10, 12 and 14 bits that holds all values.

    bits: of a sample as stored.
    declared_bits: significant bits by the file, or None; used if the values fit.
    Returns (pixels, significant bits, flags). Flag: `assumed_bits` if the depth is not the stored one.
    """
    width = 8 * pixels.dtype.itemsize
    largest = int(cv2.minMaxLoc(pixels)[1])
    depths = [declared_bits] if declared_bits else []
    depths += [*_USUAL_DEPTHS, 16] if bits == 16 else [bits]
    depth = next((d for d in depths if largest < 1 << d), width)
    if depth >= width:
        return pixels, width, ()
    top, full = (1 << depth) - 1, (1 << width) - 1
    table = ((np.arange(top + 1, dtype=np.uint32) * full + top // 2) // top).astype(pixels.dtype)
    scaled = _gray_array(apply_table(table, pixels, 0))
    if depth == bits:
        return scaled, depth, ()
    reason = "the file declares it" if depth == declared_bits else f"the largest value is {largest}"
    flag = Flag(code="assumed_bits", message=f"{bits}-bit samples were read as {depth}-bit, since {reason}")
    return scaled, depth, (flag,)


def stretch_to_uint16(values: npt.NDArray[Any]) -> GrayPixels:
    """Stretch floating-point samples (height, width) from their range to 0..65535. Raises InputError for NaN, infinity."""
    low, high = np.inf, -np.inf
    for rows in row_bands(values):
        if not np.isfinite(values[rows]).all():
            raise InputError(
                "the image contains samples that are not finite numbers (NaN or infinity): export it as 8 or 16-bit integers"
            )
        low, high = min(low, float(values[rows].min())), max(high, float(values[rows].max()))
    if low == high:
        reject_constant(np.zeros((1, 1), np.uint8))
    out = np.empty(values.shape, np.uint16)
    for rows in row_bands(values):
        # Scaled before the subtraction: the span of two finite numbers may be infinite.
        scaled = (values[rows].astype(np.float64) / 2 - low / 2) / (high / 2 - low / 2)
        out[rows] = np.rint(scaled * 65535)
    return _gray_array(out)


def reject_constant(pixels: GrayPixels) -> None:
    """Raise InputError if all pixels are equal."""
    low, high, _, _ = cv2.minMaxLoc(pixels)
    if low == high:
        raise InputError("all pixels have the same value, the image is empty: check the export or the exposure")


def _gray_array(pixels: Any) -> GrayPixels:
    """Return a contiguous array, typed as gray: OpenCV's stubs have generic arrays. `Image` checks the dtype again."""
    array: GrayPixels = np.ascontiguousarray(pixels)
    return array
