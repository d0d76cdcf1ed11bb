"""From the segmenter's mask to the lung box, or to the full frame and the reason why.

R20's rule: project the mask on rows and columns, first and last occupied, widened by a margin, clipped (csrc/lung_box.cc).
A box that no pair of lungs can have is not believed: then the members see the whole image, and a flag in the result
says so.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cxr_edge import _core
from cxr_edge.manifest import LungBoxRule
from cxr_edge.records import Flag, Roi

__all__ = ["lung_box"]


def lung_box(
    mask: npt.NDArray[np.float32], *, width_px: int, height_px: int, rule: LungBoxRule
) -> tuple[Roi, Flag | None]:
    """The box of an image of width_px x height_px that its lung mask asks for.

    mask: (rows, columns) float32 probabilities of lung over the whole frame, of any size. Returns the box and None, or
    the full frame and a flag `lung_box_failed` whose message says what was wrong with the mask.
    """
    box, _ = _core.lung_box(
        np.ascontiguousarray(mask, dtype=np.float32),
        threshold=rule.threshold,
        min_pixels=rule.min_pixels,
        margin=rule.margin,
        width_px=width_px,
        height_px=height_px,
    )
    reason = "no lung was found" if box is None else _disbelief(box, width_px, height_px, rule)
    if reason is None and box is not None:
        return Roi(x0=box[0], y0=box[1], x1=box[2], y1=box[3]), None
    message = f"The lung box failed ({reason}); the whole image was used instead."
    return Roi.full(width_px, height_px), Flag(code="lung_box_failed", message=message)


def _disbelief(box: tuple[int, int, int, int], width_px: int, height_px: int, rule: LungBoxRule) -> str | None:
    """Why a box cannot be a pair of lungs, or None."""
    width, height = box[2] - box[0], box[3] - box[1]
    area = width * height / (width_px * height_px)
    if not rule.min_area <= area <= rule.max_area:
        return f"the box covers {area:.0%} of the image, expected {rule.min_area:.0%} to {rule.max_area:.0%}"
    aspect = width / height
    if not rule.min_aspect <= aspect <= rule.max_aspect:
        return f"the box is {aspect:.2f} times as wide as high, expected {rule.min_aspect} to {rule.max_aspect}"
    return None
