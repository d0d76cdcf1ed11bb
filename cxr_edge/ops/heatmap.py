"""From the members' class activation maps to one heat map over the lung box.

Every member ends in a global mean over its map of one label, so the map is the label's evidence by place, in logits, with
no gradient needed. Members may have maps of any size and see the lungs or the whole frame, cropped or not: each map is
laid where its member looked, the weighted sum's positive part is what is shown.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from cxr_edge.records import Image, Roi
from cxr_edge.specs.preprocess import PreprocessSpec

__all__ = ["combine_maps"]

HEATMAP_PX = 64  # finer than any member's map; the report enlarges it
FULL_HEAT_LOGITS = 2.0  # the least evidence that is shown as full heat, so that noise is not blown up

Map = npt.NDArray[np.float32]


def combine_maps(
    cams: Sequence[Map], weights: Sequence[float], label: int, specs: Sequence[PreprocessSpec], roi: Roi, image: Image
) -> Map:
    """The heat map (64, 64) over `roi`, in 0..1.

    cams: (labels, h, w) a member. weights: of the members in the combination. label: index of the label to show. specs:
    the members' preprocessing, which says what part of the image a map covers. roi: the lung box they were given.
    """
    evidence = np.zeros((HEATMAP_PX, HEATMAP_PX), np.float32)
    for cam, weight, spec in zip(cams, weights, specs, strict=True):
        evidence += np.float32(weight) * _over_roi(np.ascontiguousarray(cam[label], np.float32), spec, roi, image)
    positive = np.maximum(evidence, 0.0)
    return np.asarray(positive / max(float(positive.max()), FULL_HEAT_LOGITS), dtype=np.float32)


def _over_roi(cam: Map, spec: PreprocessSpec, roi: Roi, image: Image) -> Map:
    """One member's map (h, w) sampled at the heat map's cells; 0 where the member did not look."""
    seen = roi if spec.region == "lungs" else Roi.full(image.width_px, image.height_px)
    columns = _positions(roi.x0, roi.x1, seen.x0, seen.x1, spec)
    rows = _positions(roi.y0, roi.y1, seen.y0, seen.y1, spec)
    x, y = np.meshgrid(columns * cam.shape[1] - 0.5, rows * cam.shape[0] - 0.5)
    sampled = cv2.remap(
        cam, x.astype(np.float32), y.astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    inside = ((rows >= 0) & (rows <= 1))[:, None] & ((columns >= 0) & (columns <= 1))[None, :]
    return np.asarray(np.where(inside, sampled, np.float32(0.0)), dtype=np.float32)


def _positions(begin: int, end: int, seen_begin: int, seen_end: int, spec: PreprocessSpec) -> npt.NDArray[np.float64]:
    """Where the cells of begin..end lie in the member's crop: 0 its first edge, 1 its last."""
    pixels = begin + (np.arange(HEATMAP_PX) + 0.5) * (end - begin) / HEATMAP_PX
    canvas = (pixels - seen_begin) / (seen_end - seen_begin) * spec.canvas_px
    return np.asarray((canvas - (spec.canvas_px - spec.crop_px) // 2) / spec.crop_px)
