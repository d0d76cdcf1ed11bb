"""Latency of engines: the same input through all of them in turn, many times.

Loaded engines and one input come in, the p50 and p99 of each come out. The engines take turns within every round, so that
a changing clock frequency or another busy process slows all alike and the comparison stays fair.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr_edge.backends.base import Engine

__all__ = ["Timing", "time_engines"]

_WARM_UP_ROUNDS = 3
_MIN_ROUNDS = 5


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Latency of one inference of one image, wall clock, input and output in host memory."""

    p50_ms: float
    p99_ms: float
    runs: int  # number of timed runs


def time_engines(
    engines: Mapping[str, Engine],
    inputs: Mapping[str, npt.NDArray[Any]],
    *,
    rounds: int = 50,
    budget_s: float = 5.0,
) -> dict[str, Timing]:
    """Time every engine on `inputs`. Stops after `rounds`, or after 5 rounds once `budget_s` seconds are spent."""
    for _ in range(_WARM_UP_ROUNDS):
        for engine in engines.values():
            engine.run(inputs)
    latencies_ms: dict[str, list[float]] = {name: [] for name in engines}
    end = time.perf_counter() + budget_s
    for completed in range(rounds):
        if completed >= _MIN_ROUNDS and time.perf_counter() > end:
            break
        for name, engine in engines.items():
            start = time.perf_counter()
            engine.run(inputs)
            latencies_ms[name].append((time.perf_counter() - start) * 1e3)
    return {name: _summary(values) for name, values in latencies_ms.items()}


def _summary(values: list[float]) -> Timing:
    p50, p99 = np.percentile(values, [50, 99])
    return Timing(p50_ms=float(p50), p99_ms=float(p99), runs=len(values))
