"""Combinations of findings: fits through the native combiner, unknown ones masked, thresholds, and the simplest of equals."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_curve

from cxr_edge.errors import InputError
from cxr_edge.ops.combine import Combiner
from cxr_edge.specs.combination import Combination
from tests.ops import reference
from tests.tolerances import PROBABILITY
from training.ensembles import multi_label
from training.ensembles.multi_label import STRATEGIES, Strategy, calibrated, choose_combination, fit, probabilities_of
from training.ensembles.thresholds import choose_thresholds
from training.evaluation.finding_metrics import decided, masked_log_loss

LABELS = ("a", "b", "c")


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multi_label, "_STEPS", 60)


def _logits(
    noise: tuple[float, ...], *, n: int = 300, scale: float = 1.0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Members whose logits are those of calibrated probabilities plus noise, times `scale`; a fifth is unknown."""
    rng = np.random.default_rng(seed)
    z = rng.normal(-0.5, 2.0, (n, 3))
    truth = (rng.random((n, 3)) < 1 / (1 + np.exp(-z))).astype(np.float32)
    truth[rng.random((n, 3)) < 0.2] = np.nan
    members = np.stack([z + rng.normal(0, s, (n, 3)) for s in noise], axis=1)
    return (scale * members).astype(np.float32), truth


def _loss(combination: Combination, logits: np.ndarray, truth: np.ndarray) -> float:
    return float(np.nanmean(masked_log_loss(probabilities_of(combination, logits), truth)))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_fit_is_what_the_native_combiner_and_numpy_compute(strategy: Strategy) -> None:
    logits, truth = _logits((0.3, 1.0))
    combination = fit(strategy, logits, truth, seed=0)
    assert combination.activation == "sigmoid"
    assert combination == fit(strategy, logits, truth, seed=0), "the same seed, the same parameters"
    found, winner = Combiner(combination, labels=3).run(logits)
    for i in range(20):
        expected, best = reference.combine(logits[i], combination)
        np.testing.assert_allclose(found[i], expected, atol=PROBABILITY)
        assert winner[i] == best
    calls = (found >= 0.5) == (truth == 1)
    assert calls[np.isfinite(truth)].mean() > 0.72


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_is_predicted_for_unknown_findings_changes_nothing(strategy: Strategy) -> None:
    logits, truth = _logits((0.3, 1.0), n=60)
    one, other = logits.copy(), logits.copy()
    unknown = np.repeat(np.isnan(truth)[:, None], 2, axis=1)
    one[:, :, 2], other[:, :, 2] = 0.0, 0.0
    one[unknown], other[unknown] = 0.0, 0.0
    truth[:, 2] = np.nan
    if strategy in ("average", "weighted-average", "voting"):  # the others read all scores of an image
        other[unknown] = 7.0
    assert fit(strategy, one, truth, seed=0) == fit(strategy, other, truth, seed=0)


def test_temperatures_undo_overconfidence_of_members_and_of_one_finding() -> None:
    logits, truth = _logits((0.0, 0.0), n=3000)
    logits[:, 1] *= 3
    fitted = fit("average", logits, truth, seed=0)
    assert fitted.member_temperatures == pytest.approx((1, 3), rel=0.1)
    single = logits[:, :1].copy()
    single[..., 2] *= 4
    plain = fit("average", single, truth, seed=0, calibrate=False)
    both = calibrated(plain, single, truth)
    total = np.array(both.label_temperatures) * both.temperature
    assert total == pytest.approx([1, 1, 4], rel=0.12)
    assert _loss(both, single, truth) < _loss(plain, single, truth)


def test_a_finding_of_few_images_keeps_the_common_temperature() -> None:
    logits, truth = _logits((0.2,))
    truth[:, 1] = 0
    truth[:4, 1] = 1
    assert fit("average", logits, truth, seed=0).label_temperatures[1] == 1.0


def test_weights_go_to_the_accurate_member() -> None:
    logits, truth = _logits((0.2, 6.0, 6.0))
    weights = fit("weighted-average", logits, truth, seed=0).parameters["weights"]
    assert sum(weights) == pytest.approx(1.0)
    assert weights[0] > 0.6
    grid = [[a / 20, (20 - a) / 20] for a in range(21)]
    two = logits[:, :2]
    best = min(
        grid,
        key=lambda w: _cell_loss(fit("weighted-average", two, truth, seed=0, calibrate=False, weights=w), two, truth),
    )
    assert fit("weighted-average", two, truth, seed=0, calibrate=False).parameters["weights"] == pytest.approx(best)


def _cell_loss(combination: Combination, logits: np.ndarray, truth: np.ndarray) -> float:
    p = probabilities_of(combination, logits)
    right = np.where(truth == 1, p, 1 - p)[np.isfinite(truth)]
    return float(-np.log(np.maximum(right, 1e-6)).mean())


@pytest.mark.parametrize("strategy", ["stacking", "flannel"])
def test_what_is_trained_beats_the_average_of_a_good_and_a_bad_member(
    strategy: Strategy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second member says the opposite of what it sees, which no average can undo."""
    monkeypatch.setattr(multi_label, "_STEPS", 300)
    logits, truth = _logits((0.3, 0.3))
    logits[:, 1] *= -1
    trained, average = (fit(s, logits, truth, seed=0) for s in (strategy, "average"))
    assert _loss(trained, logits, truth) < _loss(average, logits, truth)


def test_among_equals_the_simplest_is_selected() -> None:
    logits, truth = _logits((0.2, 0.2), n=120)
    chosen = choose_combination(logits, truth, [f"p{i // 2}" for i in range(120)], seed=0)
    assert chosen.combination.strategy == "average"
    assert set(chosen.log_loss) == {"average", "weighted-average", "voting"}
    assert chosen.log_loss["voting"] > chosen.log_loss["average"]


def test_flexible_strategies_need_patients_enough() -> None:
    logits, truth = _logits((0.3, 0.3), n=130)
    logits[:, 1] *= -1
    chosen = choose_combination(logits, truth, [f"p{i}" for i in range(130)], seed=0)
    assert set(chosen.log_loss) == set(STRATEGIES)
    assert chosen.log_loss[chosen.combination.strategy] < chosen.log_loss["average"]


def test_images_without_a_known_finding_take_no_part() -> None:
    logits, truth = _logits((0.2, 0.5), n=60)
    patients = [f"p{i}" for i in range(60)]
    more, blank = np.concatenate([logits, logits]), np.full_like(truth, np.nan)
    chosen = choose_combination(logits, truth, patients, seed=0)
    assert choose_combination(more, np.concatenate([truth, blank]), patients * 2, seed=0) == chosen
    with pytest.raises(InputError, match="known finding"):
        choose_combination(logits, blank, patients, seed=0)
    with pytest.raises(InputError, match="two validation patients"):
        choose_combination(logits, truth, ["p"] * 60, seed=0)


def test_one_finding_is_enough() -> None:
    logits, truth = _logits((0.2, 0.5), n=80)
    for strategy in STRATEGIES:
        combination = fit(strategy, logits[..., :1], truth[:, :1], seed=0)
        assert probabilities_of(combination, logits[..., :1]).shape == (80, 1)


def test_youdens_threshold_is_that_of_the_roc_curve() -> None:
    logits, truth = _logits((0.5,))
    combination = fit("average", logits, truth, seed=0)
    chosen = choose_thresholds(combination, logits, truth, LABELS)
    p = probabilities_of(combination, logits)
    for k, label in enumerate(LABELS):
        own = np.isfinite(truth[:, k])
        fpr, tpr, _ = roc_curve(truth[own, k], p[own, k])
        row = chosen.labels[label]
        assert row.sensitivity.value + row.specificity.value - 1 == pytest.approx((tpr - fpr).max())
        assert row.threshold == chosen.decision.thresholds[label]
        assert not np.isclose(p[own, k], row.threshold, atol=1e-9).any()
        assert row.sensitivity.n + row.specificity.n == own.sum()


@pytest.mark.parametrize("specificity", [0.5, 0.9, 0.99])
def test_a_stated_specificity_is_reached_with_the_highest_sensitivity(specificity: float) -> None:
    logits, truth = _logits((0.5,))
    combination = fit("average", logits, truth, seed=0)
    chosen = choose_thresholds(combination, logits, truth, LABELS, specificity=specificity)
    p = probabilities_of(combination, logits)
    for k, label in enumerate(LABELS):
        own = np.isfinite(truth[:, k])
        fpr, tpr, _ = roc_curve(truth[own, k], p[own, k], drop_intermediate=False)
        row = chosen.labels[label]
        assert row.specificity.value >= specificity
        assert row.sensitivity.value == pytest.approx(tpr[fpr <= 1 - specificity + 1e-12].max())
        best = fpr[tpr >= row.sensitivity.value - 1e-12].min()
        assert row.specificity.value == pytest.approx(1 - best), "no false alarm that finds nothing"
    assert f"specificity of {specificity:g}" in chosen.rule


def test_a_threshold_of_separate_kinds_is_between_them() -> None:
    logits = np.array([-3.0, -2.0, 1.0, 2.0] * 3, np.float32)[:, None, None]
    truth = (logits[:, 0] > 0).astype(np.float32)
    combination = fit("average", logits, truth, seed=0, calibrate=False)
    for specificity in (None, 0.5):
        t = choose_thresholds(combination, logits, truth, ("a",), specificity=specificity).decision.thresholds["a"]
        assert t == pytest.approx((1 / (1 + np.exp(2)) + 1 / (1 + np.exp(-1))) / 2)


def test_a_finding_without_both_kinds_has_the_default_threshold() -> None:
    logits, truth = _logits((0.5,))
    combination = fit("average", logits, truth, seed=0)
    truth[:, 1] = np.where(truth[:, 1] == 1, np.nan, truth[:, 1])
    chosen = choose_thresholds(combination, logits, truth, LABELS)
    assert set(chosen.decision.thresholds) == {"a", "c"}
    assert chosen.labels["b"].threshold is None
    assert np.isnan(chosen.labels["b"].sensitivity.value)
    present = decided(np.array([[0.0, 0.5, 0.0], [1.0, 0.49, 1.0]]), chosen.decision, LABELS)
    assert present.tolist() == [[False, True, False], [True, False, True]]


def test_a_share_of_the_present_findings_is_uncertain() -> None:
    logits, truth = _logits((0.5,))
    combination = fit("average", logits, truth, seed=0)
    chosen = choose_thresholds(combination, logits, truth, LABELS, uncertain_share=0.25)
    p = probabilities_of(combination, logits)
    present = decided(p, chosen.decision, LABELS)
    assert (p[present] < chosen.decision.uncertain_below).mean() == pytest.approx(0.25, abs=0.05)
