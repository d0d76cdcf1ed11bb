"""Search of a weighted average's weights: each member's probability of what is true in, the weights of least log loss out."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt

from training.evaluation.metrics import log_loss

__all__ = ["search_weights"]

Floats = npt.NDArray[np.float64]

_WEIGHT_STEPS = 20  # weights are multiples of a twentieth: finer ones fit noise
_EM_ROUNDS = 2000


def search_weights(p: Floats) -> list[float]:
    """Return the weights, multiples of 1 / _WEIGHT_STEPS that sum to 1, with the least log loss.

    The loss is convex in the weights, so the search starts at its minimum over all real weights, rounded, and moves one
    or two steps of weight between members until no move lowers it. For three members this is the minimum of the full grid
    (tested); the number of moves grows with the fourth power of the members, the grid exponentially.

    p: (N, members), each member's probability of what is true.
    """

    def loss(steps: npt.NDArray[np.int64]) -> float:
        return float(log_loss((p @ (steps / _WEIGHT_STEPS))[:, None], np.zeros(len(p), dtype=np.int64)).mean())

    best, moves = _rounded(_optimal_weights(p)), _weight_moves(p.shape[1])
    while True:
        candidates = [best, *(c for c in best + moves if (c >= 0).all())]
        lowest = min(candidates, key=loss)
        if lowest is best:
            return [round(float(w), 4) for w in best / _WEIGHT_STEPS]
        best = lowest


def _optimal_weights(p: Floats) -> Floats:
    """Return the weights on the simplex with the least log loss, by expectation maximisation of a mixture's shares."""
    weights = np.full(p.shape[1], 1 / p.shape[1])
    for _ in range(_EM_ROUNDS):
        previous = weights
        weights = weights * (p / np.maximum(p @ weights, 1e-12)[:, None]).mean(axis=0)
        weights /= weights.sum()
        if np.abs(weights - previous).max() < 1e-6:
            break
    return weights


def _rounded(weights: Floats) -> npt.NDArray[np.int64]:
    """Return the weights in whole steps that sum to _WEIGHT_STEPS: the largest remainders are rounded up."""
    steps = np.floor(weights * _WEIGHT_STEPS).astype(np.int64)
    steps[np.argsort(steps - weights * _WEIGHT_STEPS)[: _WEIGHT_STEPS - steps.sum()]] += 1
    return steps


def _weight_moves(members: int) -> npt.NDArray[np.int64]:
    """Return all moves (M, members) of one step of weight from a member to another, and all pairs of such moves."""
    identity = np.eye(members, dtype=np.int64)
    single = [identity[a] - identity[b] for a, b in itertools.permutations(range(members), 2)]
    pairs = [a + b for a, b in itertools.combinations_with_replacement(single, 2)]
    return np.unique(np.reshape([*single, *pairs], (-1, members)), axis=0)
