"""Error budget of a bundle: predictions on validation patients in, limits for the manifest out.

With many validation patients half of them fit the limits and nothing else. With fewer, combination, temperatures and
threshold have seen the same patients; they are a few numbers, so that the promise is little too good, and test patients show by
how much in the card.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cxr_edge.calibration import LabelledCases, Promise, fit_budget
from cxr_edge.ops.combine import Combiner
from cxr_edge.specs.budget import ErrorBudget
from cxr_edge.specs.combination import Combination, Decision

__all__ = ["LEAST_APART", "NOT_SHOWN", "apart", "bundle_budget", "fitted_on", "labelled_cases"]

NOT_SHOWN = (
    "validation patients are too few, or too often wrong, to show for any label that at most {:.0%} of its answers are "
    "wrong"
)
LEAST_APART = 1500  # validation patients from which on half of them are set apart for the budget

Mask = npt.NDArray[np.bool_]


def apart(groups: Sequence[str], *, seed: int) -> Mask:
    """Return the images (N,) whose patients only fit the budget; none with fewer patients than LEAST_APART."""
    names = np.unique(np.asarray(groups))
    if len(names) < LEAST_APART:
        return np.zeros(len(groups), dtype=bool)
    chosen = np.random.default_rng(seed).permutation(names)[: len(names) // 2]
    return np.isin(np.asarray(groups), chosen)


def labelled_cases(
    combination: Combination,
    logits: npt.NDArray[np.float32],
    true: npt.NDArray[np.int64],
    groups: Sequence[str],
    labels: tuple[str, ...],
) -> LabelledCases:
    """Return predictions on the images that have one of the labels. logits: (N, members, labels). true: (N,), -1 for others."""
    probabilities, winners = Combiner(combination, labels=len(labels)).run(np.ascontiguousarray(logits))
    known = true >= 0
    return LabelledCases(
        labels=labels,
        probabilities=probabilities[known],
        winners=winners[known].astype(np.int64),
        true=true[known],
        patients=np.asarray(groups, dtype=np.str_)[known],
    )


def bundle_budget(
    cases: LabelledCases, decision: Decision, promise: Promise, *, own_patients: bool, seed: int
) -> ErrorBudget | None:
    """Fit the limits on cases of validation patients; None if no label could ever be answered.

    own_patients: nothing else was fitted on these.
    """
    words = fitted_on(cases, own_patients=own_patients)
    found = fit_budget(cases, decision, promise, fitted_on=words, seed=seed)
    return found if any(limits.answer_from is not None for limits in found.labels.values()) else None


def fitted_on(cases: LabelledCases, *, own_patients: bool) -> str:
    """Return the cases in words, for the budget."""
    patients = len(np.unique(cases.patients))
    shared = (
        "which fitted nothing else" if own_patients else "which fitted combination, temperatures and threshold, too"
    )
    return f"{patients} validation patients, one image of each, {shared}"
