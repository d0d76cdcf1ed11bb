"""Fits for a part of an ensemble's members: their logits on validation patients in, combination and decision rule out.

A subset is fitted by the functions that fitted all members, on the same images, so that its probabilities are calibrated of their
own. A strategy with many parameters (stacking, FLANNEL's module) becomes a weighted average: dozens of subsets would make the
manifest megabytes long.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr_edge.ops.combine import Combiner
from cxr_edge.specs.combination import Combination, Decision
from training.ensembles import multi_label
from training.ensembles.fit import Strategy, choose_decision, fit
from training.ensembles.thresholds import choose_thresholds

__all__ = ["fit_subset", "fit_subset_of_findings", "matching_threshold", "subset_strategy"]

Logits = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_SMALL: tuple[Strategy, ...] = ("average", "weighted-average", "voting")
_DIGITS = 4  # of a threshold


def subset_strategy(strategy: str, members: int) -> Strategy:
    """Return the strategy of a subset of so many members, of an ensemble with this one."""
    if members == 1:
        return "average"
    return next((small for small in _SMALL if small == strategy), "weighted-average")


def fit_subset(
    logits: Logits,
    true: Labels,
    labels: tuple[str, ...],
    *,
    whole: tuple[Combination, Logits, Decision],
    guard: str | None,
    groups: Mapping[str, Mask],
    seed: int,
) -> tuple[Combination, Decision]:
    """Return combination and decision of a subset.

    The guarded label's threshold is chosen as that of all members, or, where theirs was chosen elsewhere (`Decision.first`: on
    unseen sites), so that the subset calls no more images without the label than they do.

    logits: (N, members of the subset, labels). true: (N,) label indices, -1 for others. whole: combination, logits and decision
    of all members on the same images. guard, groups: as of `choose_decision`.
    """
    known = true >= 0
    strategy = subset_strategy(whole[0].strategy, logits.shape[1])
    combination = fit(strategy, logits[known], true[known], seed=seed)
    threshold = None
    if guard is not None and guard in whole[2].first:
        k = labels.index(guard)
        others = true != k
        before, after = (_probabilities(c, x)[others, k] for c, x in ((whole[0], whole[1]), (combination, logits)))
        threshold = matching_threshold(before, whole[2].thresholds[guard], after)
    decided = choose_decision(combination, logits, true, labels, guard=guard, groups=groups, threshold=threshold)
    return combination, decided.decision


def matching_threshold(before: npt.NDArray[np.float32], threshold: float, after: npt.NDArray[np.float32]) -> float:
    """Return the lowest threshold, to four digits, that no more of `after` reach than reach `threshold` of `before`.

    before, after: (N,) probabilities of the same images.
    """
    calls = int((before >= np.float32(threshold)).sum())
    highest = np.sort(after)[::-1]
    if calls >= len(highest):
        return 0.0
    first_not_called = float(highest[calls])
    scale = 10**_DIGITS
    return min(1.0, float((np.floor(first_not_called * scale) + 1) / scale))


def fit_subset_of_findings(
    logits: Logits,
    truth: npt.NDArray[np.float32],
    labels: tuple[str, ...],
    *,
    strategy: str,
    specificity: float | None,
    seed: int,
) -> tuple[Combination, Decision]:
    """Return combination and decision of a subset of members for findings.

    logits: (N, members of the subset, labels). truth: (N, labels), 1 present, 0 absent, NaN unknown. strategy: of all members.
    specificity: as of `choose_thresholds`.
    """
    known = np.isfinite(truth).any(axis=1)
    small = subset_strategy(strategy, logits.shape[1])
    combination = multi_label.fit(small, logits[known], truth[known], seed=seed)
    chosen = choose_thresholds(combination, logits, truth, labels, specificity=specificity)
    return combination, chosen.decision


def _probabilities(combination: Combination, logits: Logits) -> npt.NDArray[Any]:
    return Combiner(combination, labels=logits.shape[2]).run(np.ascontiguousarray(logits))[0]
