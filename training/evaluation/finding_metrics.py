"""Metrics of findings that do not exclude each other: truth, decisions and probabilities in, figures with 95 % intervals out.

Every figure of a finding is over the images in which it is known. Sensitivity and specificity at the threshold are shares of
images and have the exact (Clopper-Pearson) interval; the other intervals come from drawing patients with replacement.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from cxr_edge.specs.combination import Decision
from training.evaluation.metrics import Bootstrap, Figure, auc_of_ranks, bootstrap, proportion, ranks

__all__ = [
    "SPECIFICITY",
    "FindingFigures",
    "FindingPredictions",
    "FindingsModelFigures",
    "average_precision",
    "decided",
    "expected_calibration_error",
    "findings_figures",
    "masked_log_loss",
    "sensitivity_at",
]

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
SPECIFICITY = 0.9  # at which a sensitivity is reported
_BINS = 10  # of calibration, of equal width
_LEAST = 1e-6  # probability in logarithms


@dataclass(frozen=True, kw_only=True)
class FindingPredictions:
    """Predictions on N images of K findings. Raises ValueError for arrays of different sizes."""

    truth: npt.NDArray[np.float32]  # (N, K): 1 present, 0 absent, NaN unknown
    present: Mask  # (N, K), as decided
    probabilities: Floats  # (N, K)
    patients: npt.NDArray[np.str_]  # (N,) names

    def __post_init__(self) -> None:
        n = len(self.truth)
        if not self.truth.shape == self.present.shape == self.probabilities.shape or len(self.patients) != n:
            raise ValueError("truth, decisions, probabilities and patients must be of one size")

    def only(self, rows: Mask) -> FindingPredictions:
        """Return the predictions on the images of a mask (N,)."""
        return FindingPredictions(
            truth=self.truth[rows],
            present=self.present[rows],
            probabilities=self.probabilities[rows],
            patients=self.patients[rows],
        )


@dataclass(frozen=True, kw_only=True)
class FindingFigures:
    """Figures of one finding, over the images in which it is known."""

    known: int  # images
    present: int  # of these
    patients: int  # with a known image
    prevalence: float  # present / known: the AUPRC of chance; NaN without a known image
    auroc: Figure
    auprc: Figure  # average precision
    sensitivity: Figure  # at the threshold
    specificity: Figure
    sensitivity_at_90: Figure  # at the highest sensitivity with a specificity of 90 % or more
    f1: Figure
    calibration_error: Figure  # expected; 10 bins of equal width


@dataclass(frozen=True, kw_only=True)
class FindingsModelFigures:
    """Figures of one model on one set of images; macro: means over the findings with both kinds of images."""

    images: int  # with a known finding
    patients: int
    findings: int  # that the macro means are over
    macro_auroc: Figure
    macro_auprc: Figure
    macro_sensitivity: Figure
    macro_specificity: Figure
    macro_sensitivity_at_90: Figure
    macro_f1: Figure
    macro_calibration_error: Figure
    log_loss: float  # mean over the known findings of an image, then over images
    labels: Mapping[str, FindingFigures]


def decided(probabilities: npt.NDArray[np.floating], decision: Decision, labels: Sequence[str]) -> Mask:
    """Return which findings are present (N, labels), compared in float32 as deployed."""
    limits = np.array([decision.threshold_of(label) for label in labels], dtype=np.float32)
    return np.asarray(probabilities.astype(np.float32) >= limits)


def masked_log_loss(probabilities: Floats, truth: npt.NDArray[np.float32]) -> Floats:
    """Return the mean cross entropy over the known findings of each image (N,); NaN for an image without."""
    known = ~np.isnan(truth)
    right = np.where(truth == 1, probabilities, 1 - probabilities)
    loss = np.where(known, -np.log(np.maximum(right, _LEAST)), 0.0).sum(axis=1)
    found: Floats = np.divide(loss, known.sum(axis=1), out=np.full(len(loss), np.nan), where=known.any(axis=1))
    return found


def average_precision(ranked: npt.NDArray[np.int64], positive: Mask, weights: Floats) -> float:
    """Return the average precision from dense ranks (N,) of the scores, as scikit-learn defines it; NaN without positives."""
    hits = np.bincount(ranked, weights * positive)[::-1]
    called = np.cumsum(np.bincount(ranked, weights)[::-1])
    precision = np.divide(np.cumsum(hits), called, out=np.zeros(len(hits)), where=called > 0)
    return float((hits * precision).sum() / hits.sum()) if hits.sum() > 0 else float("nan")


def sensitivity_at(
    ranked: npt.NDArray[np.int64], positive: Mask, weights: Floats, specificity: float = SPECIFICITY
) -> float:
    """Return the highest sensitivity of a threshold with this specificity or more; NaN without both kinds of images."""
    hits = np.cumsum(np.bincount(ranked, weights * positive)[::-1])
    alarms = np.cumsum(np.bincount(ranked, weights * ~positive)[::-1])
    if not hits[-1] > 0 or not alarms[-1] > 0:
        return float("nan")
    allowed = alarms <= (1 - specificity + 1e-12) * alarms[-1]
    return float((hits * allowed).max() / hits[-1])


def expected_calibration_error(probabilities: Floats, positive: Mask, weights: Floats) -> float:
    """Return the mean distance between probability and share present, over bins of equal width; NaN without images."""
    bins = np.minimum((probabilities * _BINS).astype(int), _BINS - 1)
    gaps = np.bincount(bins, weights * (positive - probabilities), _BINS)
    return float(np.abs(gaps).sum() / weights.sum()) if weights.sum() > 0 else float("nan")


def findings_figures(p: FindingPredictions, labels: Sequence[str], draws: Bootstrap) -> FindingsModelFigures:
    """Return all figures of one model on one set. labels: names of the K findings."""
    known, positive = ~np.isnan(p.truth), p.truth == 1
    both = positive.any(axis=0) & (known & ~positive).any(axis=0)
    columns = [
        _Column(p.probabilities[own, k], positive[own, k], p.present[own, k], own) for k, own in enumerate(known.T)
    ]

    def measure(weights: Floats | None) -> Floats:
        w = np.ones(len(p.truth)) if weights is None else weights
        rows = np.array([column.measure(w) for column in columns])  # (K, figures)
        return np.concatenate([rows.ravel(), _mean(rows[both])])

    spread = bootstrap(measure, p.patients, draws) if len(p.truth) else _nothing(len(labels))
    each = len(_MEASURES)
    rows = {
        label: _finding(columns[k], spread[k * each : (k + 1) * each], p.patients) for k, label in enumerate(labels)
    }
    macro = dict(zip(_MEASURES, spread[len(labels) * each :], strict=True))
    return FindingsModelFigures(
        images=int(known.any(axis=1).sum()),
        patients=len(set(p.patients[known.any(axis=1)].tolist())),
        findings=int(both.sum()),
        log_loss=_log_loss(p),
        labels=rows,
        **{f"macro_{name}": figure for name, figure in macro.items()},
    )


def _log_loss(p: FindingPredictions) -> float:
    losses = masked_log_loss(p.probabilities, p.truth)
    return float(np.nanmean(losses)) if np.isfinite(losses).any() else float("nan")


def _mean(rows: Floats) -> Floats:
    """Return the means over findings, those without a figure in a draw left out."""
    counts = np.isfinite(rows).sum(axis=0)
    means: Floats = np.divide(np.nansum(rows, axis=0), counts, out=np.full(len(_MEASURES), np.nan), where=counts > 0)
    return means


def _nothing(labels: int) -> list[Figure]:
    nan = float("nan")
    return [Figure(value=nan, low=nan, high=nan, n=0)] * ((labels + 1) * len(_MEASURES))


class _Column:
    """One finding on the images in which it is known."""

    def __init__(self, probabilities: Floats, positive: Mask, called: Mask, rows: Mask) -> None:
        self.probabilities, self.positive, self.called, self.rows = probabilities, positive, called, rows
        self.ranked = ranks(probabilities)

    def measure(self, weights: Floats) -> list[float]:
        """Return the figures of _MEASURES, NaN where they are not defined. weights: of all images (N,)."""
        own = weights[self.rows]
        return [of(self, own) if len(own) and own.sum() > 0 else float("nan") for of in _MEASURES.values()]


def _share(hits: Mask, of: Mask, weights: Floats) -> float:
    total = (weights * of).sum()
    return float((weights * (hits & of)).sum() / total) if total > 0 else float("nan")


def _f1(c: _Column, weights: Floats) -> float:
    both = (weights * c.positive).sum() + (weights * c.called).sum()
    return float(2 * (weights * (c.positive & c.called)).sum() / both) if both > 0 else 0.0


_MEASURES: Mapping[str, Callable[[_Column, Floats], float]] = {
    "auroc": lambda c, w: auc_of_ranks(c.ranked, c.positive, w),
    "auprc": lambda c, w: average_precision(c.ranked, c.positive, w),
    "sensitivity": lambda c, w: _share(c.called, c.positive, w),
    "specificity": lambda c, w: _share(~c.called, ~c.positive, w),
    "sensitivity_at_90": lambda c, w: sensitivity_at(c.ranked, c.positive, w),
    "f1": _f1,
    "calibration_error": lambda c, w: expected_calibration_error(c.probabilities, c.positive, w),
}


def _finding(c: _Column, spread: Sequence[Figure], patients: npt.NDArray[np.str_]) -> FindingFigures:
    known, present = len(c.positive), int(c.positive.sum())
    figures = {name: replace(figure, n=known) for name, figure in zip(_MEASURES, spread, strict=True)}
    figures["sensitivity"] = proportion(int((c.called & c.positive).sum()), present)
    figures["specificity"] = proportion(int((~c.called & ~c.positive).sum()), known - present)
    return FindingFigures(
        known=known,
        present=present,
        patients=len(set(patients[c.rows].tolist())),
        prevalence=present / known if known else float("nan"),
        **figures,
    )
