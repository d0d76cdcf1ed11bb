"""Exact binomial tails and (Clopper-Pearson) bounds of a share: counts in, for what a number of cases can show.

In Python alone, without SciPy or statsmodels, since `build-engine`, `check-data` and `calibrate` run without training's packages.
"""

from __future__ import annotations

import math
from functools import cache

__all__ = ["at_most", "exact_interval", "least_cases", "most_wrong", "upper_bound"]

_LEVEL = 0.95
_STEPS = 50  # of bisection
_TERMS = 10_000  # of the continued fraction; it needs about the square root of n
_SMALL = 1e-300  # in place of zero denominators
_PRECISION = 1e-12


def exact_interval(hits: int, n: int) -> tuple[float, float]:
    """Return the 95 % interval of `hits` of `n`. Raises ValueError for impossible counts."""
    _check(hits, n)
    tail = (1 - _LEVEL) / 2
    low = 0.0 if hits == 0 else _share(hits - 1, n, 1 - tail)
    high = 1.0 if hits == n else _share(hits, n, tail)
    return low, high


def at_most(hits: int, n: int, share: float) -> float:
    """Return the probability of at most `hits` of `n` when each hits with the probability `share`."""
    if hits >= n:
        return 1.0
    if hits < 0:
        return 0.0
    if not 0 < share < 1:
        return 1.0 if share <= 0 else 0.0
    return _incomplete_beta(n - hits, hits + 1, 1 - share)


def upper_bound(hits: int, n: int, confidence: float) -> float:
    """Return the share that is not exceeded with this confidence, one-sided. Raises ValueError for impossible counts."""
    _check(hits, n)
    return 1.0 if hits == n else _share(hits, n, 1 - confidence)


@cache
def most_wrong(n: int, max_wrong: float, confidence: float) -> int | None:
    """Return the most wrong ones of `n` with which a share of at most `max_wrong` is shown with this confidence.

    None if `n` is too small to show it even without a wrong one.
    """
    low, high = -1, n  # shown with `low` wrong ones, not with `high`
    while high - low > 1:
        middle = (low + high) // 2
        if at_most(middle, n, max_wrong) <= 1 - confidence + _PRECISION:
            low = middle
        else:
            high = middle
    return low if low >= 0 else None


def least_cases(max_wrong: float, confidence: float, wrong: int = 0) -> int:
    """Return the fewest cases that show `max_wrong` with this confidence when `wrong` of them are wrong."""
    n = wrong + 1
    while at_most(wrong, n, max_wrong) > 1 - confidence + _PRECISION:
        n += 1
    return n


def _check(hits: int, n: int) -> None:
    if not 0 <= hits <= n or n < 1:
        raise ValueError(f"{hits} of {n} is no share")


def _share(hits: int, n: int, probability: float) -> float:
    """Return the share of which at most `hits` of `n` have this probability."""
    low, high = 0.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if _incomplete_beta(n - hits, hits + 1, 1 - middle) > probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """Return the regularized incomplete beta function; that of (n - k, k + 1, 1 - p) is the probability of at most k of n."""
    if x > (a + 1) / (a + b + 2):  # where the continued fraction of the other side converges fast
        return 1 - _incomplete_beta(b, a, 1 - x)
    factor = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(factor) * _continued_fraction(a, b, x) / a


def _continued_fraction(a: float, b: float, x: float) -> float:
    """Return the continued fraction of the incomplete beta function (DLMF 8.17.22) by Lentz's method."""
    c, d = 1.0, 1 / _not_zero(1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, _TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 / _not_zero(1 + term * d)
            c = _not_zero(1 + term / c)
            value *= c * d
        if abs(c * d - 1) < _PRECISION:
            break
    return value


def _not_zero(value: float) -> float:
    return value if abs(value) > _SMALL else _SMALL
