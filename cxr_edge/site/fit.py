"""Operating point of a bundle on a site's cases: predictions and the old point in; temperature, threshold and limits out.

What is fitted on which cases: the temperature on a quarter of the patients, who are then left out, and only where there are
many; threshold and limits on the others together, which is allowed because the limits hold with every threshold that could have
been chosen (`calibration.threshold_rules`). Nothing that is fitted depends on the patients of a fold that `out_of_fold` counts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from cxr_edge.calibration import (
    LabelledCases,
    Promise,
    fit_budget,
    fit_threshold,
    one_per_patient,
    threshold_rules,
)
from cxr_edge.calibration.figures import Counted, counted
from cxr_edge.calibration.temperature import LEAST_CASES, best_sharpness, sharpened
from cxr_edge.specs.budget import ErrorBudget, LabelLimits
from cxr_edge.specs.combination import Decision

__all__ = ["FOLDS", "FittedPoint", "PointRequest", "apply_point", "fit_point", "out_of_fold"]

FOLDS = 10
_TEMPERATURE_SHARE = 4  # one patient of so many


@dataclass(frozen=True, kw_only=True)
class PointRequest:
    """Settings of a fit."""

    decision: Decision  # of the bundle
    promise: Promise
    never: Collection[str] = ()  # labels that are not to be answered
    kept: Mapping[str, LabelLimits] = field(default_factory=dict)  # limits of labels without cases
    temperature: bool = True  # may be fitted; a vote has none
    seed: int = 1


@dataclass(frozen=True, kw_only=True)
class FittedPoint:
    """An operating point with the cases that it is fitted on."""

    sharpness: float  # by which the ensemble's temperature is divided; 1 if it was not fitted
    decision: Decision
    threshold_fitted: bool
    budget: ErrorBudget
    patients: int  # of threshold and limits
    temperature_patients: int  # 0 if it was not fitted


def fit_point(cases: LabelledCases, request: PointRequest) -> FittedPoint:
    """Fit temperature, threshold and limits on cases of a site."""
    promise, seed = request.promise, request.seed
    apart = _temperature_patients(cases, request)
    sharpness = best_sharpness(cases.probabilities[apart], cases.true[apart]) if apart.any() else 1.0
    others = _sharpened(cases.only(~apart), sharpness)
    threshold = fit_threshold(others, request.decision, promise, seed=seed)
    decision = threshold or request.decision
    patients = len(np.unique(others.patients))
    budget = fit_budget(
        others,
        decision,
        promise,
        fitted_on=f"{patients} patients of the site, one image of each",
        seed=seed,
        rules=threshold_rules(request.decision),
    )
    return FittedPoint(
        sharpness=sharpness,
        decision=decision,
        threshold_fitted=threshold is not None,
        budget=replace(budget, labels={k: _limits(k, v, request) for k, v in budget.labels.items()}),
        patients=patients,
        temperature_patients=len(np.unique(cases.patients[apart])),
    )


def _limits(label: str, found: LabelLimits, request: PointRequest) -> LabelLimits:
    if label in request.never:
        return replace(found, answer_from=None, answered=0, wrong=0)
    return request.kept.get(label, found)


def _temperature_patients(cases: LabelledCases, request: PointRequest) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Return the images of the patients that only fit the temperature (N,); none where there are few patients."""
    names = np.unique(cases.patients)
    if not request.temperature or len(names) < LEAST_CASES:
        return np.zeros(len(cases.true), dtype=bool)
    chosen = np.random.default_rng(request.seed).permutation(names)[: len(names) // _TEMPERATURE_SHARE]
    return np.isin(cases.patients, chosen)


def _sharpened(cases: LabelledCases, sharpness: float) -> LabelledCases:
    if sharpness == 1.0:
        return cases
    return replace(cases, probabilities=sharpened(cases.probabilities, sharpness).astype(np.float32))


def apply_point(cases: LabelledCases, point: FittedPoint) -> Counted:
    """Return what the operating point does on cases."""
    return counted(_sharpened(cases, point.sharpness), point.decision, point.budget)


def out_of_fold(cases: LabelledCases, request: PointRequest) -> Counted:
    """Return what operating points do on cases whose patients did not fit them: tenths of the patients in turn, one image each.

    Each point is fitted on nine tenths, so that it answers slightly less than the one of all cases.
    """
    own = cases.only(one_per_patient(cases.patients, seed=request.seed))
    order = np.random.default_rng(request.seed).permutation(len(own.true))
    fold = np.empty(len(order), dtype=np.int64)
    fold[order[np.argsort(own.true[order], kind="stable")]] = np.arange(len(order)) % FOLDS
    found = None
    for k in range(FOLDS):
        held_out = own.only(fold == k)
        row = apply_point(held_out, fit_point(own.only(fold != k), request))
        found = row if found is None else found + row
    assert found is not None
    return found
