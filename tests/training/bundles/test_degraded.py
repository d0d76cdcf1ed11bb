"""Degraded modes of a bundle: a mode per subset, the budget of the whole, figures on validation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cxr_edge.calibration import Promise
from cxr_edge.site.mode_figures import KnownImages
from cxr_edge.specs.budget import ErrorBudget
from cxr_edge.specs.combination import Decision
from tests.builders.toy_bundle import build_toy_bundle
from training.bundles import budget as budgets
from training.bundles.budget import bundle_budget
from training.bundles.degraded import FittedFindings, FittedLabels, modes_of_findings, modes_of_labels
from training.ensembles import multi_label
from training.ensembles.fit import choose_decision, fit
from training.evaluation.degraded import HEADING, modes_section

LABELS = ("normal", "bacterial", "viral", "covid-19")
PROMISE = Promise(max_wrong=0.2)


def _fitted(noise: tuple[float, ...], *, promise: Promise | None = PROMISE, n: int = 500) -> FittedLabels:
    rng = np.random.default_rng(0)
    true = rng.integers(0, 4, n)
    members = [3 * np.eye(4)[true] + rng.normal(0, s, (n, 4)) for s in noise]
    logits = np.stack(members, axis=1).astype(np.float32)
    true[::20] = -1
    known = true >= 0
    combination = fit("average", logits[known], true[known], seed=1)
    decision = choose_decision(combination, logits, true, LABELS, guard="covid-19").decision
    patients = np.array([f"p{i}" for i in range(n)])
    images = KnownImages(labels=LABELS, logits=logits, true=true, patients=patients)
    budget: ErrorBudget | None = None
    if promise is not None:
        cases = images.cases(combination).only(known)
        budget = bundle_budget(cases, decision, promise, own_patients=False, seed=1)
    return FittedLabels(
        members=tuple("abcde"[: len(noise)]),
        images=images,
        combination=combination,
        decision=decision,
        budget=budget,
        promise=promise,
        guard="covid-19",
    )


def test_a_mode_per_subset_with_what_it_costs() -> None:
    modes = modes_of_labels(_fitted((0.8, 2.0, 4.0)))
    assert [m.members for m in modes] == [("a", "b"), ("a", "c"), ("b", "c"), ("a",), ("b",), ("c",)]
    f1 = {m.members: m.figures.macro_f1 for m in modes}
    assert f1["a", "b"] > f1["b", "c"] > f1["c",]
    assert {m.figures_of_all for m in modes} == {modes[0].figures_of_all}
    assert modes[0].measured_on == "475 images of validation patients"
    whole = modes[0].figures_of_all
    assert (whole.images, whole.sensitivity is not None and whole.sensitivity.n) == (475, (_true() == 3).sum())
    assert whole.specificity is not None
    assert whole.specificity.n == (_true() != 3).sum()
    for mode in modes:
        mode.combination.check_sizes(members=len(mode.members), labels=4)


def _true() -> np.ndarray:
    return _fitted((1.0, 1.0), promise=None).images.true


def test_every_mode_has_a_budget_where_the_bundle_has_one() -> None:
    """A member that is mostly wrong keeps no promise: its mode never answers, instead of answering everything."""
    modes = {m.members: m for m in modes_of_labels(_fitted((0.8, 2.0, 12.0)))}
    hopeless = modes["c",].budget
    assert hopeless is not None
    assert all(limits.answer_from is None for limits in hopeless.labels.values())
    share = modes["c",].figures.answered
    assert share is not None
    assert share.hits == 0
    assert hopeless.fitted_on.startswith("475 validation patients, one image of each, which fitted combination")
    assert all(m.budget is None for m in modes_of_labels(_fitted((0.8, 2.0), promise=None)))


def test_many_patients_fit_the_limits_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = _fitted((0.8, 2.0))
    before = modes_of_labels(fitted)
    monkeypatch.setattr(budgets, "LEAST_APART", 400)
    modes = modes_of_labels(fitted)
    assert modes[0].budget is not None
    assert "validation patients, one image of each, which fitted nothing else" in modes[0].budget.fitted_on
    assert modes[0].combination != before[0].combination
    assert modes[0].figures.images == 475


def test_one_member_and_more_than_nine_have_no_modes() -> None:
    assert modes_of_labels(_fitted((1.0,))) == ()


def test_modes_of_findings() -> None:
    rng = np.random.default_rng(2)
    truth = (rng.uniform(size=(300, 2)) < 0.4).astype(np.float32)
    truth[::7, 0] = np.nan
    known = np.nan_to_num(truth)
    logits = np.stack([2.5 * (2 * known - 1) + rng.normal(0, s, (300, 2)) for s in (1.0, 3.0)], axis=1)
    logits = logits.astype(np.float32)
    fitted = FittedFindings(
        members=("a", "b"),
        labels=("effusion", "nodule"),
        logits=logits,
        truth=truth,
        combination=multi_label.fit("average", logits, truth, seed=1),
        decision=Decision(thresholds={"effusion": 0.5}, uncertain_below=0.5),
        specificity=None,
    )
    first, second = modes_of_findings(fitted)
    assert (first.members, second.members) == (("a",), ("b",))
    assert first.figures.macro_f1 > second.figures.macro_f1
    assert first.figures.macro_auc is not None
    assert (first.budget, first.guard, first.figures.sensitivity) == (None, None, None)
    assert first.figures.images == 300


def test_the_card_has_a_section_of_the_modes(tmp_path: Path) -> None:
    manifest = build_toy_bundle(tmp_path, degraded=True, known_answers=False).manifest
    section = "\n\n".join(modes_section(manifest))
    assert section.startswith(HEADING)
    assert "On 90 images of validation patients, which fitted them:" in section
    assert "| members | macro-F1 | macro-auc | sensitivity covid-19 | specificity covid-19 |" in section
    assert "| all | 0.900 | 0.950 | 0.900 | 0.900 |" in section
    assert "| plain, depthwise | 0.800 | 0.950 | 0.800 | 0.800 |" in section
    plain = build_toy_bundle(tmp_path / "plain", known_answers=False).manifest
    assert modes_section(plain) == []
