"""Fitting on validation patients: temperatures that calibrate, weights that find the good member, a conservative threshold."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cxr_edge.errors import InputError
from cxr_edge.ops.combine import Combiner, decide
from cxr_edge.specs.combination import Combination
from tests.tolerances import PROBABILITY
from training.ensembles.fit import calibrated, choose_combination, choose_decision, fit
from training.evaluation.metrics import log_loss

LABELS = ("normal", "bacterial", "viral", "covid-19")


def _logits(
    noise: tuple[float, ...], *, n: int = 400, scale: float = 1.0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Members with logits of 3 times the one-hot true label plus noise of these deviations; all times `scale`."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, 4, n)
    members = [3 * np.eye(4)[true] + rng.normal(0, s, (n, 4)) for s in noise]
    return (scale * np.stack(members, axis=1)).astype(np.float32), true


def _patients(n: int = 400) -> list[str]:
    return [f"p{i}" for i in range(n)]


def test_temperature_undoes_overconfidence() -> None:
    logits, true = _logits((1.5, 1.5))
    for scale in (0.5, 4.0):
        fitted = fit("average", (scale * logits).astype(np.float32), true, seed=0)
        plain = fit("average", logits, true, seed=0)
        ratio = np.array(fitted.member_temperatures) / np.array(plain.member_temperatures)
        assert ratio == pytest.approx(scale, rel=0.02)


def test_weights_go_to_the_accurate_member() -> None:
    logits, true = _logits((0.8, 8.0, 8.0))
    weights = fit("weighted-average", logits, true, seed=0).parameters["weights"]
    assert sum(weights) == pytest.approx(1.0)
    assert weights[0] > 0.8


@pytest.mark.parametrize("strategy", ["average", "weighted-average", "voting", "stacking"])
def test_every_strategy_runs_as_deployed(strategy: str) -> None:
    logits, true = _logits((1.0, 1.2))
    combination = fit(strategy, logits, true, seed=0)  # type: ignore[arg-type]
    _, winner = Combiner(combination, labels=4).run(logits)
    assert (winner == true).mean() > 0.8
    assert combination == fit(strategy, logits, true, seed=0), "the same seed, the same parameters"  # type: ignore[arg-type]


def test_among_equals_the_simplest_is_selected() -> None:
    logits, true = _logits((1.2, 1.2, 1.2))
    chosen = choose_combination(logits, true, _patients(), seed=0)
    assert chosen.combination.strategy == "average"
    assert set(chosen.log_loss) == {"average", "weighted-average", "voting", "stacking"}
    assert chosen.log_loss["average"] < chosen.log_loss["voting"]


def test_a_clearly_better_strategy_is_selected() -> None:
    logits, true = _logits((1.0, 9.0, 9.0))
    logits[:, 1:] += 6 * np.eye(4, dtype=np.float32)[(true + 1) % 4][:, None]  # two that are sure of the wrong label
    chosen = choose_combination(logits, true, _patients(), seed=0)
    assert chosen.combination.strategy in ("weighted-average", "stacking")


def test_one_patient_is_refused() -> None:
    logits, true = _logits((1.0,), n=4)
    with pytest.raises(InputError, match="two validation patients"):
        choose_combination(logits, true, ["p"] * 4, seed=0)


def _decided(false_share: float, *, outside: bool = False) -> tuple[float, float]:
    """Threshold and specificity when this share of adult normals gets 0.6 for COVID-19, and true cases get 0.8 or more."""
    n, rng = 200, np.random.default_rng(0)
    true = np.where(np.arange(n) < 50, 3, 0)
    p = np.where(true == 3, rng.uniform(0.8, 0.98, n), 0.05)
    p[50 : 50 + int(150 * false_share)] = 0.6
    logits = np.log(np.stack([1 - p - 0.02, np.full(n, 0.01), np.full(n, 0.01), p], axis=1))[:, None].astype(np.float32)
    combination = fit("average", logits, true, seed=0)
    # The fitted temperature would move the probabilities that this test talks about.
    combination = type(combination)(strategy="average", member_temperatures=(1.0,), temperature=1.0, parameters={})
    labels = np.where((true == 0) & outside, -1, true)
    chosen = choose_decision(combination, logits, labels, LABELS, guard="covid-19", groups={"normals": true == 0})
    return chosen.decision.thresholds["covid-19"], chosen.specificity


@pytest.mark.parametrize("outside", [False, True])
def test_the_threshold_rises_above_false_alarms(outside: bool) -> None:
    threshold, specificity = _decided(0.2, outside=outside)
    assert 0.6 < threshold <= 0.8
    assert specificity == 1.0


def test_without_false_alarms_the_threshold_is_the_highest_of_equal_f1() -> None:
    threshold, _ = _decided(0.0)
    assert threshold == pytest.approx(0.8)  # where the probabilities of the true cases begin


def test_a_threshold_chosen_elsewhere_is_taken_and_judged() -> None:
    logits, true = _logits((1.5,))
    combination = fit("average", logits, true, seed=0)
    chosen = choose_decision(combination, logits, true, LABELS, guard="covid-19", threshold=0.8765)
    assert chosen.decision.thresholds == {"covid-19": 0.8765}
    p, winners = Combiner(combination, labels=4).run(logits)
    called = np.array(
        [decide(row, int(w), LABELS, chosen.decision)[0] == "covid-19" for row, w in zip(p, winners, strict=True)]
    )
    assert chosen.specificity == pytest.approx((~called[true != 3]).mean())


@pytest.mark.parametrize("guard", ["covid-19", None])
def test_the_given_share_is_flagged_uncertain(guard: str | None) -> None:
    logits, true = _logits((1.5,))
    combination = fit("average", logits, true, seed=0)
    chosen = choose_decision(combination, logits, true, LABELS, guard=guard, uncertain_share=0.2)
    top = Combiner(combination, labels=4).run(logits)[0].max(axis=1)
    assert (top < chosen.decision.uncertain_below).mean() == pytest.approx(0.2, abs=0.03)


def test_log_loss_of_certainty_is_finite() -> None:
    assert np.isfinite(log_loss(np.array([[1.0, 0.0]]), np.array([1]))).all()


@pytest.mark.parametrize("strategy", ["average", "weighted-average", "voting", "stacking"])
def test_the_deployed_combination_is_what_torch_computes(strategy: str) -> None:
    """Fitted parameters, put into torch by its own operations, give the C++ result."""
    logits, true = _logits((1.0, 1.5, 2.0))
    fitted = fit(strategy, logits, true, seed=0)
    found, winners = Combiner(fitted, labels=4).run(logits)
    scaled = torch.from_numpy(logits).double() / torch.tensor(fitted.member_temperatures)[:, None]
    p = scaled.softmax(dim=2)
    if strategy == "voting":
        votes = torch.nn.functional.one_hot(p.argmax(dim=2), 4).sum(dim=1)
        assert np.allclose(found, votes / 3, atol=PROBABILITY)
        # A tie goes to the higher mean probability.
        assert winners.tolist() == (votes + p.mean(dim=1) / 10).argmax(dim=1).tolist()
        return
    if strategy == "stacking":
        w = {k: torch.tensor(v).double() for k, v in fitted.parameters.items()}
        hidden = torch.relu(p.flatten(1) @ w["hidden_weight"].T + w["hidden_bias"])
        scores = hidden @ w["output_weight"].T + w["output_bias"]
    else:
        weights = torch.tensor(fitted.parameters.get("weights", [1 / 3] * 3)).double()
        scores = (p * weights[:, None]).sum(dim=1).log()
    expected = (scores / fitted.temperature).softmax(dim=1)
    assert np.abs(found - expected.numpy()).max() < PROBABILITY
    assert winners.tolist() == expected.argmax(dim=1).tolist()


def test_stacking_has_the_papers_nine_hidden_neurons() -> None:
    rng = np.random.default_rng(0)
    logits, true = rng.normal(size=(60, 3, 3)).astype(np.float32), rng.integers(0, 3, 60)
    assert np.shape(fit("stacking", logits, true, seed=0).parameters["hidden_weight"]) == (9, 9)


def test_the_papers_fit_has_no_temperature_and_the_given_weights() -> None:
    logits, true = _logits((1.0, 1.5, 2.0))
    fitted = fit("weighted-average", logits, true, seed=0, calibrate=False, weights=(0.5, 0.3, 0.2))
    assert fitted.member_temperatures == (1.0, 1.0, 1.0)
    assert fitted.temperature == 1.0
    assert list(fitted.parameters["weights"]) == [0.5, 0.3, 0.2]


def test_a_temperature_sharpens_flannels_flat_output_and_keeps_the_winner() -> None:
    """Weights of 0.6 per learner for every image: no probability can exceed e^1.8 / (e^1.8 + 3)."""
    logits, true = _logits((1.5, 1.5, 1.5))
    flat = Combination(
        strategy="flannel",
        member_temperatures=(1.0, 1.0, 1.0),
        temperature=1.0,
        parameters={"module_weight": np.zeros((3, 144)).tolist(), "module_bias": [float(np.arctanh(0.6))] * 3},
    )
    sharp = calibrated(flat, logits, true)
    assert sharp == Combination(**{**vars(flat), "temperature": sharp.temperature}), "nothing else is changed"
    assert 0.05 < sharp.temperature < 0.9
    (before, winners), (after, same_winners) = (Combiner(c, labels=4).run(logits) for c in (flat, sharp))
    assert before.max() <= np.exp(1.8) / (np.exp(1.8) + 3)
    assert log_loss(after, true).mean() < 0.5 * log_loss(before, true).mean()
    assert np.array_equal(winners, same_winners)
    losses = []
    for factor in (0.8, 1.25):
        moved = Combination(**{**vars(sharp), "temperature": factor * sharp.temperature})
        losses.append(log_loss(Combiner(moved, labels=4).run(logits)[0], true).mean())
    assert min(losses) > log_loss(after, true).mean(), "it is the least"
