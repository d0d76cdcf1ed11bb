"""Facts of a run that every evaluation states: separation and sizes of the sides, and the lung segmenter's figures."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from cxr_edge.bundle import Bundle
from cxr_edge.records import GrayPixels
from training.config import BundleConfig
from training.data.canvases import LungFinder
from training.data.dataset import Sample, read_all
from training.data.records import Record
from training.data.splits import SIDES
from training.evaluation.results import TOGETHER, LungFigures, Side
from training.tasks.segment import dice, read_mask

__all__ = ["lung_figures", "lung_finder", "sizes_of_sides", "split_in_words"]


def split_in_words(samples: Sequence[Sample]) -> str:
    """Describe how the test side is separated, as the samples show it."""
    test, rest = ({s.group for s in samples if (s.side == "test") is is_test} for is_test in (True, False))
    if not test & rest:
        return "test patients: none of their images, nor copies of them, were used in training or selection"
    return (
        f"it leaks: {len(test & rest)} of {len(test)} test patients have images, or copies of them, on the other sides"
    )


def sizes_of_sides(samples: Sequence[Sample]) -> dict[str, Side]:
    """Return the images and patients of each side."""
    by_side = {side: [s.group for s in samples if s.side == side] for side in SIDES}
    return {side: Side(images=len(groups), patients=len(set(groups))) for side, groups in by_side.items()}


def lung_figures(bundle: Bundle, samples: Sequence[Sample], config: BundleConfig) -> dict[str, LungFigures]:
    """Return Dice and IoU of the segmenter on test patients with masks, at the masks' own resolution.

    Nothing for a segmenter of another bundle: it may have been trained on these patients.
    """
    find_lungs = lung_finder(bundle)
    if find_lungs is None or config.segmenter_of is not None:
        return {}
    masked = [s.record for s in samples if s.side == "test" and s.record.mask is not None]

    def measure(record: Record, image: GrayPixels) -> float:
        mask = read_mask(record, image.shape)
        probability = cv2.resize(find_lungs.mask(image), image.shape[::-1], interpolation=cv2.INTER_LINEAR)
        return dice(probability, (mask == 255).astype(np.float32), (mask != 127).astype(np.float32))

    values = np.array(list(read_all(masked, config.threads, measure)), dtype=np.float64)
    source = np.array([r.source for r in masked])
    groups = {**{s: source == s for s in sorted(set(source.tolist()))}, TOGETHER: np.ones(len(values), dtype=bool)}
    return {name: _mean_figures(values[rows]) for name, rows in groups.items() if rows.any()}


def lung_finder(bundle: Bundle) -> LungFinder | None:
    """Return the bundle's segmenter; None if members see the full frame."""
    segmenter = bundle.manifest.segmenter
    if segmenter is None:
        return None
    return LungFinder(bundle.file(segmenter.file), segmenter.preprocess, segmenter.lung_box)


def _mean_figures(dices: npt.NDArray[np.float64]) -> LungFigures:
    iou = float((dices / (2 - dices)).mean())
    return LungFigures(images=len(dices), dice=float(dices.mean()), iou=iou, worst_dice=float(dices.min()))
