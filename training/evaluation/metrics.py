"""Classification metrics with intervals: true labels, decisions and probabilities in, figures with 95 % intervals out.

A share of images has the exact (Clopper-Pearson) interval. F1 and AUC are not shares, so their intervals come from drawing
patients with replacement (bootstrap): two images of one patient are not independent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import matthews_corrcoef
from statsmodels.stats.proportion import proportion_confint

from cxr_edge.compiler.auc import auc, auc_of_ranks
from training.tasks.confusion import confusion, f1_scores

__all__ = [
    "Figure",
    "Predictions",
    "auc",
    "auc_figure",
    "auc_of_ranks",
    "bootstrap",
    "figures",
    "log_loss",
    "proportion",
]

Floats = npt.NDArray[np.float64]
_LEVEL = 0.95
_LEAST_PROBABILITY = 1e-6  # in logarithms
_CALIBRATION_BINS = 10


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A number with its 95 % interval; NaN where it cannot be computed."""

    value: float
    low: float
    high: float
    n: int  # images it is computed from
    hits: int | None = None  # numerator of a share, else None

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object, rounded to six digits; NaN becomes null."""
        return {k: _rounded(v) if isinstance(v, float) else v for k, v in asdict(self).items()}


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

    def only(self, rows: npt.NDArray[np.bool_]) -> Predictions:
        """Return the predictions on the images of a mask (N,)."""
        return Predictions(
            true=self.true[rows],
            predicted=self.predicted[rows],
            probabilities=self.probabilities[rows],
            patients=self.patients[rows],
        )


def _rounded(value: float) -> float | None:
    return None if np.isnan(value) else round(value, 6)


def proportion(hits: int, n: int) -> Figure:
    """Return hits / n with its exact interval."""
    if n == 0:
        return Figure(value=np.nan, low=np.nan, high=np.nan, n=0, hits=0)
    low, high = proportion_confint(hits, n, alpha=1 - _LEVEL, method="beta")
    return Figure(value=hits / n, low=float(low), high=float(high), n=n, hits=int(hits))


def auc_figure(
    scores: npt.NDArray[np.float64],
    positive: npt.NDArray[np.bool_],
    patients: npt.NDArray[np.str_],
    *,
    seed: int,
    resamples: int,
) -> Figure:
    """Return the AUC with its interval by patient; NaN without images."""
    if not len(scores):
        return Figure(value=np.nan, low=np.nan, high=np.nan, n=0)
    return bootstrap(
        lambda weights: np.array([auc(scores, positive, weights)]), patients, seed=seed, resamples=resamples
    )[0]


def log_loss(probabilities: Floats, true: npt.NDArray[np.int64]) -> Floats:
    """Return minus the logarithm of the true label's probability, per image (N,)."""
    return -np.log(np.maximum(probabilities[np.arange(len(true)), true], _LEAST_PROBABILITY))


def figures(p: Predictions, labels: Sequence[str], *, seed: int, resamples: int) -> dict[str, Any]:
    """Return all figures of one model on one set as a JSON object. The positive class of a row is the row's label."""
    count = len(labels)
    table = confusion(p.true, p.predicted, count)
    ranks = [np.unique(p.probabilities[:, k], return_inverse=True)[1] for k in range(count)]
    one_vs_rest = [p.true == k for k in range(count)]

    def measure(weights: Floats | None) -> Floats:
        f1 = f1_scores(confusion(p.true, p.predicted, count, weights))
        areas = np.array([auc_of_ranks(r, one, weights) for r, one in zip(ranks, one_vs_rest, strict=True)])
        return np.concatenate([[f1.mean()], f1, areas, [areas.mean()]])

    spread = bootstrap(measure, p.patients, seed=seed, resamples=resamples)
    rows = {
        label: {**_shares(table, k), "f1": spread[1 + k].as_json(), "auc": spread[1 + count + k].as_json()}
        for k, label in enumerate(labels)
    }
    return {
        "images": len(p.true),
        "patients": len(set(p.patients.tolist())),
        "macro_f1": spread[0].as_json(),
        "macro_auc": spread[-1].as_json(),
        "accuracy": proportion(int(np.diag(table).sum()), int(table.sum())).as_json(),
        "mcc": float(matthews_corrcoef(p.true, p.predicted)),
        "log_loss": float(log_loss(p.probabilities, p.true).mean()),
        "calibration_error": _calibration_error(p),
        "labels": rows,
        "confusion": table.astype(int).tolist(),
    }


def bootstrap(
    measure: Callable[[Floats | None], Floats], patients: npt.NDArray[np.str_], *, seed: int, resamples: int
) -> list[Figure]:
    """Return the figures of `measure`, with intervals from drawing patients with replacement.

    measure: maps weights per image (N,), or None for 1 each, to an array of figures.
    patients: (N,) names.
    """
    names, index = np.unique(patients, return_inverse=True)
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), resamples).astype(np.float64)
    drawn = np.stack([measure(times[index]) for times in draws])
    edge = (1 - _LEVEL) / 2
    found = []
    for value, column in zip(measure(None), drawn.T, strict=True):
        known = column[~np.isnan(column)]
        low, high = np.quantile(known, [edge, 1 - edge]) if len(known) else (np.nan, np.nan)
        found.append(Figure(value=float(value), low=float(low), high=float(high), n=len(patients)))
    return found


def _shares(table: Floats, k: int) -> dict[str, Any]:
    hit, true, predicted, total = (int(v) for v in (table[k, k], table[k].sum(), table[:, k].sum(), table.sum()))
    return {
        "images": true,
        "precision": proportion(hit, predicted).as_json(),
        "recall": proportion(hit, true).as_json(),
        "specificity": proportion(total - true - predicted + hit, total - true).as_json(),
    }


def _calibration_error(p: Predictions) -> float:
    """Return the mean distance between the top probability and its accuracy, over bins of equal width."""
    confidence, correct = p.probabilities.max(axis=1), p.probabilities.argmax(axis=1) == p.true
    bins = np.minimum((confidence * _CALIBRATION_BINS).astype(int), _CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, correct - confidence, _CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(confidence))
