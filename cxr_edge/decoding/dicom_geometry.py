r"""How a DICOM picture lies, from its header: pixels made square, the picture turned upright, lateral views named.

It exists because no decoder applies these elements: Pixel Aspect Ratio (PS3.3 C.7.6.3.1.7), the pixel spacings
(C.7.6.2 and 10.7), Patient Orientation (C.7.6.1.1.1: the direction of the rows, then of the columns). A frontal chest that
hangs as readers expect it is L\F.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from cxr_edge.decoding.dicom_header import Header
from cxr_edge.decoding.limits import Limits
from cxr_edge.errors import InputError
from cxr_edge.records import Flag, GrayPixels

__all__ = ["laterality_flags", "square_pixels", "upright"]

_TOLERANCE = 0.01
_LARGEST_RATIO = 4.0
_LATERAL_POSITIONS = ("LL", "RL", "L", "LAT", "LATERAL", "LLO", "RLO")


def laterality_flags(header: Header) -> tuple[Flag, ...]:
    """The flag `lateral_view` where view position, view code or orientation say so."""
    meanings = [
        str(header.value_of(item, "ViewCodeSequence", "CodeMeaning") or "").upper()
        for item in header.items("ViewCodeSequence")
    ]
    # Lateral decubitus is a frontal view of a patient who lies on the side.
    by_view = header.code("ViewPosition") in _LATERAL_POSITIONS or any(
        "LATERAL" in m and "DECUB" not in m for m in meanings
    )
    by_orientation = any(code[:1] in ("A", "P") for code in header.codes("PatientOrientation"))
    if not by_view and not by_orientation:
        return ()
    return (Flag(code="lateral_view", message="the file says lateral view; the models expect a frontal one"),)


def square_pixels(pixels: GrayPixels, header: Header, limits: Limits) -> tuple[GrayPixels, tuple[Flag, ...]]:
    """Resample pixels that are not square, along the side on which they are larger."""
    ratio, keyword = _height_to_width(header)
    if abs(ratio - 1) <= _TOLERANCE:
        return pixels, ()
    if not 1 / _LARGEST_RATIO <= ratio <= _LARGEST_RATIO:
        raise InputError(
            f"{header.name(keyword)} says that a pixel is {ratio:g} times as high as wide, expected {1 / _LARGEST_RATIO:g} to "
            f"{_LARGEST_RATIO:g}: export the file again"
        )
    rows, columns = pixels.shape
    size = (columns, round(rows * ratio)) if ratio > 1 else (round(columns / ratio), rows)
    limits.check_size(*size)
    square: Any = cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR)
    message = (
        f"the pixels are not square (height to width {ratio:.3g}, by {header.name(keyword)}); the picture was resampled to "
        f"{size[0]}x{size[1]} px"
    )
    return square, (Flag(code="pixel_aspect", message=message),)


def _height_to_width(header: Header) -> tuple[float, str]:
    """Height of a pixel over its width, and the element that says so: vertical, then horizontal in all of them."""
    for keyword in ("PixelAspectRatio", "ImagerPixelSpacing", "PixelSpacing"):
        values = header.numbers(keyword)
        if len(values) == 2 and min(values) > 0 and max(values) < 1e6:
            return values[0] / values[1], keyword
        if values:
            header.note(f"{header.name(keyword)} holds no two positive numbers and was not used")
    return 1.0, ""


def upright(pixels: GrayPixels, header: Header) -> tuple[GrayPixels, tuple[Flag, ...]]:
    r"""Turn and mirror the picture to L\F as Patient Orientation says, where it names the frontal plane."""
    codes = header.codes("PatientOrientation")
    if len(codes) < 2:
        return pixels, ()
    row, column = codes[0][:1], codes[1][:1]  # the first letter is the main direction
    turned: Any = pixels
    if row in ("H", "F") and column in ("L", "R"):
        turned, row, column = turned.T, column, row
    elif row not in ("L", "R") or column not in ("H", "F"):
        return pixels, ()
    if row == "R":
        turned = turned[:, ::-1]
    if column == "H":
        turned = turned[::-1]
    if turned is pixels:
        return pixels, ()
    message = (
        f"Patient Orientation is {codes[0]}\\{codes[1]}; the picture was turned or mirrored to L\\F, the patient's head up and "
        "left side on the right"
    )
    return np.ascontiguousarray(turned), (Flag(code="patient_orientation", message=message),)
