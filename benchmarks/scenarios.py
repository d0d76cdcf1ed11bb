"""Single-stream, multi-stream and offline scenarios, as defined by the rules of MLPerf Inference (Edge).

    cxr-edge build-engine starter && python -m benchmarks.scenarios

The definitions are MLPerf's (github.com/mlcommons/inference_policies, inference_rules.adoc; numbers as in
github.com/mlcommons/inference, loadgen/mlperf.conf); the networks, the images and the load generator are not, so the
results are not MLPerf results. One sample is one image, from decoded pixels (as in the rules) or from the file's bytes;
resize and normalization, which the rules may leave untimed, are included. Default runs are shorter than the rules
require and are marked as such; `--official` runs as long as required.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

from benchmarks.harness.early_stopping import (
    CONFIDENCE,
    discarded_count,
    estimate_ms,
    loadgen_percentile_ms,
    min_queries,
)
from benchmarks.harness.report import publish
from benchmarks.harness.script import Benchmark, exit_status, make_parser
from benchmarks.harness.side_by_side import Cell, Table
from benchmarks.harness.workload import (
    SOURCES,
    Workload,
    add_workload,
    at_least_zero,
    header,
    make_screen,
    report_settings,
)
from cxr_edge.cli.arguments import at_least_one, load_engines
from cxr_edge.screening.screener import Screener

__all__ = ["BENCHMARK", "RULES", "Rule", "ScenarioRun", "main"]

BENCHMARK = Benchmark(
    name="scenarios", position=30, quick_options=("--duration", "0", "--samples", "8", "--min-queries")
)

SEED = 0  # of the random choice of samples; MLPerf publishes a seed for official runs
WARM_UP_SAMPLES = 10
# Samples of an official offline run over what the rate of the warm-up predicts, so that it is long enough (as LoadGen).
MORE_SAMPLES = 1.1

NOTICE = (
    "The scenarios and metrics are those that the MLPerf\N{TRADE MARK SIGN} Inference rules define. These figures are "
    "not MLPerf\N{TRADE MARK SIGN} results: the networks, the images and the load generator are others, MLCommons "
    "Association has not verified them, and they must not be compared with MLPerf\N{TRADE MARK SIGN} results. The name "
    "is a trademark of MLCommons Association."
)

Screen = Callable[[int], object]
Query = Callable[[Sequence[int]], None]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Requirements of one scenario.

    Up to round 1.1, and in the submission checker still where early stopping is not used, single-stream required 1024
    queries.
    """

    name: str
    samples_per_query: int  # 0: all samples of the run in one query
    percentile: float | None  # of the latencies of queries; None: throughput of a single query
    seconds: float = 600  # minimum duration of a run
    samples: int = 1  # minimum samples of a run

    @property
    def queries(self) -> int:
        """Return the minimum number of queries: what the estimate of the percentile needs."""
        return 1 if self.percentile is None else min_queries(self.percentile)

    def describe(self) -> str:
        """Return the minimum length of a run as text."""
        count = f"{self.samples} samples in one query" if self.percentile is None else f"{self.queries} queries"
        return f"{self.seconds:g} s and {count}"


RULES = {
    rule.name: rule
    for rule in (
        Rule(name="single-stream", samples_per_query=1, percentile=0.90),
        Rule(name="multi-stream", samples_per_query=8, percentile=0.99),
        Rule(name="offline", samples_per_query=0, percentile=None, samples=24_576),
    )
}


@dataclass(frozen=True, kw_only=True)
class ScenarioRun:
    """Result of one run of a scenario."""

    rule: Rule
    source: str  # one of SOURCES
    latencies_ms: tuple[float, ...]  # one per query
    samples: int
    seconds: float  # since the first query was issued

    @property
    def long_enough(self) -> bool:
        """Return whether the run is as long as the rules require."""
        rule = self.rule
        return self.seconds >= rule.seconds and len(self.latencies_ms) >= rule.queries and self.samples >= rule.samples

    def cells(self) -> tuple[Cell, ...]:
        """Return the cells of COLUMNS."""
        rule, queries = self.rule, len(self.latencies_ms)
        if rule.percentile is None:
            metric, value, estimate, left_out = "samples/s", self.samples / self.seconds, None, None
        else:
            metric = f"p{100 * rule.percentile:g} of query latency, ms"
            value = loadgen_percentile_ms(self.latencies_ms, rule.percentile)
            estimate = estimate_ms(self.latencies_ms, rule.percentile)
            left_out = discarded_count(queries, rule.percentile) if estimate is not None else None
        length = (
            "as long as the rules require" if self.long_enough else f"indicative: the rules require {rule.describe()}"
        )
        figures = (metric, value, estimate, left_out)
        return (rule.name, self.source, *figures, queries, self.samples, self.seconds, length)


COLUMNS = (
    "scenario", "sample from", "metric", "measured", "early-stopping estimate", "discarded", "queries", "samples",
    "seconds", "run",
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write JSON. Return 3 if the bundle, its engines or an image cannot be used."""
    args = _parser().parse_args(argv)
    return exit_status(BENCHMARK.name, lambda: _measure(args, Workload.from_args(args)))


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(BENCHMARK, __doc__)
    add_workload(parser, BENCHMARK.name)
    parser.add_argument(
        "--from", dest="sources", nargs="+", choices=SOURCES, default=list(SOURCES), help="where a sample starts (both)"
    )
    parser.add_argument("--scenario", nargs="+", choices=RULES, default=list(RULES), help="scenarios to run (all)")
    parser.add_argument(
        "--duration", type=at_least_zero, default=10, metavar="S", help="minimum duration of a stream run (%(default)s)"
    )
    parser.add_argument(
        "--min-queries",
        type=at_least_one,
        default=64,
        metavar="N",
        help="minimum queries of a stream run (%(default)s)",
    )
    parser.add_argument(
        "--samples", type=at_least_one, default=1024, metavar="N", help="samples of the offline query (%(default)s)"
    )
    parser.add_argument(
        "--workers", type=at_least_one, metavar="N",
        help="samples of one query screened concurrently, one thread each (default: --threads; 1: sequentially)",
    )  # fmt: skip
    parser.add_argument(
        "--official", action="store_true", help="run as long as the rules require: half an hour per source"
    )
    return parser


def _measure(args: argparse.Namespace, workload: Workload) -> None:
    workers = args.workers or args.threads
    engines = load_engines(args, workload.bundle, threads=args.threads)
    single_screener = Screener(workload.bundle, engines, threads=args.threads)
    one_thread = load_engines(args, workload.bundle, threads=1) if workers > 1 else engines
    batch_screener = Screener(workload.bundle, one_thread) if workers > 1 else single_screener
    facts = report_settings(workload, single_screener, args.threads)
    concurrency = f"{workers}, one thread each" if workers > 1 else "1, with all threads"
    facts |= {
        "workers on a query of several samples": concurrency,
        "warm-up": f"{WARM_UP_SAMPLES} samples",
        "seed": SEED,
    }
    print(
        header(
            "cxr-edge in MLPerf\N{TRADE MARK SIGN} scenarios: not an MLPerf\N{TRADE MARK SIGN} result", facts, engines
        )
    )
    runs: list[ScenarioRun] = []
    for source in args.sources:
        for rule in (RULES[name] for name in args.scenario):
            print(f"{rule.name} from {source} ...", file=sys.stderr)
            single = rule.samples_per_query == 1
            screen = make_screen(single_screener if single else batch_screener, workload, source)
            with _query(screen, 1 if single else workers) as query:
                runs.append(_run(rule, source, query, len(workload.images), args))
    _publish(args, facts, runs)


def _publish(args: argparse.Namespace, facts: dict[str, str | int | float], runs: Sequence[ScenarioRun]) -> None:
    publish(
        name=BENCHMARK.name,
        question="How quick is it in the scenarios of the MLPerf\N{TRADE MARK SIGN} Inference rules for edge systems?",
        interval="; ".join(f"a sample from {name}: {SOURCES[name]}" for name in args.sources)
        + "; a query's latency: from its issue to the result of its last sample",
        settings=facts,
        tables=[Table(title="Scenarios", columns=COLUMNS, rows=tuple(run.cells() for run in runs))],
        targets=(),
        notes=(
            NOTICE,
            "single-stream: one sample per query, the next query is issued when the last is complete; multi-stream: the "
            "same with 8 samples per query; offline: all samples in one query. Samples are drawn at random, with "
            "replacement, from the images.",
            f"`early-stopping estimate`: as defined by the rules, {CONFIDENCE:.0%} confidence, d = 0: the highest "
            f"latency after discarding as many as `discarded`. It needs {min_queries(0.90)} queries for p90 and "
            f"{min_queries(0.99)} for p99, else `-`.",
        ),
        out=args.out,
    )  # fmt: skip


@contextmanager
def _query(screen: Screen, workers: int) -> Iterator[Query]:
    """Yield a function that screens all samples of a query, `workers` of them concurrently."""
    if workers == 1:
        yield lambda samples: _sequential(screen, samples)
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="query") as pool:
        yield lambda samples: _exhaust(pool.map(screen, samples))


def _sequential(screen: Screen, samples: Sequence[int]) -> None:
    for sample in samples:
        screen(sample)


def _exhaust(results: Iterator[object]) -> None:
    for _ in results:
        pass


def _run(rule: Rule, source: str, query: Query, images: int, args: argparse.Namespace) -> ScenarioRun:
    choice = random.Random(SEED)  # a Mersenne Twister, as the rules require
    begin = perf_counter()
    query(choice.choices(range(images), k=WARM_UP_SAMPLES))
    per_second = WARM_UP_SAMPLES / (perf_counter() - begin)
    if rule.percentile is None:
        return _offline(rule, source, query, choice, images, _offline_samples(rule, per_second, args))
    seconds = rule.seconds if args.official else args.duration
    queries = rule.queries if args.official else args.min_queries
    return _stream(rule, source, query, choice, images, seconds=seconds, queries=queries)


def _offline_samples(rule: Rule, per_second: float, args: argparse.Namespace) -> int:
    return max(rule.samples, int(MORE_SAMPLES * per_second * rule.seconds)) if args.official else int(args.samples)


def _stream(
    rule: Rule, source: str, query: Query, choice: random.Random, images: int, *, seconds: float, queries: int
) -> ScenarioRun:
    latencies: list[float] = []
    begin = perf_counter()
    while len(latencies) < queries or perf_counter() - begin < seconds:
        samples = choice.choices(range(images), k=rule.samples_per_query)
        issued = perf_counter()
        query(samples)
        latencies.append(1e3 * (perf_counter() - issued))
    duration_s = perf_counter() - begin
    count = len(latencies) * rule.samples_per_query
    return ScenarioRun(rule=rule, source=source, latencies_ms=tuple(latencies), samples=count, seconds=duration_s)


def _offline(rule: Rule, source: str, query: Query, choice: random.Random, images: int, samples: int) -> ScenarioRun:
    chosen = choice.choices(range(images), k=samples)
    issued = perf_counter()
    query(chosen)
    duration_s = perf_counter() - issued
    return ScenarioRun(rule=rule, source=source, latencies_ms=(1e3 * duration_s,), samples=samples, seconds=duration_s)


if __name__ == "__main__":
    sys.exit(main())
