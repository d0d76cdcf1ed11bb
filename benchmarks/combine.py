"""Benchmark of the combination: the native code against NumPy, for every strategy.

    python -m benchmarks.combine

Measures the Python call with one image at a time, as in screening, and with a large batch. One call takes little longer than
reading the clock, so an interval holds many calls, and the table gives microseconds per image. A quantile is therefore a
quantile of means over an interval, and hides a single slow call.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.harness.report import Target, publish
from benchmarks.harness.script import Benchmark, add_out, add_rounds, make_parser
from benchmarks.harness.side_by_side import Implementation, Table, latency_table, max_difference, measure
from benchmarks.peers import opencv_numpy
from cxr_edge.cli.arguments import at_least_one
from cxr_edge.ops.combine import Combiner
from cxr_edge.specs.combination import STRATEGIES, Activation, Combination, parameter_shapes

__all__ = ["BENCHMARK", "combination", "implementations", "main"]

BENCHMARK = Benchmark(name="combine", position=70, needs_engines=False)

LABELS = 4
MEMBERS = (3, 5)
HIDDEN = 9  # R20's stacking
NATIVE = "cxr-edge, batch 1"
NATIVE_BATCH = "cxr-edge, one batch"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write JSON."""
    parser = make_parser(BENCHMARK, __doc__)
    add_rounds(parser, rounds=60, warmup=5)
    add_out(parser, BENCHMARK.name)
    parser.add_argument(
        "--images", type=at_least_one, default=500, metavar="N", help="images per interval (%(default)s)"
    )
    args = parser.parse_args(argv)
    tables: list[Table] = []
    targets: list[Target] = []
    for members in MEMBERS:
        compared = [_compare(combination(strategy, members=members), args) for strategy in STRATEGIES]
        tables.append(_joined(f"{members} members x {LABELS} labels", [table for table, _ in compared]))
        targets += [target for _, target in compared]
    publish(
        name=BENCHMARK.name,
        question="How many microseconds does it take from the members' logits to the ensemble's probabilities?",
        interval="logits (images, members, labels) in memory to new probabilities and winners, through the Python call",
        settings={"threads": 1, "precision": "float32 in and out", "rounds": args.rounds, "warm-up": args.warmup,
                  "images per interval": args.images},
        tables=tables,
        targets=targets,
        notes=("`max difference`: of the probabilities, from `opencv_numpy.combine` in float64.",),
        out=args.out,
    )  # fmt: skip
    return 0


def combination(strategy: str, *, members: int, activation: Activation = "softmax") -> Combination:
    """Return a combination with random parameters, the same in each run."""
    rng = np.random.default_rng(1)
    shapes = parameter_shapes(strategy, members=members, labels=LABELS)
    parameters = {
        name: rng.normal(0, 0.3, [HIDDEN if n is None else n for n in shape]).tolist() for name, shape in shapes.items()
    }
    if strategy == "weighted-average":
        parameters["weights"] = [1 / members] * members
    return Combination(
        strategy=strategy,
        member_temperatures=(1.2,) * members,
        temperature=1.5,
        parameters=parameters,
        activation=activation,
        label_temperatures=tuple(0.5 + 0.3 * k for k in range(LABELS)) if activation == "sigmoid" else (),
    )


def implementations(combining: Combination, logits: npt.NDArray[np.float32]) -> list[Implementation]:
    """Return native and NumPy implementations, image by image and in one batch; each returns (images, labels)."""
    native = Combiner(combining, labels=LABELS)
    single_images = [logits[i : i + 1] for i in range(len(logits))]

    def one_by_one(run: Callable[[Any], Any]) -> Callable[[int], Any]:
        return lambda _: [run(image) for image in single_images]

    return [
        Implementation(name=NATIVE, run=one_by_one(native.run)),
        Implementation(name=NATIVE_BATCH, run=lambda _: native.run(logits)),
        Implementation(name="NumPy, batch 1", run=one_by_one(lambda image: opencv_numpy.combine(image, combining))),
        Implementation(name="NumPy, one batch", run=lambda _: opencv_numpy.combine(logits, combining)),
    ]


def _compare(combining: Combination, args: argparse.Namespace) -> tuple[Table, Target]:
    members = len(combining.member_temperatures)
    logits = np.random.default_rng(2).normal(0, 2, (args.images, members, LABELS)).astype(np.float32)
    measured = measure(implementations(combining, logits), rounds=args.rounds, warmup=args.warmup)
    difference = max_difference(
        Combiner(combining, labels=LABELS).run(logits)[0], opencv_numpy.combine(logits, combining)
    )
    case = f"{combining.strategy}, {members} members x {LABELS} labels"
    table = latency_table(
        combining.strategy,
        measured,
        baseline=NATIVE,
        unit="us",
        per_run=args.images,
        extra={"max difference": {NATIVE: difference, NATIVE_BATCH: difference}},
    )
    p50_us = 1e3 * measured[0].p50_ms / args.images
    return table, Target(text=f"us per image, batch 1, {case}", required=5, at_least=False, measured=p50_us)


def _joined(title: str, tables: Sequence[Table]) -> Table:
    """Join tables of the same columns, with their titles as the first column."""
    rows = tuple((t.title, *row) for t in tables for row in t.rows)
    return Table(title=title, columns=("strategy", *tables[0].columns), rows=rows)


if __name__ == "__main__":
    sys.exit(main())
