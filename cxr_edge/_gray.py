"""Decoded samples in, gray pixels that use the full range of their type out, with flags for what was assumed.

It exists because ordinary files and DICOM meet the same questions: is this colour or gray stored as colour, how many
bits are really used, is there anything in the picture at all. Thresholds are on a scale of 0..255 and scale with depth.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from cxr_edge.errors import InputError
from cxr_edge.records import Flag, GrayPixels

__all__ = ["refuse_constant", "scale_bits", "to_gray", "to_uint16"]

# A pixel's chroma is the largest difference between its channels. Up to 8: rounding and JPEG noise in neutral gray.
# Over 32: seen as a colour. Tinted films and scans stay between (measured on published COVID-19 collections: a tinted
# film has 0.3 % of its pixels over 32, coloured letters and arrows 0.5 %); colour photographs and heat-map overlays have
# from a fifth to nearly all of their pixels over 32.
_NOISE, _COLOUR = 8, 32
_TINTED_SHARE, _COLOURED_LIMIT = 0.05, 0.05

_USUAL_DEPTHS = (8, 10, 12, 14)


def to_gray(bgr: npt.NDArray[Any]) -> tuple[GrayPixels, tuple[Flag, ...]]:
    """(height, width, 3) uint8 or uint16, blue first, to (height, width) of the same type.

    Raises InputError for a colour picture. Flags `tinted` and `coloured_marks`.
    """
    unit = 257 if bgr.dtype == np.uint16 else 1
    blue, green, red = cv2.split(bgr)
    chroma = cv2.max(cv2.absdiff(blue, green), cv2.max(cv2.absdiff(green, red), cv2.absdiff(red, blue)))
    largest = cv2.minMaxLoc(chroma)[1]
    if largest == 0:
        return _gray_array(green), ()
    gray = _gray_array(cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY))
    return gray, _colour_flags(chroma, unit) if largest > _NOISE * unit else ()


def _colour_flags(chroma: npt.NDArray[Any], unit: int) -> tuple[Flag, ...]:
    off_gray = cv2.countNonZero((chroma > _NOISE * unit).view(np.uint8)) / chroma.size
    coloured = cv2.countNonZero((chroma > _COLOUR * unit).view(np.uint8)) / chroma.size
    if coloured > _COLOURED_LIMIT:
        raise InputError(
            f"this is a colour picture: {coloured:.0%} of its pixels are coloured, an X-ray with coloured marks has at "
            f"most {_COLOURED_LIMIT:.0%}. Give the X-ray itself, without overlay; a tinted scan: convert it to gray first"
        )
    flags = []
    if off_gray > _TINTED_SHARE:
        flags.append(
            Flag(code="tinted", message=f"{off_gray:.0%} of the pixels are tinted; brightness was taken as gray")
        )
    if coloured:
        flags.append(
            Flag(code="coloured_marks", message=f"{coloured:.2%} of the pixels are coloured marks or lettering")
        )
    return tuple(flags)


def scale_bits(pixels: GrayPixels, *, declared_bits: int | None) -> tuple[GrayPixels, int, tuple[Flag, ...]]:
    """uint16 pixels that leave the upper bits empty, scaled to the full range: v * 65535 / (2^bits - 1), rounded.

    declared_bits: what the file says, believed where the values fit. Returns (pixels, bits, flags); flags
    `assumed_bits` when something was scaled. Other pixels come back as they are.
    """
    if pixels.dtype == np.uint8:
        return pixels, 8, ()
    largest = int(cv2.minMaxLoc(pixels)[1])
    depths = (declared_bits, *_USUAL_DEPTHS) if declared_bits else _USUAL_DEPTHS
    bits = next((b for b in depths if largest < 1 << b), 16)
    if bits == 16:
        return pixels, 16, ()
    top = (1 << bits) - 1
    table = ((np.arange(top + 1, dtype=np.uint32) * 65535 + top // 2) // top).astype(np.uint16)
    why = "the file says so" if bits == declared_bits else f"the largest value is {largest}"
    flag = Flag(code="assumed_bits", message=f"16-bit samples were read as {bits}-bit, since {why}")
    return _gray_array(table[pixels]), bits, (flag,)


def to_uint16(values: npt.NDArray[Any]) -> GrayPixels:
    """Floating-point samples (height, width), stretched from their range to 0..65535. InputError for NaN, infinity."""
    if not np.isfinite(values).all():
        raise InputError(
            "the picture holds samples that are no numbers (NaN or infinity): export it as 8 or 16-bit integers"
        )
    low, high = float(values.min()), float(values.max())
    if low == high:
        refuse_constant(np.zeros((1, 1), np.uint8))
    return _gray_array(np.rint((values.astype(np.float64) - low) * (65535 / (high - low))).astype(np.uint16))


def refuse_constant(pixels: GrayPixels) -> None:
    """Raise InputError when all pixels are equal."""
    low, high, _, _ = cv2.minMaxLoc(pixels)
    if low == high:
        raise InputError("all pixels have the same value, there is no picture: check the export or the exposure")


def _gray_array(pixels: Any) -> GrayPixels:
    """OpenCV's stubs know only generic arrays; the dtype is checked again when an `Image` is made."""
    array: GrayPixels = np.ascontiguousarray(pixels)
    return array
