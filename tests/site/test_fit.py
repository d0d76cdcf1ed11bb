"""Operating point of a site's cases: what is fitted on which patients."""

from __future__ import annotations

import numpy as np
import pytest

from cxr_edge.calibration import Promise, fit_budget, threshold_rules
from cxr_edge.site import fit
from cxr_edge.site.fit import PointRequest, apply_point, fit_point, out_of_fold
from cxr_edge.specs.combination import Decision
from tests.calibration.populations import draw

FIRST = Decision(thresholds={"covid-19": 0.3}, uncertain_below=0.0, first=("covid-19",))
REQUEST = PointRequest(decision=FIRST, promise=Promise(max_wrong=0.1), temperature=False)


def test_limits_hold_with_every_threshold_that_could_have_been_chosen():
    cases = draw(399, np.random.default_rng(8), strength=2.5)
    point = fit_point(cases, REQUEST)
    with_rules = fit_budget(cases, point.decision, REQUEST.promise, fitted_on="x", seed=1, rules=threshold_rules(FIRST))
    alone = fit_budget(cases, point.decision, REQUEST.promise, fitted_on="x", seed=1)
    assert point.threshold_fitted
    assert point.budget.labels == with_rules.labels != alone.labels


def test_no_patient_is_counted_by_limits_that_the_patient_fitted(monkeypatch: pytest.MonkeyPatch):
    cases, fitted_on = draw(150, np.random.default_rng(1)), []
    counted_on = []

    def recorded_fit(own, request):
        fitted_on.append(set(own.patients))
        return fit_point(own, request)

    def recorded_counts(own, point):
        counted_on.append(set(own.patients))
        return apply_point(own, point)

    monkeypatch.setattr(fit, "fit_point", recorded_fit)
    monkeypatch.setattr(fit, "apply_point", recorded_counts)
    found = out_of_fold(cases, REQUEST)
    assert all(not a & b and len(a | b) == 150 for a, b in zip(fitted_on, counted_on, strict=True))
    assert set.union(*counted_on) == set(cases.patients)
    assert (len(counted_on), found.cases) == (10, 150)


def test_the_temperature_has_patients_of_its_own():
    cases = draw(400, np.random.default_rng(8), strength=2.5)
    point = fit_point(cases, PointRequest(decision=FIRST, promise=Promise()))
    assert (point.temperature_patients, point.patients) == (100, 300)
    assert sum(limits.cases for limits in point.budget.labels.values()) == 300
    assert fit_point(cases, REQUEST).sharpness == 1.0
