"""Mean activation maps that may be published: maps of many patients in, one map over a synthetic chest X-ray out.

The collections' licences do not allow their images to be passed on, so no page shows one: single cases stay in the run folder,
and a page shows the mean map of many lung crops, over a synthetic X-ray that gives the anatomical position.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import cv2
import numpy as np
import numpy.typing as npt

from cxr_edge.ops.lung_box import lung_box
from cxr_edge.ops.preprocess import canvas
from cxr_edge.records import Roi
from cxr_edge.specs.preprocess import PreprocessSpec
from training.data.canvases import LUNG_BOX, as_8_bit
from training.evaluation.figures import CamRow
from training.phantoms import LABELS as DRAWN
from training.phantoms import make_phantom

__all__ = ["drawn_chest", "mean_map", "mean_row"]

Map = npt.NDArray[np.float32]


def mean_map(maps: Iterable[Map]) -> Map:
    """Return the mean of maps (h, w), each clipped at 0 and divided by its own maximum: all patients have equal weight.

    A map without evidence counts as zeros. Raises ValueError if there is no map.
    """
    shares = []
    for one in maps:
        clipped = np.maximum(np.asarray(one, np.float32), 0)
        shares.append(clipped / clipped.max() if clipped.max() > 0 else clipped)
    if not shares:
        raise ValueError("a mean map needs at least one map")
    mean: Map = np.mean(shares, axis=0, dtype=np.float32)
    return mean


def drawn_chest(label: str, spec: PreprocessSpec) -> npt.NDArray[np.uint8]:
    """Return a synthetic X-ray (S, S) as a member's input: cropped to its lung box, or the full frame.

    A label that has no phantom is drawn as the first one of `training.phantoms.LABELS`, without opacities.
    """
    phantom = make_phantom(label if label in DRAWN else DRAWN[0], size_px=512)
    height, width = phantom.pixels.shape
    roi = Roi.full(width, height)
    if spec.region == "lungs":
        mask = cv2.resize(phantom.lung_mask.astype(np.float32), (128, 128), interpolation=cv2.INTER_AREA)
        roi, _ = lung_box(mask, width_px=width, height_px=height, rule=LUNG_BOX)
    cut = as_8_bit(canvas(phantom.pixels, roi, spec))
    edge = (spec.canvas_px - spec.crop_px) // 2
    return cut[edge : edge + spec.crop_px, edge : edge + spec.crop_px]


def mean_row(
    label: str, maps: Mapping[str, Iterable[Map]], spec: PreprocessSpec, captions: Mapping[str, str]
) -> CamRow:
    """Return a row of a picture: each model's mean map of patients with a label, over a synthetic X-ray of it."""
    means = {model: mean_map(found) for model, found in maps.items()}
    return CamRow(
        image=drawn_chest(label, spec), label=f"{label}\n(drawn, not a patient)", maps=means, captions=captions
    )
