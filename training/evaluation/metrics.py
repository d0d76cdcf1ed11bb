"""Classification metrics with intervals: true labels, decisions and probabilities in, figures with 95 % intervals out.

A share of images has the exact (Clopper-Pearson) interval. F1 and AUC are not shares, so their intervals come from drawing
patients with replacement (bootstrap): two images of one patient are not independent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from statsmodels.stats.proportion import proportion_confint

from cxr_edge.compiler.auc import auc, auc_of_ranks
from training.json_records import OPTIONAL, ROUNDED
from training.tasks.confusion import confusion, f1_scores

if TYPE_CHECKING:
    from training.config import BundleConfig

__all__ = [
    "LEVEL",
    "Bootstrap",
    "Figure",
    "LabelFigures",
    "ModelFigures",
    "Predictions",
    "auc",
    "auc_figure",
    "auc_of_ranks",
    "bootstrap",
    "calibration_error",
    "figures",
    "interval",
    "log_loss",
    "mcc",
    "proportion",
    "ranks",
    "share",
    "unknown_figure",
]

Floats = npt.NDArray[np.float64]
LEVEL = 0.95  # of all intervals
_LEAST_PROBABILITY = 1e-6  # in logarithms
_CALIBRATION_BINS = 10


@dataclass(frozen=True, kw_only=True)
class Bootstrap:
    """Draws of patients with replacement."""

    seed: int
    resamples: int

    @classmethod
    def of(cls, config: BundleConfig) -> Bootstrap:
        """Return the draws of a recipe."""
        return cls(seed=config.seed, resamples=config.resamples)


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A number with its 95 % interval; NaN where it cannot be computed. Files have six digits."""

    value: float = field(metadata=ROUNDED)
    low: float = field(metadata=ROUNDED)
    high: float = field(metadata=ROUNDED)
    n: int  # images it is computed from
    hits: int | None = None  # numerator of a share, else None


@dataclass(frozen=True, kw_only=True)
class LabelFigures:
    """Figures of one label against the rest."""

    images: int  # of the label
    precision: Figure
    recall: Figure
    specificity: Figure
    f1: Figure
    auc: Figure


@dataclass(frozen=True, kw_only=True)
class ModelFigures:
    """Figures of one model on one set of images."""

    images: int
    patients: int
    macro_f1: Figure
    macro_auc: Figure
    accuracy: Figure
    mcc: float
    log_loss: float
    calibration_error: float
    labels: Mapping[str, LabelFigures]
    confusion: tuple[tuple[int, ...], ...]  # rows: true labels; columns: predicted labels
    engines: str | None = field(default=None, metadata=OPTIONAL)  # description, of engines compared with the reference
    same_decision: Figure | None = field(default=None, metadata=OPTIONAL)  # as the reference's


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Predictions on N images. Raises ValueError for arrays of different lengths."""

    true: npt.NDArray[np.int64]  # (N,) true label indices
    predicted: npt.NDArray[np.int64]  # (N,) predicted label indices
    probabilities: Floats  # (N, K)
    patients: npt.NDArray[np.str_]  # (N,) names

    def __post_init__(self) -> None:
        n = len(self.true)
        if not n == len(self.predicted) == len(self.probabilities) == len(self.patients):
            raise ValueError("true labels, predicted labels, probabilities and patients must be of one length")

    def confusion(self, labels: int) -> tuple[tuple[int, ...], ...]:
        """Return the counts (labels, labels): rows are true labels, columns predicted ones."""
        table = confusion(self.true, self.predicted, labels).astype(int)
        return tuple(tuple(row) for row in table.tolist())

    def only(self, rows: npt.NDArray[np.bool_]) -> Predictions:
        """Return the predictions on the images of a mask (N,)."""
        return Predictions(
            true=self.true[rows],
            predicted=self.predicted[rows],
            probabilities=self.probabilities[rows],
            patients=self.patients[rows],
        )


def interval(figure: Figure | None) -> str:
    """Format a figure with its interval, `0.953 [0.921, 0.975]`; a share is followed by its counts.

    A value, or bounds, that cannot be computed are a dash.
    """
    if figure is None or np.isnan(figure.value):
        return "-"
    counts = "" if figure.hits is None else f" ({figure.hits}/{figure.n})"
    bounds = "-" if np.isnan(figure.low) else f"{figure.low:.3f}, {figure.high:.3f}"
    return f"{figure.value:.3f} [{bounds}]{counts}"


def unknown_figure(n: int, hits: int | None = None) -> Figure:
    """Return a figure that cannot be computed."""
    return Figure(value=np.nan, low=np.nan, high=np.nan, n=n, hits=hits)


def proportion(hits: int, n: int) -> Figure:
    """Return hits / n with its exact interval."""
    return share(int(hits), n)


def share(value_or_hits: float, n: int, method: str = "beta") -> Figure:
    """Return a share of n images with its interval.

    value_or_hits: number of hits (int), or a share of n in [0, 1] (float).
    method: of `proportion_confint`; `beta` is Clopper-Pearson.
    """
    whole = isinstance(value_or_hits, Integral)
    hits = float(value_or_hits) if whole else float(value_or_hits) * n
    counted = int(hits) if whole else None
    if n == 0 or np.isnan(hits):
        return unknown_figure(n, counted)
    hits = min(hits, float(n)) if hits < n * (1 + 1e-12) else hits  # an AUC of 1 + 2e-16 is 1
    if not 0 <= hits <= n:
        raise ValueError(f"{value_or_hits} is no share of {n}")
    low, high = np.clip(proportion_confint(hits, n, alpha=1 - LEVEL, method=method), 0, 1)
    return Figure(value=hits / n, low=float(low), high=float(high), n=n, hits=counted)


def auc_figure(
    scores: Floats, positive: npt.NDArray[np.bool_], patients: npt.NDArray[np.str_], draws: Bootstrap
) -> Figure:
    """Return the AUC with its interval by patient; NaN without images."""
    if not len(scores):
        return unknown_figure(0)
    ranked = ranks(scores)
    return bootstrap(lambda weights: np.array([auc_of_ranks(ranked, positive, weights)]), patients, draws)[0]


def ranks(scores: Floats) -> npt.NDArray[np.int64]:
    """Return the dense ranks (N,) of scores, for `auc_of_ranks`."""
    return np.unique(scores, return_inverse=True)[1]


def log_loss(probabilities: Floats, true: npt.NDArray[np.int64]) -> Floats:
    """Return minus the logarithm of the true label's probability, per image (N,)."""
    return -np.log(np.maximum(probabilities[np.arange(len(true)), true], _LEAST_PROBABILITY))


def mcc(table: Floats) -> float:
    """Return Matthews' coefficient for K labels (Gorodkin 2004); 0 if only one label occurs or is predicted, as in sklearn."""
    total, true, predicted = table.sum(), table.sum(axis=1), table.sum(axis=0)
    spread = (total**2 - predicted @ predicted) * (total**2 - true @ true)
    return float((np.trace(table) * total - true @ predicted) / np.sqrt(spread)) if spread > 0 else 0.0


def figures(p: Predictions, labels: Sequence[str], draws: Bootstrap) -> ModelFigures:
    """Return all figures of one model on one set. Macro figures are means over the labels that the set has.

    labels: names of the K columns.
    """
    count = len(labels)
    table = confusion(p.true, p.predicted, count)
    occurs = table.sum(axis=1) > 0
    occurs = occurs if occurs.any() else ~occurs
    ranked = [ranks(column) for column in p.probabilities.T]

    def measure(weights: Floats | None) -> Floats:
        f1 = f1_scores(confusion(p.true, p.predicted, count, weights))
        areas = np.array([auc_of_ranks(r, p.true == k, weights) for k, r in enumerate(ranked)])
        return np.concatenate([[f1[occurs].mean()], f1, areas, [areas[occurs].mean()]])

    spread = bootstrap(measure, p.patients, draws)
    rows = {label: _label_figures(table, k, spread[1 + k], spread[1 + count + k]) for k, label in enumerate(labels)}
    return ModelFigures(
        images=len(p.true),
        patients=len(set(p.patients.tolist())),
        macro_f1=spread[0],
        macro_auc=spread[-1],
        accuracy=proportion(int(np.trace(table)), int(table.sum())),
        mcc=mcc(table),
        log_loss=float(log_loss(p.probabilities, p.true).mean()),
        calibration_error=calibration_error(p),
        labels=rows,
        confusion=p.confusion(count),
    )


def bootstrap(
    measure: Callable[[Floats | None], Floats], patients: npt.NDArray[np.str_], draws: Bootstrap
) -> list[Figure]:
    """Return the figures of `measure`, with intervals from drawing patients with replacement.

    measure: maps weights per image (N,), or None for 1 each, to an array of figures.
    patients: (N,) names.
    """
    names, index = np.unique(patients, return_inverse=True)
    rng = np.random.default_rng(draws.seed)
    times = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), draws.resamples).astype(np.float64)
    drawn = np.stack([measure(row[index]) for row in times])
    edge = (1 - LEVEL) / 2
    found = []
    for value, column in zip(measure(None), drawn.T, strict=True):
        known = column[~np.isnan(column)]
        low, high = np.quantile(known, [edge, 1 - edge]) if len(known) else (np.nan, np.nan)
        found.append(Figure(value=float(value), low=float(low), high=float(high), n=len(patients)))
    return found


def _label_figures(table: Floats, k: int, f1: Figure, area: Figure) -> LabelFigures:
    hit, true, predicted, total = (int(v) for v in (table[k, k], table[k].sum(), table[:, k].sum(), table.sum()))
    return LabelFigures(
        images=true,
        precision=proportion(hit, predicted),
        recall=proportion(hit, true),
        specificity=proportion(total - true - predicted + hit, total - true),
        f1=f1,
        auc=area,
    )


def calibration_error(p: Predictions) -> float:
    """Return the mean distance between the top probability and its accuracy, over bins of equal width."""
    confidence, correct = p.probabilities.max(axis=1), p.probabilities.argmax(axis=1) == p.true
    bins = np.minimum((confidence * _CALIBRATION_BINS).astype(int), _CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, correct - confidence, _CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(confidence))
