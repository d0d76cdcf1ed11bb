"""R20's table rows and comparisons of models: predictions on the same images in, rows and tests of differences out.

`metrics` has the figures of one bundle; this module has the columns that Rajaraman et al. 2020 (R20) print, with the
preset's interval, and tests whether two models differ: DeLong and McNemar by image, a bootstrap by patient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.stats import norm, rankdata
from statsmodels.stats.contingency_tables import mcnemar as _mcnemar

from training.evaluation.metrics import (
    LEVEL,
    Bootstrap,
    Figure,
    Predictions,
    auc,
    auc_of_ranks,
    bootstrap,
    mcc,
    proportion,
    ranks,
    share,
    unknown_figure,
)
from training.json_records import OPTIONAL
from training.tasks.confusion import confusion, f1_scores

__all__ = [
    "Area",
    "AreaDifference",
    "Areas",
    "Averages",
    "Comparison",
    "McNemar",
    "PaperRow",
    "accuracy",
    "clopper_pearson",
    "compare",
    "delong",
    "delong_test",
    "macro_f",
    "mcnemar",
    "micro_auc",
    "paired_difference",
    "paper_row",
    "wald",
]

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Preset = Literal["paper", "code", "sane"]
Measure = Callable[[Predictions, "Floats | None"], float]


@dataclass(frozen=True, kw_only=True)
class Area(Figure):
    """An AUC with DeLong's variance. NaN without positives or negatives; the variance also with only one of either."""

    variance: float  # not rounded in files, since it is small


@dataclass(frozen=True, kw_only=True)
class Averages:
    """One measure, averaged over labels."""

    weighted: Figure  # by images per label
    macro: Figure  # over the labels that occur
    per_class: Mapping[str, Figure]  # each label against the rest


@dataclass(frozen=True, kw_only=True)
class Areas:
    """AUC, averaged over labels and over pairs."""

    micro: Figure  # R20's column: over all N x K pairs of image and label
    weighted: Figure
    macro: Figure
    per_class: Mapping[str, Figure]
    delong: Mapping[str, Area]  # per class, with DeLong's interval by image


@dataclass(frozen=True, kw_only=True)
class PaperRow:
    """A row of R20's tables 3 to 7."""

    preset: Preset
    auc_interval: str  # method of the AUCs' intervals (`Areas.delong` has its own)
    images: int
    patients: int
    accuracy: Figure
    auc: Areas
    sensitivity: Averages
    precision: Averages
    f: Averages
    mcc: Figure
    confusion: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, kw_only=True)
class McNemar:
    """McNemar's test of two models on the same images."""

    b: int  # images that only the first model predicted correctly
    c: int  # images that only the second model predicted correctly
    p: float  # exact, two-sided


@dataclass(frozen=True, kw_only=True)
class AreaDifference:
    """AUCs of one label against the rest, first minus second; NaN where they cannot be computed."""

    difference: float
    p: float  # of DeLong's test


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two models on the same images; differences are first minus second."""

    a: str
    b: str
    n: int
    mcnemar: McNemar
    difference: Figure  # of accuracy
    macro_f_difference: Figure
    # Not in files of version 0.1.
    micro_auc_difference: Figure | None = field(default=None, metadata=OPTIONAL)
    auc_by_label: Mapping[str, AreaDifference] | None = field(default=None, metadata=OPTIONAL)


def paper_row(p: Predictions, labels: Sequence[str], draws: Bootstrap, *, preset: Preset) -> PaperRow:
    """Return the paper's figures of one model on one set.

    labels: names of the K columns of `p.probabilities`.
    preset: sets the interval of the AUCs. `paper`: the text's, Clopper-Pearson of a share of n images; `code`: the printed
        one, Wald of the same share; `sane`: the bootstrap by patient, since an AUC is not a share. All other intervals are
        the same.

    Raises ValueError if labels and columns differ, a probability is not finite, or the preset is unknown.
    """
    if p.probabilities.ndim != 2 or p.probabilities.shape[1] != len(labels):
        raise ValueError(f"{len(labels)} labels, but probabilities are {p.probabilities.shape}")
    if not np.isfinite(p.probabilities).all():
        raise ValueError("a probability is not finite: a failed model must not be ranked")
    if preset not in _AUC_INTERVALS:
        raise ValueError(f"preset {preset!r} is none of {', '.join(_AUC_INTERVALS)}")
    count, n = len(labels), len(p.true)
    found = _bootstrap_all(p, count, draws)
    auc_interval, share_interval = _AUC_INTERVALS[preset]
    blocks = [found[i * (count + 2) : (i + 1) * (count + 2)] for i in range(4)]
    areas = blocks[3] + [found[-1]]
    if share_interval is not None:
        areas = [share_interval(area.value, n) for area in areas]
    return PaperRow(
        preset=preset,
        auc_interval=auc_interval,
        images=n,
        patients=len(set(p.patients.tolist())),
        accuracy=proportion(int((p.true == p.predicted).sum()), n),
        auc=Areas(
            **_split(areas[:-1], labels),
            micro=areas[-1],
            delong={label: delong(p.probabilities[:, k], p.true == k) for k, label in enumerate(labels)},
        ),
        sensitivity=Averages(**_split(blocks[0], labels)),
        precision=Averages(**_split(blocks[1], labels)),
        f=Averages(**_split(blocks[2], labels)),
        mcc=found[-2],
        confusion=p.confusion(count),
    )


def clopper_pearson(value_or_hits: float, n: int) -> Figure:
    """Return the exact interval of a share. value_or_hits: number of hits (int), or a share of n in [0, 1] (float)."""
    return share(value_or_hits, n)


def wald(value_or_hits: float, n: int) -> Figure:
    """Return the normal interval of a share, clipped to [0, 1]: too narrow near 0 and 1, but the one that R20 prints."""
    return share(value_or_hits, n, "normal")


def delong(scores: Floats, positive: Flags) -> Area:
    """Return the AUC with its interval by image (DeLong 1988, by midranks as Sun and Xu 2014). scores, positive: (N,).

    The interval is normal, clipped to [0, 1]; a perfect separation has a variance of 0, which is too small. Images of one
    patient count as independent, which they are not: prefer the bootstrap if patients have several images.
    """
    areas, covariance = _delong(np.asarray(scores, np.float64)[None], positive)
    value, variance = float(areas[0]), float(covariance[0, 0])
    half = norm.ppf((1 + LEVEL) / 2) * np.sqrt(variance)
    low, high = np.clip([value - half, value + half], 0, 1)
    return Area(value=value, low=float(low), high=float(high), n=len(scores), variance=variance)


def delong_test(scores_a: Floats, scores_b: Floats, positive: Flags) -> float:
    """Return the two-sided p of equal AUCs on the same N images; NaN with fewer than two positives or negatives."""
    areas, covariance = _delong(np.stack([scores_a, scores_b]).astype(np.float64), positive)
    difference = areas[0] - areas[1]
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    if np.isnan(variance):
        return float("nan")
    if variance <= np.finfo(float).eps:  # both rank all pairs equally, or differ by a constant
        return 1.0 if abs(difference) < np.sqrt(np.finfo(float).eps) else 0.0
    return float(2 * norm.sf(abs(difference) / np.sqrt(variance)))


def mcnemar(right_a: Flags, right_b: Flags) -> McNemar:
    """Test whether two models are correct equally often on the same images. right_a, right_b: (N,) each."""
    right_a, right_b = np.asarray(right_a, bool), np.asarray(right_b, bool)
    if right_a.shape != right_b.shape:
        raise ValueError(f"the models have predictions on {right_a.shape} and {right_b.shape} images")
    b, c = int((right_a & ~right_b).sum()), int((~right_a & right_b).sum())
    both, neither = int((right_a & right_b).sum()), int((~right_a & ~right_b).sum())
    return McNemar(b=b, c=c, p=float(_mcnemar([[both, b], [c, neither]], exact=True).pvalue))


def paired_difference(a: Predictions, b: Predictions, measure: Measure, draws: Bootstrap) -> Figure:
    """Return the measure of a minus that of b, with its interval by bootstrap of patients.

    measure: `accuracy`, `macro_f`, `micro_auc` or another function of predictions and weights per image (N,) or None.
    Raises ValueError unless both have predictions on the same images in the same order.
    """
    if not (np.array_equal(a.true, b.true) and np.array_equal(a.patients, b.patients)):
        raise ValueError("the two models must have predictions on the same images in the same order")

    def difference(weights: Floats | None) -> Floats:
        return np.array([measure(a, weights) - measure(b, weights)])

    return bootstrap(difference, a.patients, draws)[0]


def compare(
    a: str, b: str, first: Predictions, second: Predictions, labels: Sequence[str], draws: Bootstrap
) -> Comparison:
    """Compare two models on the same images. a, b: their names. labels: names of the columns."""
    return Comparison(
        a=a,
        b=b,
        n=len(first.true),
        mcnemar=mcnemar(first.predicted == first.true, second.predicted == second.true),
        difference=paired_difference(first, second, accuracy, draws),
        macro_f_difference=paired_difference(first, second, macro_f, draws),
        micro_auc_difference=paired_difference(first, second, micro_auc, draws),
        auc_by_label={label: _area_difference(first, second, k) for k, label in enumerate(labels)},
    )


def _area_difference(first: Predictions, second: Predictions, label: int) -> AreaDifference:
    positive = first.true == label
    scores = (first.probabilities[:, label], second.probabilities[:, label])
    areas = [auc(s, positive) for s in scores]
    return AreaDifference(difference=areas[0] - areas[1], p=delong_test(*scores, positive))


def accuracy(p: Predictions, weights: Floats | None = None) -> float:
    """Return the share of correct predictions; for `paired_difference`."""
    return float(np.average(p.true == p.predicted, weights=weights)) if len(p.true) else float("nan")


def macro_f(p: Predictions, weights: Floats | None = None) -> float:
    """Return the mean F over the labels that occur; for `paired_difference`."""
    count = p.probabilities.shape[1]
    return float(_averaged(*_by_label(confusion(p.true, p.predicted, count, weights)))[2, -1])


def micro_auc(p: Predictions, weights: Floats | None = None) -> float:
    """Return the AUC over all pairs of image and label; for `paired_difference`."""
    return _micro(ranks(p.probabilities.ravel()), p, weights)


_AUC_INTERVALS: dict[str, tuple[str, Callable[[float, int], Figure] | None]] = {
    "paper": ("Clopper-Pearson of the AUC as a share of the images", clopper_pearson),
    "code": ("Wald of the AUC as a share of the images", wald),
    "sane": ("bootstrap by patient", None),
}


def _bootstrap_all(p: Predictions, count: int, draws: Bootstrap) -> list[Figure]:
    """Return 4 blocks (sensitivity, precision, F, AUC) of K labels, weighted and macro average; then MCC and micro AUC."""
    if not len(p.true):
        return [unknown_figure(0)] * (4 * (count + 2) + 2)
    ranked = [ranks(column) for column in p.probabilities.T]
    all_ranks = ranks(p.probabilities.ravel())

    def measure(weights: Floats | None) -> Floats:
        table = confusion(p.true, p.predicted, count, weights)
        areas = np.array([auc_of_ranks(r, p.true == k, weights) for k, r in enumerate(ranked)])
        shares, support = _by_label(table)
        blocks = _averaged(np.vstack([shares, areas]), support)
        return np.concatenate([blocks.ravel(), [mcc(table), _micro(all_ranks, p, weights)]])

    return bootstrap(measure, p.patients, draws)


def _by_label(table: Floats) -> tuple[Floats, Floats]:
    """Return sensitivity, precision and F (3, K), and images per label (K,).

    The precision of a label that occurs but is never predicted is 0, as in scikit-learn.
    """
    hit, true, predicted = np.diag(table), table.sum(axis=1), table.sum(axis=0)
    sensitivity = np.divide(hit, true, out=np.full(len(table), np.nan), where=true > 0)
    precision = np.divide(hit, predicted, out=np.where(true > 0, 0.0, np.nan), where=predicted > 0)
    f = np.where(true + predicted > 0, f1_scores(table), np.nan)
    return np.stack([sensitivity, precision, f]), true


def _averaged(shares: Floats, support: Floats) -> Floats:
    """Append the weighted and the macro average to measures (M, K), over labels that occur and have a value."""
    valid = (support > 0) & ~np.isnan(shares)
    filled, weights = np.where(valid, shares, 0), np.where(valid, support, 0.0)
    unknown = np.full(len(shares), np.nan)
    weighted = np.divide((filled * weights).sum(1), weights.sum(1), out=unknown.copy(), where=weights.sum(1) > 0)
    macro = np.divide(filled.sum(1), valid.sum(1), out=unknown, where=valid.any(1))
    return np.column_stack([shares, weighted, macro])


def _micro(ranked: npt.NDArray[np.int64], p: Predictions, weights: Floats | None) -> float:
    count = p.probabilities.shape[1]
    positive = (p.true[:, None] == np.arange(count)).ravel()
    return auc_of_ranks(ranked, positive, None if weights is None else np.repeat(weights, count))


def _delong(scores: Floats, positive: Flags) -> tuple[Floats, Floats]:
    """Return AUCs (M,) and their covariance (M, M) from scores (M, N)."""
    positive = np.asarray(positive, bool)
    hits, misses = int(positive.sum()), int((~positive).sum())
    unknown = np.full((len(scores), len(scores)), np.nan)
    if not hits or not misses:
        return unknown[0], unknown
    every = rankdata(scores, axis=1)
    of_hits = (every[:, positive] - rankdata(scores[:, positive], axis=1)) / misses
    of_misses = 1 - (every[:, ~positive] - rankdata(scores[:, ~positive], axis=1)) / hits
    if hits < 2 or misses < 2:
        return of_hits.mean(axis=1), unknown
    return of_hits.mean(axis=1), np.atleast_2d(np.cov(of_hits) / hits + np.cov(of_misses) / misses)


def _split(figures: Sequence[Figure], labels: Sequence[str]) -> dict[str, Any]:
    return {
        "per_class": dict(zip(labels, figures[: len(labels)], strict=True)),
        "weighted": figures[len(labels)],
        "macro": figures[len(labels) + 1],
    }
