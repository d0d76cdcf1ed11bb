"""Error budget of a bundle: probabilities, true labels and patients of cases in; the limits of every label out.

Training uses it on validation patients, `cxr-edge calibrate` on a site's cases, and `build-engine` may on the gate's images. A
patient counts once, by one image that a seed chooses: the bounds hold for patients who are exchangeable, and two images of one
are not. What is fitted before on the same cases is not covered by the promise, unless it is among the `rules`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from cxr_edge.calibration.conformal import set_limit
from cxr_edge.calibration.decisions import decided
from cxr_edge.calibration.risk import GRID, Counts, lowest_limit
from cxr_edge.errors import InputError
from cxr_edge.ops.binomial import most_wrong
from cxr_edge.specs.budget import ErrorBudget, LabelLimits
from cxr_edge.specs.combination import Decision

__all__ = [
    "LabelledCases",
    "Promise",
    "fit_budget",
    "fit_threshold",
    "guarded_label",
    "one_per_patient",
    "threshold_rules",
]

Indices = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

# Thresholds of a guarded label that are tried, the highest first; chosen before any data.
_THRESHOLDS = (*(round(0.99 - 0.01 * i, 2) for i in range(10)), *(round(0.88 - 0.02 * i, 2) for i in range(35)))


@dataclass(frozen=True, kw_only=True)
class Promise:
    """Shares that limits are to keep. Raises InputError for values that are not between 0 and 1."""

    max_wrong: float = 0.05  # share of the answers of a label that may be wrong
    confidence: float = 0.9  # of each of these bounds, over draws of the cases
    coverage: float = 0.95  # share of the images of a label whose prediction set holds it
    max_called: float | None = None  # share of others that may be called a guarded label; None: as `max_wrong`

    def __post_init__(self) -> None:
        for name in _EXAMPLES:
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise InputError(f"{name} is a share above 0 and below 1, such as {_EXAMPLES[name]}; got {value}")


_EXAMPLES = {"max_wrong": 0.05, "confidence": 0.9, "coverage": 0.95, "max_called": 0.05}


@dataclass(frozen=True, kw_only=True)
class LabelledCases:
    """Predictions on N images with known labels. Raises ValueError for arrays that do not match."""

    labels: tuple[str, ...]  # of the bundle
    probabilities: npt.NDArray[np.float32]  # (N, labels)
    winners: Indices  # (N,), of the combination
    true: Indices  # (N,), label indices
    patients: npt.NDArray[np.str_]  # (N,), names

    def __post_init__(self) -> None:
        n = len(self.true)
        shapes = (self.probabilities.shape, self.winners.shape, self.patients.shape)
        if shapes != ((n, len(self.labels)), (n,), (n,)):
            raise ValueError(f"{n} cases of {len(self.labels)} labels, but arrays of {shapes}")

    def only(self, rows: Mask | Indices) -> LabelledCases:
        """Return the cases of a mask (N,), or of indices."""
        arrays = ("probabilities", "winners", "true", "patients")
        return replace(self, **{name: getattr(self, name)[rows] for name in arrays})

    def decided(self, decision: Decision) -> Indices:
        """Return the decided label indices (N,)."""
        return decided(self.probabilities, self.winners, self.labels, decision)

    @cached_property
    def counts(self) -> dict[str, int]:
        """Cases of each label."""
        found = np.bincount(self.true, minlength=len(self.labels))
        return dict(zip(self.labels, found.tolist(), strict=True))


def one_per_patient(patients: npt.NDArray[np.str_], *, seed: int) -> Indices:
    """Return the indices of one image of each patient, chosen by the seed, in ascending order."""
    order = np.random.default_rng(seed).permutation(len(patients))
    _, first = np.unique(patients[order], return_index=True)
    return np.sort(order[first])


def guarded_label(decision: Decision) -> str | None:
    """Return the label whose false calls a threshold limits; None without one, and with several thresholds."""
    return next(iter(decision.thresholds)) if len(decision.thresholds) == 1 else None


def threshold_rules(decision: Decision) -> tuple[Decision, ...]:
    """Return the decision with each threshold that `fit_threshold` may choose, and as it is; alone without a guarded label."""
    guard = guarded_label(decision)
    tried = () if guard is None else _THRESHOLDS
    return (decision, *(_with_threshold(decision, guard, value) for value in tried if guard is not None))


def fit_threshold(cases: LabelledCases, decision: Decision, promise: Promise, *, seed: int) -> Decision | None:
    """Return the decision with the lowest threshold at which few others are called the guarded label; None if none does.

    The share of calls is bounded by `max_called`, with the promise's confidence, among all cases without the label, and among
    those of each label that has cases enough. It does not depend on how frequent the label is. None, too, without cases of
    the label, without enough others, and without a guarded label.
    """
    guard = guarded_label(decision)
    if guard is None or not cases.counts[guard]:
        return None
    own = cases.only(one_per_patient(cases.patients, seed=seed))
    k, found = own.labels.index(guard), None
    for value in _THRESHOLDS:
        tried = _with_threshold(decision, guard, value)
        if not _calls_few(own, own.decided(tried) == k, k, promise):
            break
        found = tried
    return found


def _calls_few(cases: LabelledCases, called: Mask, k: int, promise: Promise) -> bool:
    others = [cases.true != k, *(cases.true == i for i in range(len(cases.labels)) if i != k)]
    share = promise.max_wrong if promise.max_called is None else promise.max_called
    limits = [(rows, most_wrong(int(rows.sum()), share, promise.confidence)) for rows in others if rows.any()]
    known = [(rows, most) for rows, most in limits if most is not None]
    return bool(known) and all(called[rows].sum() <= most for rows, most in known)


def _with_threshold(decision: Decision, label: str, value: float) -> Decision:
    return replace(decision, thresholds={**decision.thresholds, label: value})


def fit_budget(
    cases: LabelledCases,
    decision: Decision,
    promise: Promise,
    *,
    fitted_on: str,
    seed: int,
    rules: Sequence[Decision] = (),
) -> ErrorBudget:
    """Fit the limits of every label on one image of each patient.

    fitted_on: the cases, in words. seed: chooses the images.
    rules: decisions among which `decision` was chosen by the same cases (`threshold_rules`): limits then hold with each of them.
    """
    own = cases.only(one_per_patient(cases.patients, seed=seed))
    guard = guarded_label(decision)
    decided = np.stack([own.decided(rule) for rule in (decision, *rules)])
    limits = {}
    for k, label in enumerate(own.labels):
        with_rules = decided[_rules_of(label, guard, rules)]
        limits[label] = _limits(own, k, decided[0] == k, with_rules == k, promise)
    return ErrorBudget(
        max_wrong=promise.max_wrong,
        confidence=promise.confidence,
        coverage=promise.coverage,
        fitted_on=fitted_on,
        labels=limits,
    )


def _rules_of(label: str, guard: str | None, rules: Sequence[Decision]) -> Indices:
    """Return the rules with which a label's limit has to hold, counted from 1; 0, the decision itself, without any.

    The guarded label's answers at any threshold are those of the lowest one from a higher limit on, so that this one suffices.
    """
    if label == guard and rules:
        thresholds = [rule.thresholds[label] for rule in rules]
        return np.array([1 + thresholds.index(min(thresholds))])
    return np.arange(1, 1 + len(rules)) if rules else np.array([0])


def _limits(cases: LabelledCases, k: int, decided: Mask, with_rules: Mask, promise: Promise) -> LabelLimits:
    """Return the limits of label k. decided: (N,), cases with this decision. with_rules: (rules, N), the same with each rule."""
    score, wrong = cases.probabilities[:, k], cases.true != k
    counts = np.stack([_counts(score[called]) for called in with_rules])
    errors = np.stack([_counts(score[called & wrong]) for called in with_rules])
    found = lowest_limit(counts, errors, max_wrong=promise.max_wrong, confidence=promise.confidence)
    answered = decided & (score >= np.float32(GRID[found])) if found is not None else np.zeros(len(score), dtype=bool)
    return LabelLimits(
        set_from=set_limit(score[~wrong], promise.coverage),
        answer_from=None if found is None else GRID[found],
        cases=int((~wrong).sum()),
        answered=int(answered.sum()),
        wrong=int((answered & wrong).sum()),
    )


_LIMITS = np.array(GRID, dtype=np.float32)


def _counts(scores: npt.NDArray[np.float32]) -> Counts:
    """Return how many scores reach each limit of the grid."""
    return len(scores) - np.searchsorted(np.sort(scores), _LIMITS, side="left")
