"""Single-stream, multi-stream and offline, as the rules of MLPerf Inference (Edge) define these scenarios.

    cxr-edge build-engine starter && python -m benchmarks.scenarios

The definitions are MLPerf's (github.com/mlcommons/inference_policies, inference_rules.adoc; numbers as in
github.com/mlcommons/inference, loadgen/mlperf.conf); the networks, the images and this clock are not, so what comes
out is no MLPerf result. One sample is one image, from decoded pixels (as the rules have it) or from the file's bytes;
resize and normalisation, which the rules may leave untimed, are inside. Preset runs are shorter than the rules ask for
and say so; `--official` runs as long as they ask.
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

from benchmarks.harness.early_stopping import CONFIDENCE, discarded, estimate_ms, least_queries, loadgen_percentile_ms
from benchmarks.harness.report import publish
from benchmarks.harness.side_by_side import Cell, Table
from benchmarks.harness.workload import SOURCES, Workload, add_workload, at_least_zero, head, screening, settings
from cxr_edge.cli.arguments import at_least_one, load_engines
from cxr_edge.errors import CxrEdgeError
from cxr_edge.screening.screener import Screener

__all__ = ["RULES", "Outcome", "Rule", "main"]

SEED = 0  # of the choice of samples; official runs are given one
WARM_UP_SAMPLES = 10
MORE_SAMPLES = (
    1.1  # than the rate of the warm-up predicts, so that an official offline run is long enough, as in LoadGen
)

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
    """What the rules ask of a scenario. percentile: of the latencies of queries; None for throughput, one single query.

    seconds, samples: of a run at least; queries: what the estimate of the percentile needs. Up to round 1.1, and in the
    submission checker still where early stopping is not used, single-stream had to have 1024 queries.
    """

    name: str
    samples_per_query: int
    percentile: float | None
    seconds: float = 600
    samples: int = 1

    @property
    def queries(self) -> int:
        return 1 if self.percentile is None else least_queries(self.percentile)

    def describe(self) -> str:
        """What a run must last."""
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
class Outcome:
    """One run of a scenario. source: what a sample is. latencies_ms: one a query. seconds: since the first's issue."""

    rule: Rule
    source: str
    latencies_ms: tuple[float, ...]
    samples: int
    seconds: float

    @property
    def long_enough(self) -> bool:
        """As long as the rules ask for."""
        rule = self.rule
        return self.seconds >= rule.seconds and len(self.latencies_ms) >= rule.queries and self.samples >= rule.samples

    def cells(self) -> tuple[Cell, ...]:
        """The cells under COLUMNS."""
        rule, queries = self.rule, len(self.latencies_ms)
        if rule.percentile is None:
            metric, value, estimate, left_out = "samples/s", self.samples / self.seconds, None, None
        else:
            metric = f"p{100 * rule.percentile:g} of query latency, ms"
            value = loadgen_percentile_ms(self.latencies_ms, rule.percentile)
            estimate = estimate_ms(self.latencies_ms, rule.percentile)
            left_out = discarded(queries, rule.percentile) if estimate is not None else None
        verdict = "as long as the rules ask" if self.long_enough else f"indicative: the rules ask {rule.describe()}"
        found = (metric, value, estimate, left_out)
        return (rule.name, self.source, *found, queries, self.samples, self.seconds, verdict)


COLUMNS = (
    "scenario", "sample from", "metric", "measured", "early-stopping estimate", "discarded", "queries", "samples",
    "seconds", "run",
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write JSON; 3 if the bundle, its engines or an image cannot be used."""
    args = _parser().parse_args(argv)
    try:
        _measure(args, Workload.of(args))
    except CxrEdgeError as error:
        print(f"scenarios: {error}", file=sys.stderr)
        return 3
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scenarios", description=(__doc__ or "").split("\n")[0])
    add_workload(parser, "scenarios")
    parser.add_argument(
        "--from", dest="sources", nargs="+", choices=SOURCES, default=list(SOURCES), help="what a sample is (both)"
    )
    parser.add_argument("--scenario", nargs="+", choices=RULES, default=list(RULES), help="not all of them")
    parser.add_argument(
        "--duration", type=at_least_zero, default=10, metavar="S", help="of a run with queries at least (%(default)s)"
    )
    parser.add_argument(
        "--min-queries", type=at_least_one, default=64, metavar="N", help="of such a run at least (%(default)s)"
    )
    parser.add_argument(
        "--samples", type=at_least_one, default=1024, metavar="N", help="of the offline query (%(default)s)"
    )
    parser.add_argument(
        "--workers", type=at_least_one, metavar="N",
        help="samples of one query screened at once, one thread each (default: --threads; 1: one after the other)",
    )  # fmt: skip
    parser.add_argument("--official", action="store_true", help="run as long as the rules ask: half an hour a source")
    return parser


def _measure(args: argparse.Namespace, workload: Workload) -> None:
    workers = args.workers or args.threads
    engines = load_engines(args, workload.bundle, threads=args.threads)
    alone = Screener(workload.bundle, engines, threads=args.threads)
    each = load_engines(args, workload.bundle, threads=1) if workers > 1 else engines
    many = Screener(workload.bundle, each) if workers > 1 else alone
    facts = settings(workload, alone, args.threads)
    several = f"{workers}, one thread each" if workers > 1 else "1, with all threads"
    facts |= {"workers on a query of several samples": several, "warm-up": f"{WARM_UP_SAMPLES} samples", "seed": SEED}
    print(
        head("cxr-edge in MLPerf\N{TRADE MARK SIGN} scenarios: not an MLPerf\N{TRADE MARK SIGN} result", facts, engines)
    )
    outcomes: list[Outcome] = []
    for source in args.sources:
        for rule in (RULES[name] for name in args.scenario):
            print(f"{rule.name} from {source} ...", file=sys.stderr)
            single = rule.samples_per_query == 1
            screen = screening(alone if single else many, workload, source)
            with _answering(screen, 1 if single else workers) as query:
                outcomes.append(_run(rule, source, query, len(workload.images), args))
    publish(
        name="scenarios",
        question="How quick is it in the scenarios of the MLPerf\N{TRADE MARK SIGN} Inference rules for edge systems?",
        interval="; ".join(f"a sample from {name}: {SOURCES[name]}" for name in args.sources)
        + "; a query's latency: from its issue to the last of its samples' answers",
        settings=facts,
        tables=[Table(title="Scenarios", columns=COLUMNS, rows=tuple(o.cells() for o in outcomes))],
        targets=(),
        notes=(
            NOTICE,
            "single-stream: one sample a query, the next query is issued when the last is answered; multi-stream: the "
            "same with 8 samples a query; offline: all samples in one query. Samples are drawn at random, with "
            "replacement, from the images.",
            f"`early-stopping estimate`: the rules' own, with {CONFIDENCE:.0%} confidence, d = 0; it discards so many "
            f"of the highest latencies and takes the next. It needs {least_queries(0.90)} queries for p90 and "
            f"{least_queries(0.99)} for p99, else `-`.",
        ),
        out=args.out,
    )  # fmt: skip


@contextmanager
def _answering(screen: Screen, workers: int) -> Iterator[Query]:
    """A function that screens all samples of a query, `workers` of them at once."""
    if workers == 1:
        yield lambda samples: _one_by_one(screen, samples)
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="query") as pool:
        yield lambda samples: _exhaust(pool.map(screen, samples))


def _one_by_one(screen: Screen, samples: Sequence[int]) -> None:
    for sample in samples:
        screen(sample)


def _exhaust(answers: Iterator[object]) -> None:
    for _ in answers:
        pass


def _run(rule: Rule, source: str, query: Query, images: int, args: argparse.Namespace) -> Outcome:
    choice = random.Random(SEED)  # a Mersenne Twister, as the rules want
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
) -> Outcome:
    latencies: list[float] = []
    begin = perf_counter()
    while len(latencies) < queries or perf_counter() - begin < seconds:
        samples = choice.choices(range(images), k=rule.samples_per_query)
        issued = perf_counter()
        query(samples)
        latencies.append(1e3 * (perf_counter() - issued))
    lasted = perf_counter() - begin
    count = len(latencies) * rule.samples_per_query
    return Outcome(rule=rule, source=source, latencies_ms=tuple(latencies), samples=count, seconds=lasted)


def _offline(rule: Rule, source: str, query: Query, choice: random.Random, images: int, samples: int) -> Outcome:
    chosen = choice.choices(range(images), k=samples)
    issued = perf_counter()
    query(chosen)
    lasted = perf_counter() - issued
    return Outcome(rule=rule, source=source, latencies_ms=(1e3 * lasted,), samples=samples, seconds=lasted)


if __name__ == "__main__":
    sys.exit(main())
