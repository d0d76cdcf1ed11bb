"""Latency of the first screening after the machine has been idle.

    cxr-edge build-engine starter && python -m benchmarks.idle

A screening van screens about one image per minute: between two images clocks drop, other processes use the caches and
threads go to sleep. Each run is a few uncounted screenings, a rest, and one timed screening; each round shuffles the
rests. Rest 0 is the screening that follows immediately, to which the others are compared in the same round.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from time import sleep

from benchmarks.harness.report import publish
from benchmarks.harness.script import Benchmark, exit_status, make_parser
from benchmarks.harness.side_by_side import Implementation, Measured, Table, measure
from benchmarks.harness.workload import (
    SOURCES,
    Workload,
    add_source,
    add_workload,
    at_least_zero,
    header,
    make_screen,
    report_settings,
)
from cxr_edge.cli.arguments import at_least_one, load_engines
from cxr_edge.records import Screening
from cxr_edge.screening.screener import Screener

__all__ = ["BENCHMARK", "main"]

BENCHMARK = Benchmark(name="idle", position=40, only_if_named=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write JSON. Return 3 if the bundle, its engines or an image cannot be used."""
    args = _parser().parse_args(argv)
    return exit_status(BENCHMARK.name, lambda: _measure(args, Workload.from_args(args)))


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(BENCHMARK, __doc__)
    add_workload(parser, BENCHMARK.name)
    add_source(parser, "bytes")
    parser.add_argument(
        "--idle",
        type=at_least_zero,
        nargs="+",
        default=[0.1, 1, 10, 30],
        metavar="S",
        help="rests in seconds, in addition to 0 (%(default)s)",
    )
    parser.add_argument("--rounds", type=at_least_one, default=5, metavar="N", help="runs per rest (%(default)s)")
    parser.add_argument(
        "--warmup", type=at_least_one, default=10, metavar="N", help="uncounted screenings before a rest (%(default)s)"
    )
    return parser


def _measure(args: argparse.Namespace, workload: Workload) -> None:
    engines = load_engines(args, workload.bundle, threads=args.threads)
    screener = Screener(workload.bundle, engines, threads=args.threads)
    screen = make_screen(screener, workload, args.source)
    facts = report_settings(workload, screener, args.threads)
    facts |= {"rounds": args.rounds, "warm-up": f"{args.warmup} screenings before each rest"}
    rests = sorted({0.0, *args.idle})
    print(header("cxr-edge after a rest", facts, engines))
    print(f"about {args.rounds * sum(rests):.0f} s of rest ...", file=sys.stderr)
    implementations = [_after_rest(rest, screen, args.warmup) for rest in rests]
    measured = measure(implementations, rounds=args.rounds, warmup=0, items=len(workload.images))
    publish(
        name=BENCHMARK.name,
        question="How long does the first screening take after the machine has been idle?",
        interval=f"{SOURCES[args.source]}; the rest before it excluded",
        settings=facts,
        tables=[_table(f"First screening after a rest, from {args.source}", measured)],
        targets=(),
        notes=(
            "`ratio`: median over the rounds of the time after this rest divided by that after none in the same round.",
            "During a rest the process sleeps; the system and its other processes are left as they are.",
        ),
        out=args.out,
    )


def _after_rest(rest_s: float, screen: Callable[[int], Screening], warmup: int) -> Implementation:
    def prepare() -> None:
        for i in range(warmup):
            screen(i)
        if rest_s:
            sleep(rest_s)

    return Implementation(name=f"{rest_s:g} s", run=screen, prepare=prepare)


def _table(title: str, measured: Sequence[Measured]) -> Table:
    """Return the table of the report. measured: rest 0 first."""
    rows = [
        (m.implementation.name, m.p50_ms, float(m.milliseconds.max()), m.ratio_to(measured[0]), m.milliseconds.size)
        for m in measured
    ]
    return Table(title=title, columns=("rest", "median ms", "worst ms", "ratio", "n"), rows=tuple(rows))


if __name__ == "__main__":
    sys.exit(main())
