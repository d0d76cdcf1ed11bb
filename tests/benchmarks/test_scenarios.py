"""Scenarios follow the definitions of the rules; a run shorter than the rules require is marked as such."""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from fractions import Fraction
from math import comb
from pathlib import Path

import pytest

from benchmarks import scenarios
from benchmarks.harness.early_stopping import (
    discarded_count,
    estimate_ms,
    loadgen_percentile_ms,
    min_queries,
    overlatency_allowed,
)
from benchmarks.scenarios import RULES, ScenarioRun
from tests.benchmarks.scripts import report_of

SMALL = ("--image-px", "96", "--duration", "0", "--samples", "4")


@pytest.mark.parametrize(("percentile", "queries"), [(0.90, 64), (0.99, 662)])
def test_an_estimate_needs_as_many_queries_as_in_loadgen(percentile: float, queries: int) -> None:
    # loadgen/mlperf.conf: 662 for multi-stream; LoadGen prints 64 for single-stream (mlcommons/inference, issue 1630).
    assert min_queries(percentile) == queries
    assert estimate_ms([1.0] * (queries - 1), percentile) is None
    assert estimate_ms([*[1.0] * (queries - 1), 9.0], percentile) == 9.0, "with the least, nothing is discarded"


def test_a_run_of_100_discards_as_many_as_loadgen_printed() -> None:
    assert discarded_count(100, 0.90) == 2  # `Would discard 2 highest latency queries`, mlcommons/inference, issue 1630
    assert estimate_ms(list(range(100)), 0.90) == 97


@pytest.mark.parametrize("queries", [64, 65, 100, 333, 1000])
@pytest.mark.parametrize("percent", [90, 99])
def test_allowed_slow_queries_follow_the_binomial_distribution(queries: int, percent: int) -> None:
    share = Fraction(100 - percent, 100)

    def chance(most: int) -> Fraction:
        terms = (comb(queries, k) * share**k * (1 - share) ** (queries - k) for k in range(most + 1))
        return sum(terms, Fraction(0))

    allowed = overlatency_allowed(queries, percent / 100)
    assert allowed == 0 or chance(allowed) <= Fraction(1, 100)
    assert chance(allowed + 1) > Fraction(1, 100)


def test_the_estimate_is_never_below_the_measured_percentile() -> None:
    rng = random.Random(3)
    for queries in (64, 100, 1000, 5000):
        latencies = [rng.lognormvariate(2, 0.3) for _ in range(queries)]
        estimate = estimate_ms(latencies, 0.90)
        assert estimate is not None
        assert estimate >= loadgen_percentile_ms(latencies, 0.90)


def test_the_measured_percentile_is_an_element_as_in_loadgen() -> None:
    assert loadgen_percentile_ms([5.0, 1.0, 2.0, 4.0, 3.0], 0.90) == 5.0
    assert loadgen_percentile_ms(list(range(100)), 0.99) == 99


@pytest.mark.parametrize("percentile", [0.0, 1.0, 90.0])
def test_a_percentile_is_a_share(percentile: float) -> None:
    with pytest.raises(ValueError, match=r"a share above 0 and below 1, such as 0\.99, got"):
        overlatency_allowed(100, percentile)


def test_the_rules_are_those_for_edge_systems() -> None:
    assert {name: rule.describe() for name, rule in RULES.items()} == {
        "single-stream": "600 s and 64 queries",
        "multi-stream": "600 s and 662 queries",
        "offline": "600 s and 24576 samples in one query",
    }
    assert [rule.samples_per_query for rule in RULES.values()] == [1, 8, 0]
    assert [rule.percentile for rule in RULES.values()] == [0.90, 0.99, None]


@pytest.mark.parametrize(("seconds", "queries", "long_enough"), [(600, 64, True), (599, 64, False), (600, 63, False)])
def test_a_short_run_is_indicative(seconds: float, queries: int, long_enough: bool) -> None:
    run = ScenarioRun(
        rule=RULES["single-stream"], source="pixels", latencies_ms=(1.0,) * queries, samples=queries, seconds=seconds
    )
    assert run.long_enough is long_enough
    expected = "as long as the rules require" if long_enough else "indicative: the rules require 600 s and 64 queries"
    assert run.cells()[-1] == expected
    assert len(run.cells()) == len(scenarios.COLUMNS)


def test_offline_is_throughput_of_one_query() -> None:
    run = ScenarioRun(rule=RULES["offline"], source="bytes", latencies_ms=(500.0,), samples=40, seconds=0.5)
    cells = dict(zip(scenarios.COLUMNS, run.cells(), strict=True))
    assert (cells["metric"], cells["measured"], cells["early-stopping estimate"]) == ("samples/s", 80.0, None)


def test_an_official_offline_query_lasts_as_long_as_the_rules_require() -> None:
    official, short = argparse.Namespace(official=True), argparse.Namespace(official=False, samples=7)
    rule = RULES["offline"]
    assert scenarios._offline_samples(rule, 1.0, official) == 24_576
    assert scenarios._offline_samples(rule, 100.0, official) == 66_000  # a tenth more than 600 s at this rate
    assert scenarios._offline_samples(rule, 100.0, short) == 7


def test_a_multi_stream_query_has_eight_samples_and_the_next_waits_for_it() -> None:
    queries: list[list[int]] = []

    def query(samples: Sequence[int]) -> None:
        queries.append(list(samples))

    rule = RULES["multi-stream"]
    run = scenarios._stream(rule, "pixels", query, random.Random(0), 3, seconds=0, queries=5)
    assert [len(q) for q in queries] == [8] * 5
    assert {sample for q in queries for sample in q} == {0, 1, 2}
    assert (run.samples, len(run.latencies_ms)) == (40, 5)


@pytest.mark.parametrize("workers", [1, 3])
def test_a_query_ends_when_all_its_samples_are_complete(workers: int) -> None:
    done: list[int] = []
    with scenarios._query(done.append, workers) as query:
        query([4, 5, 6, 7])
        assert sorted(done) == [4, 5, 6, 7]


def test_an_error_of_a_sample_is_raised() -> None:
    def screen(sample: int) -> None:
        raise RuntimeError(f"sample {sample}")

    with scenarios._query(screen, 2) as query, pytest.raises(RuntimeError, match="sample 4"):
        query([4, 5])


def test_scenarios_run(built_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--bundle", str(built_bundle), "--threads", "2", "--min-queries", "64", *SMALL)
    report = report_of(scenarios, tmp_path, *options)
    (table,) = report["tables"]
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]
    assert [(r["sample from"], r["scenario"], r["queries"], r["samples"]) for r in rows] == [
        (source, *run)
        for source in ("pixels", "bytes")
        for run in (("single-stream", 64, 64), ("multi-stream", 64, 512), ("offline", 1, 4))
    ]
    single, multi, offline = rows[:3]
    assert single["early-stopping estimate"] >= single["measured"] > 0
    assert multi["early-stopping estimate"] is None, "64 queries say nothing of a 99th percentile"
    assert offline["measured"] > 0
    assert all(r["run"].startswith("indicative") for r in rows)
    assert report["notes"][0] == scenarios.NOTICE
    assert "not MLPerf\N{TRADE MARK SIGN} results" in capsys.readouterr().out


def test_one_scenario_from_one_source_with_one_worker(built_bundle: Path, tmp_path: Path) -> None:
    options = ("--scenario", "offline", "--from", "bytes", "--workers", "1", "--threads", "1", *SMALL)
    report = report_of(scenarios, tmp_path, "--bundle", str(built_bundle), *options)
    assert [row[:2] for row in report["tables"][0]["rows"]] == [["offline", "bytes"]]
