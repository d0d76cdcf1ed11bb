"""Fits for a part of the members: calibrated, with the specificity of all members, of few parameters."""

from __future__ import annotations

import numpy as np
import pytest

from cxr_edge.ops.combine import Combiner
from cxr_edge.specs.combination import Decision
from training.ensembles.fit import fit
from training.ensembles.subsets import (
    fit_subset,
    fit_subset_of_findings,
    matching_threshold,
    subset_strategy,
)
from training.evaluation.metrics import log_loss

LABELS = ("normal", "bacterial", "viral", "covid-19")


def _logits(noise: tuple[float, ...], n: int = 400) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    true = rng.integers(0, 4, n)
    members = [3 * np.eye(4)[true] + rng.normal(0, s, (n, 4)) for s in noise]
    return np.stack(members, axis=1).astype(np.float32), true


@pytest.mark.parametrize(
    ("strategy", "members", "found"),
    [
        ("average", 2, "average"),
        ("weighted-average", 2, "weighted-average"),
        ("voting", 2, "voting"),
        ("stacking", 2, "weighted-average"),
        ("flannel", 4, "weighted-average"),
        ("stacking", 1, "average"),
        ("voting", 1, "average"),
    ],
)
def test_strategies_of_many_parameters_become_weighted_averages(strategy: str, members: int, found: str) -> None:
    assert subset_strategy(strategy, members) == found


def test_a_subset_is_calibrated_of_its_own() -> None:
    logits, true = _logits((0.8, 2.0, 2.0))
    all_members = fit("average", logits, true, seed=0)
    whole = (all_members, logits, Decision(thresholds={}, uncertain_below=0.0))
    combination, _ = fit_subset(logits[:, 1:], true, LABELS, whole=whole, guard=None, groups={}, seed=0)
    assert combination.temperature != all_members.temperature
    p, _ = Combiner(combination, labels=4).run(np.ascontiguousarray(logits[:, 1:]))
    for factor in (0.8, 1.25):
        sharper = p.astype(np.float64) ** factor
        sharper /= sharper.sum(axis=1, keepdims=True)
        assert log_loss(p.astype(np.float64), true).mean() < log_loss(sharper, true).mean()


def test_a_threshold_from_elsewhere_keeps_its_specificity() -> None:
    logits, true = _logits((0.8, 2.5, 2.5))
    true[::10] = -1  # other findings, which count in the specificity
    combination = fit("average", logits[true >= 0], true[true >= 0], seed=0)
    rule = Decision(thresholds={"covid-19": 0.2}, uncertain_below=0.0, first=("covid-19",))
    found, decision = fit_subset(
        logits[:, 1:], true, LABELS, whole=(combination, logits, rule), guard="covid-19", groups={}, seed=0
    )
    assert decision.first == ("covid-19",)
    sides = ((combination, logits, 0.2), (found, logits[:, 1:], decision.thresholds["covid-19"]))
    called = [
        (Combiner(c, labels=4).run(np.ascontiguousarray(x))[0][true != 3, 3] >= np.float32(t)).sum()
        for c, x, t in sides
    ]
    assert 0 < called[1] <= called[0]
    assert called[1] >= called[0] - 1
    assert decision.thresholds["covid-19"] != 0.2


def test_a_threshold_of_validation_is_chosen_again() -> None:
    logits, true = _logits((0.8, 2.5, 2.5))
    combination = fit("average", logits, true, seed=0)
    rule = Decision(thresholds={"covid-19": 0.5}, uncertain_below=0.0)
    _, decision = fit_subset(
        logits[:, 1:], true, LABELS, whole=(combination, logits, rule), guard="covid-19", groups={}, seed=0
    )
    assert decision.first == ()
    assert decision.thresholds["covid-19"] in np.round(np.arange(0.20, 0.96, 0.05), 2)


@pytest.mark.parametrize(
    ("before", "threshold", "after", "found"),
    [
        ([0.1, 0.5, 0.9], 0.6, [0.2, 0.3, 0.4], 0.3001),
        ([0.1, 0.5, 0.9], 0.95, [0.2, 0.3, 0.4], 0.4001),
        ([0.1, 0.5, 0.9], 0.05, [0.2, 0.3, 0.4], 0.0),
        ([0.1, 0.9], 0.6, [0.3, 0.3], 0.3001),  # a tie calls neither
        ([0.1, 0.9], 0.95, [1.0, 1.0], 1.0),
        ([], 0.5, [], 0.0),
    ],
)
def test_the_matching_threshold(before: list[float], threshold: float, after: list[float], found: float) -> None:
    arrays = (np.array(v, dtype=np.float32) for v in (before, after))
    first, second = arrays
    assert matching_threshold(first, threshold, second) == pytest.approx(found, abs=1e-9)


def test_findings_have_thresholds_of_their_own() -> None:
    rng = np.random.default_rng(2)
    truth = (rng.uniform(size=(300, 2)) < 0.4).astype(np.float32)
    truth[::7, 0] = np.nan
    known = np.nan_to_num(truth)
    members = [2.5 * (2 * known - 1) + rng.normal(0, s, (300, 2)) for s in (1.0, 3.0)]
    logits = np.stack(members, axis=1).astype(np.float32)
    found = {
        k: fit_subset_of_findings(logits[:, k : k + 1], truth, ("a", "b"), strategy="flannel", specificity=0.9, seed=0)
        for k in range(2)
    }
    assert all(c.strategy == "average" and c.activation == "sigmoid" for c, _ in found.values())
    assert found[0][1].thresholds != found[1][1].thresholds
