"""Shortcut checks: a classifier of the source, canvases without lungs, and where members look. Canvases in, figures out.

`source_classifier_accuracy`: a linear classifier names the collection from a 32 px copy of the members' input; the higher its
accuracy, the more a member could predict the collection's label instead of the image's. `lungs_painted_over`: canvases
without lungs; any skill that the ensemble has left on them comes from the rim: framing, letters, age. `lung_share`: share of a
member's positive activation inside the lungs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import cv2
import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression

from cxr_edge.ops.preprocess import canvas
from cxr_edge.records import GrayPixels, Roi
from cxr_edge.specs.preprocess import PreprocessSpec
from training.data.canvases import Canvases, LungFinder
from training.data.dataset import Sample, read_all
from training.data.records import Record
from training.evaluation.metrics import Bootstrap, Figure, bootstrap
from training.evaluation.results import SourceClassifier

__all__ = [
    "lung_masks",
    "lung_share",
    "lungs_painted_over",
    "mean_figure",
    "small_copies",
    "source_classifier_accuracy",
]

_SIDE_PX = 32
_LUNG = 0.3  # threshold of the mask's probability: low, so that the whole lung is painted over

Group = Callable[[Record], bool]


def _groups(labels: Sequence[str]) -> Mapping[str, Group]:
    """Return the groups of images by name: within one label, only the image itself can reveal the source."""
    by_label = {f"{name} only": _labelled(name) for name in labels}
    return {"all images": lambda r: True, **by_label, "adults only": lambda r: r.adult}


def _labelled(label: str) -> Group:
    return lambda r: r.label == label


def source_classifier_accuracy(
    samples: Sequence[Sample], features: npt.NDArray[np.float32], labels: Sequence[str], draws: Bootstrap
) -> dict[str, SourceClassifier]:
    """Return the balanced accuracy of a logistic regression that predicts the source, fitted on train patients, by group.

    features: (N, F), of `small_copies`, or a member's own. labels: each is a group of its own, beside all images and the adults.
    A group with fewer than two sources on both sides is left out. Evaluated on test patients; chance is 1 / sources.
    """
    found = {}
    for name, contains in _groups(labels).items():
        rows = [i for i, s in enumerate(samples) if contains(s.record)]
        by_side = {
            side: {samples[i].record.source for i in rows if samples[i].side == side} for side in ("train", "test")
        }
        sources = sorted(by_side["train"] & by_side["test"])
        if len(sources) < 2:
            continue
        known = [i for i in rows if samples[i].record.source in sources]
        train = [i for i in known if samples[i].side == "train"]
        test = [i for i in known if samples[i].side == "test"]
        figure = _balanced_accuracy(samples, features, train, test, draws)
        found[name] = SourceClassifier(sources=tuple(sources), chance=1 / len(sources), balanced_accuracy=figure)
    return found


def _balanced_accuracy(
    samples: Sequence[Sample],
    features: npt.NDArray[np.float32],
    train: Sequence[int],
    test: Sequence[int],
    draws: Bootstrap,
) -> Figure:
    source = np.array([s.record.source for s in samples])
    model = LogisticRegression(C=0.01, class_weight="balanced", max_iter=200, random_state=draws.seed)
    predicted = model.fit(features[train], source[train]).predict(features[test])
    true = source[test]
    kinds = np.unique(true)

    def measure(weights: npt.NDArray[np.float64] | None) -> npt.NDArray[np.float64]:
        w = np.ones(len(true)) if weights is None else weights
        parts = [(w * (predicted == true))[true == k].sum() / max(w[true == k].sum(), 1e-9) for k in kinds]
        return np.array([np.mean(parts)])

    patients = np.array([samples[i].group for i in test])
    return bootstrap(measure, patients, draws)[0]


def small_copies(lungs: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return the canvases at 32 px (N, 1024), each standardised by its own mean and deviation, as the members' input is."""
    small = np.stack([cv2.resize(c, (_SIDE_PX, _SIDE_PX), interpolation=cv2.INTER_AREA).ravel() for c in lungs])
    small = small.astype(np.float32)
    centred = small - small.mean(axis=1, keepdims=True)
    return np.asarray(centred / np.maximum(small.std(axis=1, keepdims=True), 1.0), dtype=np.float32)


def lung_masks(
    samples: Sequence[Sample],
    canvases: Canvases,
    rows: Sequence[int],
    find_lungs: LungFinder,
    spec: PreprocessSpec,
    *,
    threads: int,
) -> npt.NDArray[np.bool_]:
    """Return the lungs on the canvases (rows, S, S), slightly dilated."""
    boxes = {samples[i].record.key: _roi(canvases.rois[i]) for i in rows}

    def mask(record: Record, image: GrayPixels) -> npt.NDArray[np.bool_]:
        lung = cv2.resize(find_lungs.mask(image), image.shape[::-1], interpolation=cv2.INTER_LINEAR) >= _LUNG
        on_canvas = canvas(lung.astype(np.uint8) * 255, boxes[record.key], spec) >= 64
        dilated: npt.NDArray[np.bool_] = cv2.dilate(on_canvas.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
        return dilated

    return np.stack(list(read_all([samples[i].record for i in rows], threads, mask)))


def lungs_painted_over(lungs: npt.NDArray[np.uint8], masks: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """Return canvases (N, S, S) with the pixels of the masks replaced by the mean of the others."""
    painted: npt.NDArray[np.uint8] = lungs.copy()
    for rim, lung in zip(painted, masks, strict=True):
        rim[lung] = round(float(rim[~lung].mean())) if not lung.all() else 0
    return painted


def lung_share(maps: npt.NDArray[np.float32], masks: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Return the share of positive activation inside the lungs, per image (N,); NaN without any.

    maps: (N, h, w), of one label. masks: (N, S, S), of `lung_masks`. Compare it with the lungs' share of the canvas, which
    activation without any aim would have.
    """
    shares = np.full(len(maps), np.nan)
    for i, (map_, lung) in enumerate(zip(maps, masks, strict=True)):
        inside = cv2.resize(lung.astype(np.float32), map_.shape[::-1], interpolation=cv2.INTER_AREA)
        evidence = np.maximum(map_, 0)
        if evidence.sum() > 0:
            shares[i] = float((evidence * inside).sum() / evidence.sum())
    return shares


def mean_figure(values: npt.NDArray[np.float64], patients: npt.NDArray[np.str_], draws: Bootstrap) -> Figure:
    """Return the mean of the values (N,) that are not NaN, with its interval by patient."""
    return bootstrap(lambda w: np.array([_weighted_mean(values, w)]), patients, draws)[0]


def _weighted_mean(values: npt.NDArray[np.float64], weights: npt.NDArray[np.float64] | None) -> float:
    w = np.where(np.isnan(values), 0.0, np.ones(len(values)) if weights is None else weights)
    return float((np.nan_to_num(values) * w).sum() / w.sum()) if w.sum() else float("nan")


def _roi(values: npt.NDArray[np.int32]) -> Roi:
    x0, y0, x1, y1 = (int(v) for v in values)
    return Roi(x0=x0, y0=y0, x1=x1, y1=y1)
