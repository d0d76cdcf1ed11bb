"""Temperature of an ensemble on cases with known labels: calibrated probabilities in, the factor of their logarithms out."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

__all__ = ["LEAST_CASES", "best_sharpness", "sharpened"]

LEAST_CASES = 400  # patients from which on a quarter of them is set apart for the temperature

_LOG_BOUNDS = (-2.0, 2.0)
_GOLDEN = (math.sqrt(5) - 1) / 2
_STEPS = 40
_LEAST = 1e-12  # of a probability, in logarithms

Floats = npt.NDArray[np.float64]


def sharpened(probabilities: npt.NDArray[np.floating], sharpness: float) -> Floats:
    """Return the probabilities (N, K) that the combination gives with its temperature divided by `sharpness`."""
    logs = sharpness * np.log(np.maximum(probabilities.astype(np.float64), _LEAST))
    powers = np.exp(logs - logs.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def best_sharpness(probabilities: npt.NDArray[np.floating], true: npt.NDArray[np.int64]) -> float:
    """Return the sharpness of least log loss, by golden-section search. probabilities: (N, K). true: (N,) label indices."""

    def loss(log_sharpness: float) -> float:
        chosen = sharpened(probabilities, math.exp(log_sharpness))[np.arange(len(true)), true]
        return float(-np.log(np.maximum(chosen, _LEAST)).mean())

    low, high = _LOG_BOUNDS
    for _ in range(_STEPS):
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        if loss(left) < loss(right):
            high = right
        else:
            low = left
    return math.exp((low + high) / 2)
