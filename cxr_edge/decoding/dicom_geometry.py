r"""DICOM geometry: gray pixels and a header in, pixels resampled to square and rotated upright out; a flag for lateral views.

It exists because no decoder applies these elements: Pixel Aspect Ratio (PS3.3 C.7.6.3.1.7), the pixel spacings
(C.7.6.2 and 10.7), Patient Orientation (C.7.6.1.1.1: the direction of the rows, then of the columns). The usual display of a
frontal chest X-ray is L\F.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from cxr_edge.decoding.dicom_facts import LATERAL_POSITIONS, is_lateral_orientation, view_meanings
from cxr_edge.decoding.dicom_header import Header
from cxr_edge.decoding.limits import Limits
from cxr_edge.errors import InputError
from cxr_edge.records import Flag, GrayPixels

__all__ = ["lateral_view_flags", "resample_square", "rotate_upright"]

_TOLERANCE = 0.01
_LARGEST_RATIO = 4.0


def lateral_view_flags(header: Header) -> tuple[Flag, ...]:
    """Return the flag `lateral_view` if view position, view code or orientation are those of a lateral view."""
    # Lateral decubitus is a frontal view of a patient lying on the side.
    by_meaning = any("LATERAL" in m and "DECUB" not in m for m in view_meanings(header))
    by_view = header.code("ViewPosition") in LATERAL_POSITIONS or by_meaning
    by_orientation = is_lateral_orientation(header)
    if not by_view and not by_orientation:
        return ()
    return (Flag(code="lateral_view", message="by its header this is a lateral view; the models expect a frontal one"),)


def resample_square(pixels: GrayPixels, header: Header, limits: Limits) -> tuple[GrayPixels, tuple[Flag, ...]]:
    """Resample pixels that are not square, along their longer side."""
    ratio, keyword = _height_to_width(header)
    if abs(ratio - 1) <= _TOLERANCE:
        return pixels, ()
    if not 1 / _LARGEST_RATIO <= ratio <= _LARGEST_RATIO:
        raise InputError(
            f"by {header.name(keyword)} a pixel is {ratio:g} times as high as wide, expected {1 / _LARGEST_RATIO:g} to "
            f"{_LARGEST_RATIO:g}: export the file again"
        )
    rows, columns = pixels.shape
    size = (columns, round(rows * ratio)) if ratio > 1 else (round(columns / ratio), rows)
    limits.check_size(*size)
    square: Any = cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR)
    message = (
        f"the pixels are not square (height to width {ratio:.3g}, by {header.name(keyword)}); the image was resampled to "
        f"{size[0]}x{size[1]} px"
    )
    return square, (Flag(code="pixel_aspect", message=message),)


def _height_to_width(header: Header) -> tuple[float, str]:
    """Return height of a pixel over its width, and the element it is from: all have vertical, then horizontal."""
    for keyword in ("PixelAspectRatio", "ImagerPixelSpacing", "PixelSpacing"):
        values = header.numbers(keyword)
        if len(values) == 2 and min(values) > 0 and max(values) < 1e6:
            return values[0] / values[1], keyword
        if values:
            header.note(f"{header.name(keyword)} does not contain two positive numbers and was not used")
    return 1.0, ""


def rotate_upright(pixels: GrayPixels, header: Header) -> tuple[GrayPixels, tuple[Flag, ...]]:
    r"""Rotate and mirror the image to L\F by Patient Orientation, if that is in the frontal plane."""
    codes = header.codes("PatientOrientation")
    if len(codes) < 2:
        return pixels, ()
    row, column = codes[0][:1], codes[1][:1]  # the first letter is the main direction
    rotated: Any = pixels
    if row in ("H", "F") and column in ("L", "R"):
        rotated, row, column = rotated.T, column, row
    elif row not in ("L", "R") or column not in ("H", "F"):
        return pixels, ()
    if row == "R":
        rotated = rotated[:, ::-1]
    if column == "H":
        rotated = rotated[::-1]
    if rotated is pixels:
        return pixels, ()
    message = (
        f"Patient Orientation is {codes[0]}\\{codes[1]}; the image was rotated or mirrored to L\\F, the patient's head up and "
        "left side on the right"
    )
    return np.ascontiguousarray(rotated), (Flag(code="patient_orientation", message=message),)
