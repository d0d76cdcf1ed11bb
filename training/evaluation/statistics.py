"""The paper's columns and comparisons: what models said of the same images in, rows and tests of a difference out.

`metrics` holds the figures of one bundle; this module holds what Rajaraman et al. 2020 (R20) print in a row, with the
interval that a preset calls for, and whether two models differ at all: DeLong and McNemar by image, a bootstrap by patient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from numbers import Integral
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.stats import norm, rankdata
from statsmodels.stats.contingency_tables import mcnemar as _mcnemar
from statsmodels.stats.proportion import proportion_confint

from training.evaluation.metrics import Answers, Figure, auc_of_ranks, bootstrap, confusion, proportion

__all__ = [
    "Area",
    "Areas",
    "Averages",
    "McNemar",
    "PaperRow",
    "accuracy",
    "clopper_pearson",
    "compared",
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
Measure = Callable[[Answers, "Floats | None"], float]
_LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class Area(Figure):
    """An AUC with DeLong's variance. NaN where a side has no image; variance NaN where one has only one."""

    variance: float

    def as_json(self) -> dict[str, Any]:
        """The JSON object; the variance is not rounded, since it is small."""
        return {**super().as_json(), "variance": None if np.isnan(self.variance) else self.variance}


@dataclass(frozen=True, kw_only=True)
class Averages:
    """One measure over labels. weighted: by images a label. macro: over the labels that occur. per_class: one against all."""

    weighted: Figure
    macro: Figure
    per_class: Mapping[str, Figure]

    def as_json(self) -> dict[str, Any]:
        """The JSON object; what cannot be computed is null."""
        return {"weighted": self.weighted.as_json(), "macro": self.macro.as_json(), "per_class": _each(self.per_class)}


@dataclass(frozen=True, kw_only=True)
class Areas(Averages):
    """AUC besides: micro (R20's column), over all N x K pairs of image and label. delong: per class, by image."""

    micro: Figure
    delong: Mapping[str, Area]

    def as_json(self) -> dict[str, Any]:
        """The JSON object; what cannot be computed is null."""
        return {"micro": self.micro.as_json(), **super().as_json(), "delong": _each(self.delong)}


@dataclass(frozen=True, kw_only=True)
class PaperRow:
    """A row of R20's tables 3 to 7. auc_interval: whose intervals the AUCs have (not `Areas.delong`)."""

    preset: Preset
    auc_interval: str
    images: int
    patients: int
    accuracy: Figure
    auc: Areas
    sensitivity: Averages
    precision: Averages
    f: Averages
    mcc: Figure

    def as_json(self) -> dict[str, Any]:
        """The JSON object that `training.recipes.r20.tables` reads."""
        plain = {k: getattr(self, k) for k in ("preset", "auc_interval", "images", "patients")}
        figures = ("accuracy", "auc", "sensitivity", "precision", "f", "mcc")
        return {**plain, **{k: getattr(self, k).as_json() for k in figures}}


@dataclass(frozen=True, kw_only=True)
class McNemar:
    """b: images that only the first had right. c: only the second. p: exact, two-sided."""

    b: int
    c: int
    p: float

    def as_json(self) -> dict[str, Any]:
        """The JSON object."""
        return asdict(self)


def paper_row(answers: Answers, labels: Sequence[str], *, seed: int, resamples: int, preset: Preset) -> PaperRow:
    """The paper's figures of one model on one set.

    labels: the names of the K columns of `answers.probabilities`. resamples: draws of patients.
    preset: whose interval AUCs get. `paper`: the text's, Clopper-Pearson of a share of n images; `code`: the printed
    one, Wald of the same share; `sane`: the bootstrap by patient, since an AUC is no share. All others are the same.
    Raises ValueError if labels and columns differ, a probability is not finite, or the preset is unknown.
    """
    if answers.probabilities.ndim != 2 or answers.probabilities.shape[1] != len(labels):
        raise ValueError(f"{len(labels)} labels, but probabilities are {answers.probabilities.shape}")
    if not np.isfinite(answers.probabilities).all():
        raise ValueError("a probability is not a number; a model that fails must not rank")
    if preset not in _AUC_INTERVALS:
        raise ValueError(f"preset {preset!r} is none of {', '.join(_AUC_INTERVALS)}")
    count, n = len(labels), len(answers.truth)
    found = _bootstrapped(answers, count, seed=seed, resamples=resamples)
    auc_interval, again = _AUC_INTERVALS[preset]
    blocks = [found[i * (count + 2) : (i + 1) * (count + 2)] for i in range(4)]
    areas = blocks[3] + [found[-1]]
    if again is not None:
        areas = [again(area.value, n) for area in areas]
    return PaperRow(
        preset=preset,
        auc_interval=auc_interval,
        images=n,
        patients=len(set(answers.patients.tolist())),
        accuracy=proportion(int((answers.truth == answers.said).sum()), n),
        auc=Areas(
            **_split(areas[:-1], labels),
            micro=areas[-1],
            delong={label: delong(answers.probabilities[:, k], answers.truth == k) for k, label in enumerate(labels)},
        ),
        sensitivity=Averages(**_split(blocks[0], labels)),
        precision=Averages(**_split(blocks[1], labels)),
        f=Averages(**_split(blocks[2], labels)),
        mcc=found[-2],
    )


def clopper_pearson(value_or_hits: float, n: int) -> Figure:
    """The exact interval of a share. value_or_hits: a whole number of hits (int) or a share in [0, 1] (float) of n."""
    return _share(value_or_hits, n, "beta")


def wald(value_or_hits: float, n: int) -> Figure:
    """The normal interval of a share, clipped to [0, 1]: too narrow near 0 and 1, but the one that R20 prints."""
    return _share(value_or_hits, n, "normal")


def delong(scores: Floats, positive: Flags) -> Area:
    """AUC and its interval by image (DeLong 1988, by midranks as Sun and Xu 2014). scores, positive: (N,).

    The interval is normal, clipped to [0, 1]; sides that are told apart without error have a variance of 0, which is too
    sure. Images of one patient count as independent, which they are not: prefer the bootstrap where patients recur.
    """
    areas, covariance = _delong(np.asarray(scores, np.float64)[None], positive)
    value, variance = float(areas[0]), float(covariance[0, 0])
    half = norm.ppf((1 + _LEVEL) / 2) * np.sqrt(variance)
    low, high = np.clip([value - half, value + half], 0, 1)
    return Area(value=value, low=float(low), high=float(high), n=len(scores), variance=variance)


def delong_test(scores_a: Floats, scores_b: Floats, positive: Flags) -> float:
    """p, two-sided, that two AUCs on the same N images are one; NaN if a side has fewer than two images."""
    areas, covariance = _delong(np.stack([scores_a, scores_b]).astype(np.float64), positive)
    difference = areas[0] - areas[1]
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    if np.isnan(variance):
        return float("nan")
    if variance <= np.finfo(float).eps:  # both rank all pairs alike, or differ by a constant
        return 1.0 if abs(difference) < np.sqrt(np.finfo(float).eps) else 0.0
    return float(2 * norm.sf(abs(difference) / np.sqrt(variance)))


def mcnemar(right_a: Flags, right_b: Flags) -> McNemar:
    """Whether two models are right equally often on the same images, from those on which they differ. (N,) each."""
    right_a, right_b = np.asarray(right_a, bool), np.asarray(right_b, bool)
    if right_a.shape != right_b.shape:
        raise ValueError(f"the models were asked of {right_a.shape} and {right_b.shape} images")
    b, c = int((right_a & ~right_b).sum()), int((~right_a & right_b).sum())
    both, neither = int((right_a & right_b).sum()), int((~right_a & ~right_b).sum())
    return McNemar(b=b, c=c, p=float(_mcnemar([[both, b], [c, neither]], exact=True).pvalue))


def paired_difference(answers_a: Answers, answers_b: Answers, measure: Measure, *, seed: int, resamples: int) -> Figure:
    """The measure of a minus that of b, with its interval from drawing the patients that both were asked of.

    measure: `accuracy`, `macro_f`, `micro_auc` or one like them: answers and a weight an image (N,) or None, to a number.
    Raises ValueError unless both answered the same images in one order.
    """
    same = [np.array_equal(getattr(answers_a, k), getattr(answers_b, k)) for k in ("truth", "patients")]
    if not all(same):
        raise ValueError("the two models must answer the same images in the same order")

    def difference(weights: Floats | None) -> Floats:
        return np.array([measure(answers_a, weights) - measure(answers_b, weights)])

    return bootstrap(difference, answers_a.patients, seed=seed, resamples=resamples)[0]


def compared(
    a: str, b: str, first: Answers, second: Answers, labels: Sequence[str], *, seed: int, resamples: int
) -> dict[str, Any]:
    """Two models' answers to the same images, as a JSON object. a, b: what they are called. labels: names of the columns."""
    seeded = {"seed": seed, "resamples": resamples}
    return {
        "a": a,
        "b": b,
        "n": len(first.truth),
        "mcnemar": mcnemar(first.said == first.truth, second.said == second.truth).as_json(),
        "difference": paired_difference(first, second, accuracy, **seeded).as_json(),
        "macro_f_difference": paired_difference(first, second, macro_f, **seeded).as_json(),
        "micro_auc_difference": paired_difference(first, second, micro_auc, **seeded).as_json(),
        "auc_by_label": {label: _area_difference(first, second, k) for k, label in enumerate(labels)},
    }


def _area_difference(first: Answers, second: Answers, label: int) -> dict[str, float | None]:
    """AUC of one label against the rest: a minus b, and DeLong's p; null where a side has no image, or only one."""
    positive = first.truth == label
    scores = [answers.probabilities[:, label] for answers in (first, second)]
    ranked = [auc_of_ranks(_ranks(s), positive) for s in scores]
    found = {"difference": ranked[0] - ranked[1], "p": delong_test(*scores, positive)}
    return {k: None if np.isnan(v) else v for k, v in found.items()}


def accuracy(answers: Answers, weights: Floats | None = None) -> float:
    """Share of right answers; for `paired_difference`."""
    return float(np.average(answers.truth == answers.said, weights=weights)) if len(answers.truth) else float("nan")


def macro_f(answers: Answers, weights: Floats | None = None) -> float:
    """Mean F over the labels that occur; for `paired_difference`."""
    count = answers.probabilities.shape[1]
    return float(_averaged(*_by_label(confusion(answers.truth, answers.said, count, weights)))[2, -1])


def micro_auc(answers: Answers, weights: Floats | None = None) -> float:
    """AUC over all pairs of image and label; for `paired_difference`."""
    return _micro(_ranks(answers.probabilities.ravel()), answers, weights)


def _share(value_or_hits: float, n: int, method: str) -> Figure:
    whole = isinstance(value_or_hits, Integral)
    hits = float(value_or_hits) if whole else float(value_or_hits) * n
    if n == 0 or np.isnan(hits):
        return Figure(value=np.nan, low=np.nan, high=np.nan, n=n)
    hits = min(hits, float(n)) if hits < n * (1 + 1e-12) else hits  # an AUC of 1 + 2e-16 is 1
    if not 0 <= hits <= n:
        raise ValueError(f"{value_or_hits} is no share of {n}")
    low, high = np.clip(proportion_confint(hits, n, alpha=1 - _LEVEL, method=method), 0, 1)
    return Figure(value=hits / n, low=float(low), high=float(high), n=n, hits=int(hits) if whole else None)


_AUC_INTERVALS: dict[str, tuple[str, Callable[[float, int], Figure] | None]] = {
    "paper": ("Clopper-Pearson of the AUC as a share of the images", clopper_pearson),
    "code": ("Wald of the AUC as a share of the images", wald),
    "sane": ("bootstrap by patient", None),
}


def _bootstrapped(answers: Answers, count: int, *, seed: int, resamples: int) -> list[Figure]:
    """4 blocks (sensitivity, precision, F, AUC) of K labels, the weighted and the macro average; MCC; micro AUC."""
    if not len(answers.truth):
        return [Figure(value=np.nan, low=np.nan, high=np.nan, n=0)] * (4 * (count + 2) + 2)
    ranks = [_ranks(column) for column in answers.probabilities.T]
    every = _ranks(answers.probabilities.ravel())

    def measure(weights: Floats | None) -> Floats:
        table = confusion(answers.truth, answers.said, count, weights)
        areas = np.array([auc_of_ranks(r, answers.truth == k, weights) for k, r in enumerate(ranks)])
        shares, support = _by_label(table)
        blocks = _averaged(np.vstack([shares, areas]), support)
        return np.concatenate([blocks.ravel(), [_mcc(table), _micro(every, answers, weights)]])

    return bootstrap(measure, answers.patients, seed=seed, resamples=resamples)


def _by_label(table: Floats) -> tuple[Floats, Floats]:
    """Sensitivity, precision and F (3, K), and images a label (K,). A label that occurs but is not said has 0, as in sklearn."""
    hit, true, said = np.diag(table), table.sum(axis=1), table.sum(axis=0)
    missing = np.full(len(table), np.nan)
    sensitivity = np.divide(hit, true, out=missing.copy(), where=true > 0)
    precision = np.divide(hit, said, out=np.where(true > 0, 0.0, np.nan), where=said > 0)
    f = np.divide(2 * hit, true + said, out=missing, where=true + said > 0)
    return np.stack([sensitivity, precision, f]), true


def _averaged(shares: Floats, support: Floats) -> Floats:
    """(M, K) measures to (M, K + 2): the weighted and the macro average behind, over labels that occur and have one."""
    kept = (support > 0) & ~np.isnan(shares)
    filled, weights = np.where(kept, shares, 0), np.where(kept, support, 0.0)
    unknown = np.full(len(shares), np.nan)
    weighted = np.divide((filled * weights).sum(1), weights.sum(1), out=unknown.copy(), where=weights.sum(1) > 0)
    macro = np.divide(filled.sum(1), kept.sum(1), out=unknown, where=kept.any(1))
    return np.column_stack([shares, weighted, macro])


def _mcc(table: Floats) -> float:
    """Matthews' coefficient for K labels (Gorodkin 2004); 0 where only one label occurs or is said, as in sklearn."""
    all_, true, said = table.sum(), table.sum(axis=1), table.sum(axis=0)
    spread = (all_**2 - said @ said) * (all_**2 - true @ true)
    return float((np.trace(table) * all_ - true @ said) / np.sqrt(spread)) if spread > 0 else 0.0


def _ranks(scores: Floats) -> npt.NDArray[np.int64]:
    return np.unique(scores, return_inverse=True)[1]


def _micro(ranks: npt.NDArray[np.int64], answers: Answers, weights: Floats | None) -> float:
    count = answers.probabilities.shape[1]
    positive = (answers.truth[:, None] == np.arange(count)).ravel()
    return auc_of_ranks(ranks, positive, None if weights is None else np.repeat(weights, count))


def _delong(scores: Floats, positive: Flags) -> tuple[Floats, Floats]:
    """AUCs (M,) and their covariance (M, M) from scores (M, N)."""
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


def _each(figures: Mapping[str, Figure]) -> dict[str, Any]:
    return {label: figure.as_json() for label, figure in figures.items()}
