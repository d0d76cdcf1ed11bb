"""From the segmenter's mask to the lung box, or to the full frame and the reason why.

R20's rule: project the mask on rows and columns, first and last occupied, widened by a margin, clipped; a box that no
pair of lungs can have is not believed (csrc/lung_box.cc on the host, csrc/lung_box_kernel.h on a GPU). Then the members
see the whole image, and a flag in the result says so.
"""

from __future__ import annotations

from dataclasses import asdict
from enum import IntEnum

import numpy as np
import numpy.typing as npt

import cxr_edge._core as _core
from cxr_edge.records import Flag, Roi
from cxr_edge.specs.lung_box import LungBoxRule

__all__ = ["LungVerdict", "core_rule", "lung_box", "roi_and_flag"]

Box = tuple[int, int, int, int]


class LungVerdict(IntEnum):
    """What csrc says of a mask (`cxr::LungVerdict`)."""

    BELIEVED = 0
    NO_LUNG = 1
    AREA = 2
    ASPECT = 3


def lung_box(
    mask: npt.NDArray[np.float32], *, width_px: int, height_px: int, rule: LungBoxRule
) -> tuple[Roi, Flag | None]:
    """The box of an image of width_px x height_px that its lung mask asks for.

    mask: (rows, columns) float32 probabilities of lung over the whole frame, of any size. Returns the box and None, or
    the full frame and a flag `lung_box_failed` whose message says what was wrong with the mask.
    """
    verdict, box, _ = _core.lung_box(
        np.ascontiguousarray(mask, dtype=np.float32), core_rule(rule), width_px=width_px, height_px=height_px
    )
    return roi_and_flag(LungVerdict(verdict), box, width_px=width_px, height_px=height_px, rule=rule)


def roi_and_flag(
    verdict: LungVerdict, box: Box, *, width_px: int, height_px: int, rule: LungBoxRule
) -> tuple[Roi, Flag | None]:
    """What members see and the report says, from the verdict on a mask and the box that was found in it."""
    if verdict == LungVerdict.BELIEVED:
        return Roi(x0=box[0], y0=box[1], x1=box[2], y1=box[3]), None
    reason = _disbelief(verdict, box, width_px, height_px, rule)
    message = f"The lung box failed ({reason}); the whole image was used instead."
    return Roi.full(width_px, height_px), Flag(code="lung_box_failed", message=message)


def core_rule(rule: LungBoxRule) -> _core.LungRule:
    """The rule as csrc takes it."""
    return _core.LungRule(**asdict(rule))


def _disbelief(verdict: LungVerdict, box: Box, width_px: int, height_px: int, rule: LungBoxRule) -> str:
    width, height = box[2] - box[0], box[3] - box[1]
    if verdict == LungVerdict.NO_LUNG:
        return "no lung was found"
    if verdict == LungVerdict.AREA:
        area = width * height / (width_px * height_px)
        return f"the box covers {area:.0%} of the image, expected {rule.min_area:.0%} to {rule.max_area:.0%}"
    return f"the box is {width / height:.2f} times as wide as high, expected {rule.min_aspect} to {rule.max_aspect}"
