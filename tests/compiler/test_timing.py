"""Timing: engines in turn, plausible figures, a time limit."""

from __future__ import annotations

import time

import numpy as np

from cxr_edge.compiler.timing import Timing, time_engines


class FakeEngine:
    inputs = outputs = ()

    def __init__(self, name, log, seconds=0.0):
        self.name, self.log, self.seconds = name, log, seconds

    def run(self, inputs):
        self.log.append(self.name)
        time.sleep(self.seconds)
        return {}


def test_engines_take_turns():
    log = []
    timings = time_engines({n: FakeEngine(n, log) for n in "abc"}, {}, rounds=10)
    assert log == list("abc") * 13  # 3 rounds to warm up
    assert {t.runs for t in timings.values()} == {10}


def test_a_slow_engine_has_a_higher_latency():
    log = []
    engines = {"slow": FakeEngine("slow", log, 0.004), "fast": FakeEngine("fast", log, 0.0)}
    timings = time_engines(engines, {"image": np.zeros(1)}, rounds=8)
    assert timings["slow"].p50_ms >= 4.0 > timings["fast"].p50_ms
    assert all(t.p50_ms <= t.p99_ms for t in timings.values())


def test_a_spent_budget_still_gives_five_rounds():
    timings = time_engines({"a": FakeEngine("a", [])}, {}, rounds=1000, budget_s=0.0)
    assert timings["a"] == Timing(p50_ms=timings["a"].p50_ms, p99_ms=timings["a"].p99_ms, runs=5)
