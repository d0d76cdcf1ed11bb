"""FLANNEL's module: the formula by hand and in the deployed combiner, its upper bound, and its training."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cxr_edge.errors import InputError
from cxr_edge.ops.combine import Combiner, member_probabilities
from training.ensembles.neural_weights import (
    FitPlan,
    NeuralWeightModule,
    _oversampled,
    alpha_of,
    as_combination,
    fit_dense,
    fit_module,
    highest_probability,
)

torch.set_num_threads(1)

MEMBERS, LABELS = 5, 4
CLOSE = 1e-6
QUICK = FitPlan(epochs=30, learning_rate=2e-2)


def _softmax(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def _module(seed: int = 0, scale: float = 1.0) -> NeuralWeightModule:
    """Random weights; with `scale` above 1 tanh is not linear."""
    torch.manual_seed(seed)
    module = NeuralWeightModule(MEMBERS, LABELS)
    with torch.no_grad():
        module.dense.weight.mul_(scale)
    return module


def _probabilities(images: int, seed: int = 0, sure: float = 3.0) -> npt.NDArray[np.float64]:
    return _softmax(sure * np.random.default_rng(seed).standard_normal((images, MEMBERS, LABELS)))


def _parameters(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def _same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def _specialists(images: int, seed: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Three learners, three labels: learner k predicts k on all images of label k and on no other; there it guesses.

    So the learner that says its own label is right, and the two others often say as surely something else.
    """
    rng = np.random.default_rng(seed)
    true = rng.integers(0, 3, images)
    predicted = (np.arange(3) + rng.integers(1, 3, (images, 3))) % 3  # learner k never predicts k by guessing
    predicted[np.arange(images), true] = true
    return _softmax(3 * np.eye(3)[predicted] + 0.3 * rng.standard_normal((images, 3, 3))), true


def _predictions(module: NeuralWeightModule, probabilities: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    with torch.no_grad():
        return module.combined(torch.from_numpy(probabilities).float()).argmax(dim=1).numpy()


def test_the_papers_module_has_2005_parameters() -> None:
    assert _parameters(NeuralWeightModule(MEMBERS, LABELS)) == 2_005


def test_weights_are_between_minus_one_and_one() -> None:
    with torch.no_grad():
        weights = _module(scale=20)(torch.from_numpy(_probabilities(200)).float())
    assert weights.shape == (200, MEMBERS)
    assert weights.abs().max() < 1
    assert weights.min() < -0.5 < 0.5 < weights.max(), "weights may be small or negative"


@given(st.integers(0, 2**31), st.sampled_from([1.0, 20.0]))
def test_the_module_is_the_papers_formula(seed: int, scale: float) -> None:
    module, p = _module(seed, scale), _probabilities(3, seed)
    weight, bias = (t.detach().double().numpy() for t in (module.dense.weight, module.dense.bias))
    for k, image in enumerate(p):
        f = np.concatenate(list(image))  # learner by learner, as the code numbers them
        interactions = [f[i] * f[j] for i in range(20) for j in range(20)]  # row by row
        w = np.tanh(weight @ interactions + bias)
        summed = sum(w[m] * image[m] for m in range(MEMBERS))
        with torch.no_grad():
            x = torch.from_numpy(p[k : k + 1]).float()
            np.testing.assert_allclose(module(x)[0].numpy(), w, atol=1e-5)
            answer = module.combined(x).softmax(dim=1)[0].numpy()
        np.testing.assert_allclose(answer, _softmax(summed), atol=1e-5)


def test_the_upper_bound_for_five_learners_and_four_labels() -> None:
    assert round(highest_probability(5, 4), 4) == 0.9802
    assert highest_probability(5, 4) == pytest.approx(np.exp(5) / (np.exp(5) + 3), rel=1e-12)
    assert highest_probability(7, 4) > highest_probability(5, 4) > highest_probability(5, 6)


@given(st.integers(0, 2**31), st.floats(0.1, 50.0), st.booleans())
def test_no_output_exceeds_the_bound_for_any_weights(seed: int, sure: float, extreme: bool) -> None:
    rng = np.random.default_rng(seed)
    p = _probabilities(20, seed, sure)
    w = rng.choice([-1.0, 1.0], (20, MEMBERS)) if extreme else rng.uniform(-1, 1, (20, MEMBERS))
    assert _softmax((w[..., None] * p).sum(axis=1)).max() <= highest_probability(MEMBERS, LABELS) + 1e-12


def test_weights_of_one_on_certain_learners_reach_the_bound() -> None:
    module = _module()
    with torch.no_grad():
        module.dense.bias.fill_(100)
        agreed = torch.eye(LABELS)[None, :1].repeat(1, MEMBERS, 1)
        answer = module.combined(agreed).softmax(dim=1)[0, 0].item()
    assert answer == pytest.approx(highest_probability(MEMBERS, LABELS), abs=CLOSE)


@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_the_engines_combiner_computes_the_same(scale: float) -> None:
    module = _module(3, scale)
    logits = (4 * np.random.default_rng(1).standard_normal((64, MEMBERS, LABELS))).astype(np.float32)
    combination = as_combination(module)
    combination.check_sizes(members=MEMBERS, labels=LABELS)
    answers, winners = Combiner(combination, labels=LABELS).run(logits)
    with torch.no_grad():
        expected = module.double().combined(torch.from_numpy(logits).double().softmax(dim=2)).softmax(dim=1).numpy()
    np.testing.assert_allclose(answers, expected, atol=CLOSE)
    assert np.array_equal(winners, expected.argmax(axis=1))
    # Reports show the member probabilities that the module reads.
    read = member_probabilities(logits, combination)
    np.testing.assert_allclose(read, torch.from_numpy(logits).double().softmax(dim=2), atol=CLOSE)


def test_a_combination_has_a_member_for_each_weight_and_no_temperature() -> None:
    combination = as_combination(NeuralWeightModule(3, 2))
    assert combination.strategy == "flannel"
    assert combination.member_temperatures == (1.0, 1.0, 1.0)
    assert combination.temperature == 1.0
    assert np.shape(combination.parameters["module_weight"]) == (3, 36)
    assert np.shape(combination.parameters["module_bias"]) == (3,)


@pytest.mark.parametrize("focal", [True, False])
def test_the_module_learns_which_learner_is_right(focal: bool) -> None:
    (p, true), (new, new_truth) = _specialists(600, 0), _specialists(600, 1)
    module = fit_module(p, true, QUICK, seed=1, focal=focal)
    plain = (new.mean(axis=1).argmax(axis=1) == new_truth).mean()
    learnt = (_predictions(module, new) == new_truth).mean()
    assert not module.training
    assert learnt > 0.98
    assert plain < learnt - 0.1


def test_a_seed_gives_one_module_and_no_other_random_state_changes() -> None:
    p, true = _specialists(80, 0)
    plan = replace(QUICK, epochs=2)
    torch.manual_seed(7)
    np.random.seed(7)
    before, before_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]
    first = fit_module(p, true, plan, seed=3, oversample=True)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], before_numpy)  # type: ignore[index]
    torch.rand(5)
    assert _same(first, fit_module(p, true, plan, seed=3, oversample=True))
    assert not _same(first, fit_module(p, true, plan, seed=4, oversample=True))
    dense = [fit_dense(p, true, plan, seed=s, layers=2) for s in (3, 3, 4)]
    assert _same(dense[0], dense[1])
    assert not _same(dense[0], dense[2])


def test_cross_entropy_ignores_gamma_and_alpha() -> None:
    p, true = _specialists(100, 0)
    true = np.where(np.arange(100) < 60, 0, true)  # uneven, so that alpha would matter
    plain = replace(QUICK, epochs=2, gamma=0.0, alpha="none")
    sharp = replace(plain, gamma=10.0, alpha="count")
    expected = fit_module(p, true, plain, seed=1)
    assert _same(expected, fit_module(p, true, sharp, seed=1, focal=False))
    assert not _same(expected, fit_module(p, true, sharp, seed=1))
    dense = [fit_dense(p, true, plan, seed=1, layers=1) for plan in (plain, sharp)]
    assert _same(*dense)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(0, 5))
def test_oversampling_draws_as_many_of_each_label(labels: list[int], seed: int) -> None:
    true = np.array(labels)
    rows = _oversampled(true, np.random.default_rng(seed))
    counts = Counter(true[rows].tolist())
    assert set(counts) == set(labels)
    assert set(counts.values()) == {max(Counter(labels).values())}
    assert set(rows.tolist()) == set(range(len(labels))), "no image is left out"


def test_oversampling_changes_the_weights() -> None:
    p, true = _specialists(100, 0)
    rare = np.flatnonzero((true != 0) | (np.arange(100) % 7 == 0))
    plan = replace(QUICK, epochs=2)
    a, b = (fit_module(p[rare], true[rare], plan, seed=1, focal=False, oversample=o) for o in (False, True))
    assert not _same(a, b)


def test_alpha_by_hand() -> None:
    true = np.array([0] * 6 + [1] * 3 + [2])
    np.testing.assert_allclose(alpha_of(true, 3, "balanced"), [10 / 18, 10 / 9, 10 / 3], rtol=CLOSE)
    np.testing.assert_allclose(alpha_of(true, 3, "count"), [1000 / 6, 1000 / 3, 1000], rtol=CLOSE)
    assert alpha_of(true, 3, "none").tolist() == [1, 1, 1]
    assert alpha_of(true, 4, "balanced")[3] == pytest.approx(10 / 4), "a label without images counts as once"
    assert alpha_of(true, 3, "balanced").dtype == np.float32


@pytest.mark.parametrize(("layers", "parameters"), [(1, 84), (2, 20 * 20 + 20 + 20 * 4 + 4)])
def test_perceptrons_have_the_sizes_of_table_3_and_learn(layers: int, parameters: int) -> None:
    rng = np.random.default_rng(0)
    true = rng.integers(0, LABELS, 300)
    p = _softmax(2 * np.eye(LABELS)[true][:, None] + 0.5 * rng.standard_normal((300, MEMBERS, LABELS)))
    network = fit_dense(p, true, QUICK, seed=1, layers=layers)
    assert _parameters(network) == parameters
    assert not network.training
    with torch.no_grad():
        logits = network(torch.from_numpy(p).float())
    assert logits.shape == (300, LABELS)
    assert (logits.argmax(dim=1).numpy() == true).mean() > 0.98


@pytest.mark.parametrize("weight_decay", [0.0, 1.0])
def test_a_sum_over_the_batch_outweighs_the_decay_and_no_more(weight_decay: float) -> None:
    """Adam takes a step of the same length for any factor of the loss; relative to L2 the factor matters."""
    p, true = _specialists(64, 0)
    plan = replace(QUICK, epochs=1, batch=64, weight_decay=weight_decay)
    mean, summed = (fit_module(p, true, replace(plan, reduction=r), seed=1).dense.weight for r in ("mean", "sum"))
    alike = ((mean - summed).abs() < 1e-4).float().mean().item()
    assert alike > 0.99 if weight_decay == 0 else alike < 0.9


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"alpha": "inverse"}, "alpha balanced, count or none.*'inverse'"),
        ({"reduction": "max"}, "reduction mean or sum.*'max'"),
        ({"epochs": 0}, "needs an epoch.*epochs=0"),
        ({"batch": 0}, "needs an epoch, a batch.*batch=0"),
        ({"learning_rate": 0.0}, "a learning rate above 0"),
        ({"gamma": -1.0}, "gamma and weight decay of 0 or more"),
        ({"weight_decay": -1.0}, "gamma and weight decay of 0 or more"),
    ],
)
def test_an_invalid_plan_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        FitPlan(**changes)
