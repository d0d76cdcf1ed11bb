"""Exact interval of a share against its definition: at each end, the tail beyond the count has a probability of 2.5 %."""

from __future__ import annotations

import math

import pytest

from cxr_edge.ops.binomial import exact_interval


def _at_most(hits: int, n: int, share: float) -> float:
    """Return the probability of at most `hits` of `n`, summed term by term."""
    logs = [
        math.lgamma(n + 1)
        - math.lgamma(k + 1)
        - math.lgamma(n - k + 1)
        + k * math.log(share)
        + (n - k) * math.log1p(-share)
        for k in range(hits + 1)
    ]
    return math.fsum(map(math.exp, logs))


@pytest.mark.parametrize(("hits", "n"), [(0, 5), (5, 5), (1, 1), (9, 10), (36, 40), (450, 500), (30_000, 33_334)])
def test_the_interval_is_exact(hits: int, n: int) -> None:
    low, high = exact_interval(hits, n)
    assert (low == 0) == (hits == 0)
    assert (high == 1) == (hits == n)
    if hits:
        assert 1 - _at_most(hits - 1, n, low) == pytest.approx(0.025, rel=1e-4)
    if hits < n:
        assert _at_most(hits, n, high) == pytest.approx(0.025, rel=1e-4)


@pytest.mark.parametrize(("hits", "n"), [(6, 5), (-1, 5), (0, 0)])
def test_impossible_counts_are_refused(hits: int, n: int) -> None:
    with pytest.raises(ValueError, match="is no share"):
        exact_interval(hits, n)
