"""Result types of the format decoders: samples as stored with the header values needed to display them, or finished gray.

They exist so that the steps after decoding (one channel, full range, upright) are the same for all ordinary formats.
DICOM defines its own steps and returns a `GrayImage`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy.typing as npt

from cxr_edge.records import AcquisitionFacts, Flag, GrayPixels

__all__ = ["DAMAGED", "TRUNCATED", "DecodedImage", "GrayImage"]

TRUNCATED = "the file ends before the end of its image (truncated copy or download): copy or export it again"
DAMAGED = "the file is damaged: copy or export it again"


@dataclass(frozen=True, kw_only=True)
class DecodedImage:
    """A decoded image that is not yet one gray channel, scaled to the full range, or upright."""

    # (height, width), (height, width, 2): gray and alpha, or (height, width, 3 or 4): red first, alpha last;
    # uint8, uint16, or floating-point (gray only).
    samples: npt.NDArray[Any]
    bits: int  # of one sample as stored in the file
    used_bits: int | None = None  # of the values in `samples` if fewer than the bits of its type, else None
    significant_bits: int | None = None  # declared by the file if fewer than `bits`, else None
    orientation: int = 1  # EXIF 1..8, not yet applied
    white_is_zero: bool = False  # gray values are still to be inverted
    alpha: Literal["straight", "premultiplied", "ignored"] = "straight"  # use of the last of 2 or 4 samples
    flags: tuple[Flag, ...] = ()  # of the decoder


@dataclass(frozen=True, kw_only=True)
class GrayImage:
    """A decoded image in its final form, see `Image` for the pixels."""

    pixels: GrayPixels
    stored_bits: int
    flags: tuple[Flag, ...]
    facts: AcquisitionFacts = field(default_factory=AcquisitionFacts)
