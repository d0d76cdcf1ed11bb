"""Exact (Clopper-Pearson) interval of a share, for what a number of cases can show; in Python alone, without statsmodels."""

from __future__ import annotations

import math

__all__ = ["exact_interval"]

_LEVEL = 0.95
_STEPS = 50  # of bisection


def exact_interval(hits: int, n: int) -> tuple[float, float]:
    """Return the 95 % interval of `hits` of `n`. Raises ValueError for impossible counts."""
    if not 0 <= hits <= n or n < 1:
        raise ValueError(f"{hits} of {n} is no share")
    tail = (1 - _LEVEL) / 2
    low = 0.0 if hits == 0 else _share(hits - 1, n, 1 - tail)
    high = 1.0 if hits == n else _share(hits, n, tail)
    return low, high


def _share(hits: int, n: int, probability: float) -> float:
    """Return the share of which at most `hits` of `n` have this probability."""
    low, high = 0.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if _at_most(hits, n, middle) > probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _at_most(hits: int, n: int, share: float) -> float:
    """Return the binomial probability of at most `hits` of `n`."""
    a, b, total = math.log(share), math.log1p(-share), math.lgamma(n + 1)
    return math.fsum(
        math.exp(total - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * a + (n - k) * b) for k in range(hits + 1)
    )
