"""How long does the first screening take after the machine has been idle?

    cxr-edge build-engine starter && python -m benchmarks.idle

A van screens an image a minute: between two of them clocks fall, caches are taken by others and threads go to sleep.
Each run is a few uncounted screenings, a rest, and one screening that counts; the rests come in an order shuffled anew
each round. Rest 0 is the screening that follows at once, to which the others are compared in the same round.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from time import sleep

from benchmarks.harness.report import publish
from benchmarks.harness.side_by_side import Contender, Measured, Table, measure
from benchmarks.harness.workload import (
    SOURCES,
    Workload,
    add_source,
    add_workload,
    at_least_zero,
    head,
    screening,
    settings,
)
from cxr_edge.cli.arguments import at_least_one, load_engines
from cxr_edge.errors import CxrEdgeError
from cxr_edge.records import Screening
from cxr_edge.screening.screener import Screener

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write JSON; 3 if the bundle, its engines or an image cannot be used."""
    args = _parser().parse_args(argv)
    try:
        _measure(args, Workload.of(args))
    except CxrEdgeError as error:
        print(f"idle: {error}", file=sys.stderr)
        return 3
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.idle", description=(__doc__ or "").split("\n")[0])
    add_workload(parser, "idle")
    add_source(parser, "bytes")
    parser.add_argument(
        "--idle",
        type=at_least_zero,
        nargs="+",
        default=[0.1, 1, 10, 30],
        metavar="S",
        help="rests, besides 0 (%(default)s)",
    )
    parser.add_argument("--rounds", type=at_least_one, default=5, metavar="N", help="runs with each rest (%(default)s)")
    parser.add_argument(
        "--warmup", type=at_least_one, default=10, metavar="N", help="uncounted screenings before a rest (%(default)s)"
    )
    return parser


def _measure(args: argparse.Namespace, workload: Workload) -> None:
    engines = load_engines(args, workload.bundle, threads=args.threads)
    screener = Screener(workload.bundle, engines, threads=args.threads)
    screen = screening(screener, workload, args.source)
    facts = settings(workload, screener, args.threads)
    facts |= {"rounds": args.rounds, "warm-up": f"{args.warmup} screenings before each rest"}
    rests = sorted({0.0, *args.idle})
    print(head("cxr-edge after a rest", facts, engines))
    print(f"about {args.rounds * sum(rests):.0f} s of rest ...", file=sys.stderr)
    entrants = [_after(rest, screen, args.warmup) for rest in rests]
    found = measure(entrants, rounds=args.rounds, warmup=0, items=len(workload.images))
    publish(
        name="idle",
        question="How long does the first screening take after the machine has been idle?",
        interval=f"{SOURCES[args.source]}; the rest before it left out",
        settings=facts,
        tables=[_table(f"First screening after a rest, from {args.source}", found)],
        targets=(),
        notes=(
            "`ratio`: median over the rounds of the time after this rest over that after none in the same round.",
            "The process rests with nothing to do, the system and its other processes as they are.",
        ),
        out=args.out,
    )


def _after(rest_s: float, screen: Callable[[int], Screening], warmup: int) -> Contender:
    def prepare() -> None:
        for i in range(warmup):
            screen(i)
        if rest_s:
            sleep(rest_s)

    return Contender(name=f"{rest_s:g} s", run=screen, prepare=prepare)


def _table(title: str, found: Sequence[Measured]) -> Table:
    """found: the shortest rest, which is none, first."""
    rows = [
        (m.contender.name, m.p50_ms, float(m.milliseconds.max()), m.times_as_long_as(found[0]), m.milliseconds.size)
        for m in found
    ]
    return Table(title=title, columns=("rest", "median ms", "worst ms", "ratio", "n"), rows=tuple(rows))


if __name__ == "__main__":
    sys.exit(main())
