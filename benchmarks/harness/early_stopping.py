"""Early-stopping estimate of a latency percentile, as defined by the rules of MLPerf Inference.

Takes the latencies of a run; returns a latency that the required share of all queries meets with 99 % confidence, or
None if the run was too short. It is above the measured percentile, and the fewer the queries, the further above. Sources:
the appendix `Early Stopping Criterion` of github.com/mlcommons/inference_policies, inference_rules.adoc, and LoadGen's
loadgen/early_stopping.cc and results.cc in github.com/mlcommons/inference.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, lgamma, log

__all__ = [
    "CONFIDENCE",
    "discarded_count",
    "estimate_ms",
    "loadgen_percentile_ms",
    "min_queries",
    "overlatency_allowed",
]

CONFIDENCE = 0.99  # the rules' c; their tolerance d is 0


def loadgen_percentile_ms(latencies_ms: Sequence[float], percentile: float) -> float:
    """Return the measured percentile by LoadGen's definition: element n * percentile of the sorted latencies.

    Not interpolated between two elements.

    percentile: at least 0 and below 1.
    """
    return sorted(latencies_ms)[int(len(latencies_ms) * percentile)]


def estimate_ms(latencies_ms: Sequence[float], percentile: float) -> float | None:
    """Return the highest latency after discarding the highest t - 1; None for fewer than `min_queries` queries."""
    allowed = overlatency_allowed(len(latencies_ms), percentile)
    return sorted(latencies_ms)[-allowed] if allowed else None


def discarded_count(queries: int, percentile: float) -> int:
    """Return the number of highest latencies that the estimate discards."""
    return max(0, overlatency_allowed(queries, percentile) - 1)


def min_queries(percentile: float) -> int:
    """Return the smallest number of queries that allows an estimate: 64 for the 90th percentile, 662 for the 99th."""
    queries = 1
    while not overlatency_allowed(queries, percentile):
        queries += 1
    return queries


def overlatency_allowed(queries: int, percentile: float) -> int:
    """Return the largest t, 0 if none, for which t or fewer slow queries have a probability of at most 1 - c.

    The probability is that of a system where the share of fast queries is exactly `percentile`.

    The rules require the smallest number h of fast queries with I(p - d; h, t + 1) <= 1 - c, and at least h + t queries.
    That I is the probability of t or fewer slow queries among h + t and decreases with h, so for a given number of
    `queries` one evaluation per t is enough.
    """
    if not 0 < percentile < 1:
        raise ValueError(f"a percentile here is a share above 0 and below 1, such as 0.99, got {percentile}")
    slow, probability = 0, _probability_of(0, queries, 1 - percentile)
    while probability <= 1 - CONFIDENCE:
        slow += 1
        probability += _probability_of(slow, queries, 1 - percentile)
    return max(0, slow - 1)


def _probability_of(slow: int, queries: int, share: float) -> float:
    """Return the binomial probability, computed in logarithms because share ** queries underflows a float."""
    log_combinations = lgamma(queries + 1) - lgamma(slow + 1) - lgamma(queries - slow + 1)
    return exp(log_combinations + slow * log(share) + (queries - slow) * log(1 - share))
