"""The early-stopping estimate of a latency percentile, as the rules of MLPerf Inference define it.

In: the latencies of a run; out: a latency that the wanted share of all queries meets with 99 % confidence, or none if
the run was too short to say. It lies above the measured percentile, the more so the fewer queries there were. Sources:
the appendix `Early Stopping Criterion` of github.com/mlcommons/inference_policies, inference_rules.adoc, and LoadGen's
loadgen/early_stopping.cc and results.cc in github.com/mlcommons/inference.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, lgamma, log

__all__ = ["CONFIDENCE", "discarded", "estimate_ms", "least_queries", "loadgen_percentile_ms", "overlatency_allowed"]

CONFIDENCE = 0.99  # the rules' c; their tolerance d is 0


def loadgen_percentile_ms(latencies_ms: Sequence[float], percentile: float) -> float:
    """The measured percentile as LoadGen takes it: element n * percentile of the sorted latencies, no mean of two.

    percentile: from 0 to below 1.
    """
    return sorted(latencies_ms)[int(len(latencies_ms) * percentile)]


def estimate_ms(latencies_ms: Sequence[float], percentile: float) -> float | None:
    """The highest latency that is left when the highest t - 1 are discarded; None for fewer than `least_queries`."""
    allowed = overlatency_allowed(len(latencies_ms), percentile)
    return sorted(latencies_ms)[-allowed] if allowed else None


def discarded(queries: int, percentile: float) -> int:
    """How many of the highest latencies the estimate leaves out."""
    return max(0, overlatency_allowed(queries, percentile) - 1)


def least_queries(percentile: float) -> int:
    """The fewest queries that allow an estimate: 64 for the 90th percentile, 662 for the 99th."""
    queries = 1
    while not overlatency_allowed(queries, percentile):
        queries += 1
    return queries


def overlatency_allowed(queries: int, percentile: float) -> int:
    """The largest t, 0 if none: t or fewer queries too slow have a chance of at most 1 - c where the share of queries
    that are quick enough is only just `percentile`.

    The rules ask for the least h of quick queries with I(p - d; h, t + 1) <= 1 - c, and for h + t queries at least.
    That I is the chance of t or fewer slow ones among h + t and falls with h: among all `queries` it is one question.
    """
    if not 0 < percentile < 1:
        raise ValueError(f"a percentile here is a share above 0 and below 1, such as 0.99, got {percentile}")
    slow, chance = 0, _chance_of(0, queries, 1 - percentile)
    while chance <= 1 - CONFIDENCE:
        slow += 1
        chance += _chance_of(slow, queries, 1 - percentile)
    return max(0, slow - 1)


def _chance_of(slow: int, queries: int, share: float) -> float:
    """Binomial, by logarithms, since share ** queries is below what a float can hold."""
    ways = lgamma(queries + 1) - lgamma(slow + 1) - lgamma(queries - slow + 1)
    return exp(ways + slow * log(share) + (queries - slow) * log(1 - share))
