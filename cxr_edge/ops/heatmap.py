"""Heat map over the lung box, from the members' class activation maps.

Every member ends in a global mean over its map of one label, so the map is the label's evidence per pixel, in logits, and no
gradient is needed. Members may have maps of any size and use the lungs or the full frame, cropped or not: each map is placed
at its member's crop, and the heat map is the positive part of their weighted sum.
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
FULL_HEAT_LOGITS = 2.0  # smallest evidence shown as full heat, so that noise is not amplified

Map = npt.NDArray[np.float32]


def combine_maps(
    cams: Sequence[Map], weights: Sequence[float], label: int, specs: Sequence[PreprocessSpec], roi: Roi, image: Image
) -> Map:
    """Return the heat map (64, 64) over `roi`, in 0..1.

    cams: (labels, h, w) per member.
    weights: of the members in the combination.
    label: index of the label to show.
    specs: the members' preprocessing, which determines the part of the image that a map covers.
    roi: the members' lung box.
    """
    evidence = np.zeros((HEATMAP_PX, HEATMAP_PX), np.float32)
    for cam, weight, spec in zip(cams, weights, specs, strict=True):
        evidence += np.float32(weight) * _over_roi(np.ascontiguousarray(cam[label], np.float32), spec, roi, image)
    positive = np.maximum(evidence, 0.0)
    return np.asarray(positive / max(float(positive.max()), FULL_HEAT_LOGITS), dtype=np.float32)


def _over_roi(cam: Map, spec: PreprocessSpec, roi: Roi, image: Image) -> Map:
    """Sample one member's map (h, w) at the heat map's cells; 0 outside the member's crop."""
    region = roi if spec.region == "lungs" else Roi.full(image.width_px, image.height_px)
    columns = _positions(roi.x0, roi.x1, region.x0, region.x1, spec)
    rows = _positions(roi.y0, roi.y1, region.y0, region.y1, spec)
    x, y = np.meshgrid(columns * cam.shape[1] - 0.5, rows * cam.shape[0] - 0.5)
    sampled = cv2.remap(
        cam, x.astype(np.float32), y.astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    inside = ((rows >= 0) & (rows <= 1))[:, None] & ((columns >= 0) & (columns <= 1))[None, :]
    return np.asarray(np.where(inside, sampled, np.float32(0.0)), dtype=np.float32)


def _positions(
    begin: int, end: int, region_begin: int, region_end: int, spec: PreprocessSpec
) -> npt.NDArray[np.float64]:
    """Return the positions of the cells of begin..end in the member's crop: 0 is its first edge, 1 its last."""
    pixels = begin + (np.arange(HEATMAP_PX) + 0.5) * (end - begin) / HEATMAP_PX
    canvas = (pixels - region_begin) / (region_end - region_begin) * spec.canvas_px
    return np.asarray((canvas - (spec.canvas_px - spec.crop_px) // 2) / spec.crop_px)
