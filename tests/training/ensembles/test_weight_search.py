"""Weights of the weighted average: the full grid's minimum for up to three members, and a result in seconds for nine."""

from __future__ import annotations

import itertools
import time

import numpy as np
import numpy.typing as npt
import pytest

from cxr_edge.ops.combine import Combiner
from cxr_edge.specs.combination import Combination
from training.ensembles import fit
from training.evaluation.metrics import log_loss

Logits = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


def _problem(seed: int, members: int, images: int) -> tuple[Logits, Labels]:
    """Members of random accuracy and temperature with partly common errors, in three degrees."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, 4, images)
    common = rng.normal(0, 3.0, (images, 4)) * (seed % 3)
    strengths, noise = rng.uniform(0.6, 4.5, members), rng.uniform(0.1, 6.0, members)
    found = [
        s * np.eye(4)[true] + common + rng.normal(0, n, (images, 4)) for s, n in zip(strengths, noise, strict=True)
    ]
    return np.stack(found, axis=1).astype(np.float32), true


def _loss(weights: list[float], logits: Logits, true: Labels) -> float:
    """Return the log loss of the deployed combination with these weights."""
    combination = Combination(
        strategy="weighted-average",
        member_temperatures=(1.0,) * logits.shape[1],
        temperature=1.0,
        parameters={"weights": weights},
    )
    return float(log_loss(Combiner(combination, labels=4).run(logits)[0].astype(np.float64), true).mean())


def _by_grid(logits: Logits, true: Labels) -> list[float]:
    """Return the best of all multiples of a twentieth."""
    cuts = itertools.combinations_with_replacement(range(21), logits.shape[1] - 1)
    grid = [(np.diff([0, *cut, 20]) / 20).tolist() for cut in cuts]
    return min(grid, key=lambda weights: _loss(weights, logits, true))


def _searched(logits: Logits, true: Labels) -> list[float]:
    fitted = fit.fit("weighted-average", logits, true, seed=0, calibrate=False)
    return list(fitted.parameters["weights"])


@pytest.mark.parametrize("members", [1, 2, 3])
def test_the_search_finds_the_minimum_of_the_grid(members: int) -> None:
    for seed in range(40):
        logits, true = _problem(seed, members, images=30 + 5 * seed)
        assert _searched(logits, true) == pytest.approx(_by_grid(logits, true)), f"problem {seed}"


def test_nine_members_take_seconds_and_no_exchange_of_weight_helps() -> None:
    logits, true = _problem(4, 9, images=500)
    begin = time.process_time()
    weights = _searched(logits, true)
    assert time.process_time() - begin < 5
    assert sum(weights) == pytest.approx(1.0)
    least = _loss(weights, logits, true)
    for a, b in itertools.permutations(range(9), 2):
        other = np.array(weights) + 0.05 * (np.eye(9)[a] - np.eye(9)[b])
        if other.min() >= -1e-9:
            assert _loss(other.clip(0).tolist(), logits, true) >= least - 1e-7


def test_the_accurate_one_of_nine_members_gets_the_weight() -> None:
    logits, true = _problem(0, 9, images=200)
    logits[:, 5] = 6 * np.eye(4)[true]
    assert _searched(logits, true)[5] == 1.0
