"""What every format's decoder gives: samples as stored, and what the header says about how they are to be seen.

It exists so that the steps after decoding (one channel, full range, upright) are the same for all formats.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy.typing as npt

from cxr_edge.records import Flag

__all__ = ["CUT", "DAMAGED", "HOW_TO_CONVERT", "Picture"]

HOW_TO_CONVERT = "export the picture as JPEG, PNG, TIFF, WEBP or DICOM and give that file"
CUT = "the file ends before its picture does (truncated copy or download): copy or export it again"
DAMAGED = "the file is damaged: copy or export it again"


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A decoded picture, not yet gray or upright.

    samples: (height, width); (height, width, 2), gray and alpha; or (height, width, 3 or 4), red first, alpha last; uint8,
    uint16 or floating-point (gray alone). bits: of one sample as stored. significant_bits: fewer than `bits` where the file
    says so, else None. orientation: EXIF 1..8, not yet applied. white_is_zero: gray still to be inverted. alpha: how the
    last of 2 or 4 samples is used. flags: what the decoder noticed.
    """

    format: str
    samples: npt.NDArray[Any]
    bits: int
    significant_bits: int | None = None
    orientation: int = 1
    white_is_zero: bool = False
    alpha: Literal["straight", "premultiplied", "ignored"] = "straight"
    flags: tuple[Flag, ...] = ()
