"""Duration of the self-test: in a process that has loaded its engines, and of `cxr-edge self-test` and `doctor` as commands.

    cxr-edge build-engine starter && python -m benchmarks.self_test

The engines are those that `build-engine` made here: the self-test compares them with what they gave then. The time of a
command is from the creation of its process to its end; the files are in the page cache.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from statistics import median

from benchmarks.harness import command
from benchmarks.harness.report import Target, publish
from benchmarks.harness.script import Benchmark, add_out, add_rounds, exit_status, make_parser
from benchmarks.harness.side_by_side import Implementation, Table, latency_table, measure
from cxr_edge.bundle import Bundle
from cxr_edge.cli.arguments import add_bundle, add_engines, load_engines
from cxr_edge.errors import CxrEdgeError
from cxr_edge.health.self_test import SelfTestReport, run
from cxr_edge.screening.screener import Screener

__all__ = ["BENCHMARK", "main"]

BENCHMARK = Benchmark(name="self_test", position=96, only_if_named=True)

_LOADED = "self-test, engines loaded"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write JSON. Return 3 if the bundle or its engines cannot be used, or a self-test fails."""
    parser = make_parser(BENCHMARK, __doc__)
    add_rounds(parser, rounds=10, warmup=1)
    add_out(parser, BENCHMARK.name)
    add_bundle(parser)
    add_engines(parser)
    args = parser.parse_args(argv)
    return exit_status(BENCHMARK.name, lambda: _run(args), errors=(CxrEdgeError, RuntimeError))


def _run(args: argparse.Namespace) -> None:
    bundle = Bundle.open(args.bundle)
    screener = Screener(bundle, load_engines(args, bundle, threads=args.threads), threads=args.threads)
    reports: list[SelfTestReport] = []

    def loaded(_: int) -> None:
        reports.append(run(screener))

    def process(name: str) -> Implementation:
        words = command.bundle_command(args, name)
        return Implementation(name=f"cxr-edge {name}", run=lambda _: command.run_measured(words))

    implementations = [Implementation(name=_LOADED, run=loaded), process("self-test"), process("doctor")]
    measured = measure(implementations, rounds=args.rounds, warmup=args.warmup)
    failed = [item.name for report in reports for item in report.failures]
    if failed:
        raise RuntimeError(
            f"the self-test failed ({', '.join(sorted(set(failed)))}): run `cxr-edge self-test` for the reasons"
        )
    seconds = measured[1].p50_ms / 1e3
    _publish(args, bundle, latency_table("from the start to the verdict", measured, baseline=_LOADED), seconds, reports)


def _publish(
    args: argparse.Namespace, bundle: Bundle, table: Table, seconds: float, reports: Sequence[SelfTestReport]
) -> None:
    by_item = {item.name: median(1e3 * r.items[i].seconds for r in reports) for i, item in enumerate(reports[0].items)}
    publish(
        name=BENCHMARK.name,
        question="How long does the self-test take?",
        interval="loaded engines, or a new process, to the verdict",
        settings={
            "bundle": f"{bundle.manifest.name} {bundle.manifest.version}",
            "threads": args.threads,
            "rounds": args.rounds,
            **{f"ms of {name}, median": round(ms, 1) for name, ms in by_item.items()},
        },
        tables=[table],
        targets=[Target(text="seconds, cxr-edge self-test, p50", required=3, at_least=False, measured=seconds)],
        notes=("Items that are skipped, such as the signature without trusted keys, take no time.",),
        out=args.out,
    )


if __name__ == "__main__":
    sys.exit(main())
