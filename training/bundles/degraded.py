"""Degraded modes of a bundle: the members' logits on validation patients in, a calibrated mode per subset of the members out.

A mode is fitted on the patients that fitted all members, by the same functions: combination and temperatures, decision, error
budget. Its figures are of these patients too, so that they show what a missing member costs, and not what a new patient meets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from cxr_edge.calibration import Promise, fit_budget
from cxr_edge.site.mode_figures import KnownImages, macro_mean, mode_figures
from cxr_edge.specs.budget import ErrorBudget, OperatingPoint
from cxr_edge.specs.combination import Combination, Decision
from cxr_edge.specs.degraded import DegradedMode, ModeFigures, degraded_subsets
from training.bundles.budget import apart, fitted_on
from training.data.dataset import Sample
from training.data.targets import Target
from training.ensembles.multi_label import probabilities_of
from training.ensembles.subsets import fit_subset, fit_subset_of_findings
from training.evaluation.finding_metrics import decided
from training.evaluation.metrics import auc

__all__ = ["FittedFindings", "FittedLabels", "known_images", "modes_of_findings", "modes_of_labels"]

Mask = npt.NDArray[np.bool_]
Truth = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class FittedLabels:
    """An ensemble of labels that exclude each other, with the validation images that it was fitted on."""

    members: tuple[str, ...]
    images: KnownImages
    combination: Combination
    decision: Decision
    budget: ErrorBudget | None
    promise: Promise | None  # of the budget
    guard: str | None
    groups: Mapping[str, Mask] = field(default_factory=dict)  # (N,) masks of the subgroups that limit false alarms
    seed: int = 1


@dataclass(frozen=True, kw_only=True)
class FittedFindings:
    """An ensemble of findings, with the validation images that it was fitted on."""

    members: tuple[str, ...]
    labels: tuple[str, ...]
    logits: npt.NDArray[np.float32]  # (N, members, labels)
    truth: Truth  # (N, labels): 1 present, 0 absent, NaN unknown
    combination: Combination
    decision: Decision
    specificity: float | None  # as of `choose_thresholds`
    seed: int = 1


def known_images(samples: Sequence[Sample], logits: npt.NDArray[np.float32], target: Target) -> KnownImages:
    """Return the members' logits (N, members, labels) with what is known of the samples, row by row."""
    return KnownImages(
        labels=target.labels,
        logits=logits,
        true=np.array([target.label_index(s.record.label) for s in samples], dtype=np.int64),
        patients=np.array([s.group for s in samples], dtype=np.str_),
    )


def modes_of_labels(fitted: FittedLabels) -> tuple[DegradedMode, ...]:
    """Return the modes of all subsets that lack one or two members; none for one member or more than nine."""
    if not degraded_subsets(fitted.members):
        return ()
    images = fitted.images
    held = np.zeros(len(images.true), dtype=bool)
    if fitted.promise is not None:
        held = apart(images.patients.tolist(), seed=fitted.seed)
    whole = OperatingPoint(decision=fitted.decision, budget=fitted.budget)
    of_all = mode_figures(images.cases(fitted.combination), whole, fitted.guard)
    return tuple(_mode(fitted, subset, held, of_all) for subset in degraded_subsets(fitted.members))


def _mode(fitted: FittedLabels, subset: tuple[str, ...], held: Mask, of_all: ModeFigures) -> DegradedMode:
    rows = [k for k, name in enumerate(fitted.members) if name in subset]
    images, own = fitted.images, ~held
    combination, decision = fit_subset(
        images.logits[own][:, rows],
        images.true[own],
        images.labels,
        whole=(fitted.combination, images.logits[own], fitted.decision),
        guard=fitted.guard,
        groups={name: mask[own] for name, mask in fitted.groups.items()},
        seed=fitted.seed,
    )
    budget = _budget(fitted, combination, decision, rows, held)
    point = OperatingPoint(decision=decision, budget=budget)
    return DegradedMode(
        members=subset,
        combination=combination,
        decision=decision,
        budget=budget,
        guard=fitted.guard,
        measured_on=f"{of_all.images} images of validation patients",
        figures=mode_figures(images.cases(combination, rows), point, fitted.guard),
        figures_of_all=of_all,
    )


def _budget(
    fitted: FittedLabels, combination: Combination, decision: Decision, rows: list[int], held: Mask
) -> ErrorBudget | None:
    """Return the budget of a subset where all members have one; where it cannot be kept it never answers a label."""
    if fitted.budget is None or fitted.promise is None:
        return None
    images = fitted.images
    own = images.true >= 0
    cases = images.cases(combination, rows).only((held if held.any() else ~held) & own)
    words = fitted_on(cases, own_patients=bool(held.any()))
    return fit_budget(cases, decision, fitted.promise, fitted_on=words, seed=fitted.seed)


def modes_of_findings(fitted: FittedFindings) -> tuple[DegradedMode, ...]:
    """Return the modes of all subsets that lack one or two members; none for one member or more than nine."""
    of_all = _finding_figures(fitted, fitted.combination, fitted.decision, list(range(len(fitted.members))))
    return tuple(_mode_of_findings(fitted, subset, of_all) for subset in degraded_subsets(fitted.members))


def _mode_of_findings(fitted: FittedFindings, subset: tuple[str, ...], of_all: ModeFigures) -> DegradedMode:
    rows = [k for k, name in enumerate(fitted.members) if name in subset]
    combination, decision = fit_subset_of_findings(
        fitted.logits[:, rows],
        fitted.truth,
        fitted.labels,
        strategy=fitted.combination.strategy,
        specificity=fitted.specificity,
        seed=fitted.seed,
    )
    return DegradedMode(
        members=subset,
        combination=combination,
        decision=decision,
        budget=None,
        guard=None,
        measured_on=f"{of_all.images} images of validation patients",
        figures=_finding_figures(fitted, combination, decision, rows),
        figures_of_all=of_all,
    )


def _finding_figures(
    fitted: FittedFindings, combination: Combination, decision: Decision, rows: Sequence[int]
) -> ModeFigures:
    """Return the means over the findings that have both kinds of images."""
    p = probabilities_of(combination, fitted.logits[:, list(rows)])
    present, truth = decided(p, decision, fitted.labels), fitted.truth
    f1, areas = [], []
    for k in range(len(fitted.labels)):
        known = np.isfinite(truth[:, k])
        own, called = truth[known, k] == 1, present[known, k]
        if own.any() and not own.all():
            f1.append(float(2 * (own & called).sum() / (own.sum() + called.sum())))
            areas.append(auc(p[known, k], own))
    return ModeFigures(
        images=int(np.isfinite(truth).any(axis=1).sum()),
        macro_f1=macro_mean(f1) or 0.0,
        macro_auc=macro_mean(areas),
        sensitivity=None,
        specificity=None,
        answered=None,
    )
