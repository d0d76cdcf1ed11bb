"""Figures of merit and how sure they are: truths, decisions and probabilities in, numbers with intervals out.

A share of images has the exact (Clopper-Pearson) interval; F1 and AUC are no shares of anything, so theirs comes from
drawing patients anew (bootstrap): two images of one patient are not two pieces of evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import matthews_corrcoef
from statsmodels.stats.proportion import proportion_confint

__all__ = [
    "Answers",
    "Figure",
    "auc",
    "auc_figure",
    "auc_of_ranks",
    "bootstrap",
    "confusion",
    "f1_scores",
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
    """A number and its 95 % interval. n: images behind it. hits: of a share, how many; else None. NaN where n is 0."""

    value: float
    low: float
    high: float
    n: int
    hits: int | None = None

    def as_json(self) -> dict[str, Any]:
        """The JSON object, rounded to six digits; what cannot be computed is null."""
        return {k: _rounded(v) if isinstance(v, float) else v for k, v in asdict(self).items()}


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What was said of N images. truth, said: (N,) label indices. probabilities: (N, K). patients: (N,) names."""

    truth: npt.NDArray[np.int64]
    said: npt.NDArray[np.int64]
    probabilities: Floats
    patients: npt.NDArray[np.str_]

    def __post_init__(self) -> None:
        n = len(self.truth)
        if not n == len(self.said) == len(self.probabilities) == len(self.patients):
            raise ValueError("truth, said, probabilities and patients must be of one length")

    def only(self, rows: npt.NDArray[np.bool_]) -> Answers:
        """The answers of some images."""
        return Answers(
            truth=self.truth[rows],
            said=self.said[rows],
            probabilities=self.probabilities[rows],
            patients=self.patients[rows],
        )


def _rounded(value: float) -> float | None:
    return None if np.isnan(value) else round(value, 6)


def proportion(hits: int, n: int) -> Figure:
    """A share with its exact interval."""
    if n == 0:
        return Figure(value=np.nan, low=np.nan, high=np.nan, n=0, hits=0)
    low, high = proportion_confint(hits, n, alpha=1 - _LEVEL, method="beta")
    return Figure(value=hits / n, low=float(low), high=float(high), n=n, hits=int(hits))


def confusion(
    truth: npt.NDArray[np.int64], said: npt.NDArray[np.int64], labels: int, weights: Floats | None = None
) -> Floats:
    """(labels, labels): rows are the truth, columns what was said."""
    return np.bincount(truth * labels + said, weights, labels * labels).reshape(labels, labels).astype(np.float64)


def f1_scores(table: Floats) -> Floats:
    """F1 of each label against the rest; 0 for a label that neither occurs nor is said."""
    both = table.sum(axis=0) + table.sum(axis=1)
    return np.divide(2 * np.diag(table), both, out=np.zeros(len(table)), where=both > 0)


def auc(scores: Floats, positive: npt.NDArray[np.bool_], weights: Floats | None = None) -> float:
    """Area under the ROC curve, ties counted half; NaN if one side is empty."""
    return auc_of_ranks(np.unique(scores, return_inverse=True)[1], positive, weights)


def auc_of_ranks(ranks: npt.NDArray[np.int64], positive: npt.NDArray[np.bool_], weights: Floats | None = None) -> float:
    """The same from dense ranks (N,) of the scores, which a bootstrap need not sort again for each draw."""
    weights = np.ones(len(ranks)) if weights is None else weights
    hits, misses = np.bincount(ranks, weights * positive), np.bincount(ranks, weights * ~positive)
    pairs = hits.sum() * misses.sum()
    return float((hits * (np.cumsum(misses) - misses / 2)).sum() / pairs) if pairs > 0 else float("nan")


def auc_figure(
    scores: npt.NDArray[np.float64],
    positive: npt.NDArray[np.bool_],
    patients: npt.NDArray[np.str_],
    *,
    seed: int,
    resamples: int,
) -> Figure:
    """AUC with its interval by patient."""
    return bootstrap(
        lambda weights: np.array([auc(scores, positive, weights)]), patients, seed=seed, resamples=resamples
    )[0]


def log_loss(probabilities: Floats, truth: npt.NDArray[np.int64]) -> Floats:
    """Minus the logarithm of the truth's probability, an image each (N,)."""
    return -np.log(np.maximum(probabilities[np.arange(len(truth)), truth], _LEAST_PROBABILITY))


def figures(answers: Answers, labels: Sequence[str], *, seed: int, resamples: int) -> dict[str, Any]:
    """All figures of one model on one set, as a JSON object. The positive class of every row is the row's label."""
    count = len(labels)
    table = confusion(answers.truth, answers.said, count)
    ranks = [np.unique(answers.probabilities[:, k], return_inverse=True)[1] for k in range(count)]
    one_vs_rest = [answers.truth == k for k in range(count)]

    def measure(weights: Floats | None) -> Floats:
        f1 = f1_scores(confusion(answers.truth, answers.said, count, weights))
        areas = np.array([auc_of_ranks(r, p, weights) for r, p in zip(ranks, one_vs_rest, strict=True)])
        return np.concatenate([[f1.mean()], f1, areas, [areas.mean()]])

    spread = bootstrap(measure, answers.patients, seed=seed, resamples=resamples)
    rows = {
        label: {**_shares(table, k), "f1": spread[1 + k].as_json(), "auc": spread[1 + count + k].as_json()}
        for k, label in enumerate(labels)
    }
    return {
        "images": len(answers.truth),
        "patients": len(set(answers.patients.tolist())),
        "macro_f1": spread[0].as_json(),
        "macro_auc": spread[-1].as_json(),
        "accuracy": proportion(int(np.diag(table).sum()), int(table.sum())).as_json(),
        "mcc": float(matthews_corrcoef(answers.truth, answers.said)),
        "log_loss": float(log_loss(answers.probabilities, answers.truth).mean()),
        "calibration_error": _calibration_error(answers),
        "labels": rows,
        "confusion": table.astype(int).tolist(),
    }


def bootstrap(
    measure: Callable[[Floats | None], Floats], patients: npt.NDArray[np.str_], *, seed: int, resamples: int
) -> list[Figure]:
    """The figures that `measure` gives, with intervals from drawing patients with replacement.

    measure: takes a weight an image (N,), or None for 1 each, and gives an array of figures. patients: (N,).
    """
    names, whose = np.unique(patients, return_inverse=True)
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), resamples).astype(np.float64)
    drawn = np.stack([measure(times[whose]) for times in draws])
    edge = (1 - _LEVEL) / 2
    found = []
    for value, column in zip(measure(None), drawn.T, strict=True):
        known = column[~np.isnan(column)]
        low, high = np.quantile(known, [edge, 1 - edge]) if len(known) else (np.nan, np.nan)
        found.append(Figure(value=float(value), low=float(low), high=float(high), n=len(patients)))
    return found


def _shares(table: Floats, k: int) -> dict[str, Any]:
    hit, true, said, all_ = (int(v) for v in (table[k, k], table[k].sum(), table[:, k].sum(), table.sum()))
    return {
        "images": true,
        "precision": proportion(hit, said).as_json(),
        "recall": proportion(hit, true).as_json(),
        "specificity": proportion(all_ - true - said + hit, all_ - true).as_json(),
    }


def _calibration_error(answers: Answers) -> float:
    """Mean distance between the top probability and how often it is right, over bins of equal width."""
    sure, right = answers.probabilities.max(axis=1), answers.probabilities.argmax(axis=1) == answers.truth
    bins = np.minimum((sure * _CALIBRATION_BINS).astype(int), _CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, right - sure, _CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(sure))
