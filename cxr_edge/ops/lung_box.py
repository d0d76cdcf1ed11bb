"""Lung box of a segmentation mask, or the full frame with a flag if the box is not plausible.

R20's rule: project the mask on rows and columns, take the first and last occupied one, widen by a margin, clip
(csrc/lung_box.cc on the host, csrc/lung_box_kernel.h on a GPU). A box whose area or aspect no pair of lungs can have is
rejected: the classifiers then use the full image, and the result has a flag.
"""

from __future__ import annotations

from dataclasses import asdict
from enum import IntEnum

import numpy as np
import numpy.typing as npt

import cxr_edge._core as _core
from cxr_edge.records import Flag, Roi
from cxr_edge.specs.lung_box import LungBoxRule

__all__ = ["LungBoxStatus", "core_rule", "failed_lung_box", "lung_box", "roi_from_result"]

Box = tuple[int, int, int, int]


class LungBoxStatus(IntEnum):
    """Result of the lung box's plausibility check (mirrors `cxr::LungBoxStatus`)."""

    VALID = 0
    NO_LUNG = 1
    BAD_AREA = 2
    BAD_ASPECT = 3


def lung_box(
    mask: npt.NDArray[np.float32], *, width_px: int, height_px: int, rule: LungBoxRule
) -> tuple[Roi, Flag | None]:
    """Return the lung box of an image of width_px x height_px and None, or the full frame and a flag `lung_box_failed`.

    mask: (rows, columns) float32 probabilities of lung over the full frame, of any size.
    """
    status, box = _core.lung_box(
        np.ascontiguousarray(mask, dtype=np.float32), core_rule(rule), width_px=width_px, height_px=height_px
    )
    return roi_from_result(LungBoxStatus(status), box, width_px=width_px, height_px=height_px, rule=rule)


def roi_from_result(
    status: LungBoxStatus, box: Box, *, width_px: int, height_px: int, rule: LungBoxRule
) -> tuple[Roi, Flag | None]:
    """Return the classifiers' region and an optional fallback flag from a native result: status and detected box."""
    if status == LungBoxStatus.VALID:
        return Roi(x0=box[0], y0=box[1], x1=box[2], y1=box[3]), None
    reason = _rejection_reason(status, box, width_px, height_px, rule)
    return Roi.full(width_px, height_px), failed_lung_box(reason)


def failed_lung_box(reason: str) -> Flag:
    """Return the flag of a screening whose members got the full frame. reason: a clause."""
    return Flag(code="lung_box_failed", message=f"The lung box failed ({reason}); the whole image was used instead.")


def core_rule(rule: LungBoxRule) -> _core.LungRule:
    """Convert the rule to its native form."""
    return _core.LungRule(**asdict(rule))


def _rejection_reason(status: LungBoxStatus, box: Box, width_px: int, height_px: int, rule: LungBoxRule) -> str:
    width, height = box[2] - box[0], box[3] - box[1]
    if status == LungBoxStatus.NO_LUNG:
        return "no lung was found"
    if status == LungBoxStatus.BAD_AREA:
        area = width * height / (width_px * height_px)
        return f"the box covers {area:.0%} of the image, expected {rule.min_area:.0%} to {rule.max_area:.0%}"
    return f"the box is {width / height:.2f} times as wide as high, expected {rule.min_aspect} to {rule.max_aspect}"
