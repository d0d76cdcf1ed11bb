"""`cxr-edge self-test`: test a bundle, its engines and this machine; a line per item, or JSON, and the verdict.

Exit status 0 if nothing failed, else 3. Nothing is written.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from cxr_edge.cli.arguments import add_bundle, add_engines, add_signature, at_least_one, trusted_box
from cxr_edge.cli.output import print_json, print_message, print_results
from cxr_edge.errors import EngineError

if TYPE_CHECKING:
    from cxr_edge.health.self_test import SelfTestOptions
    from cxr_edge.screening.screener import Screener

__all__ = ["add_parser", "add_time_factor", "require_passed", "run"]

FAILED = 3


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "self-test",
        help="test a bundle, its engines and this machine",
        description="Test whether the bundle and its engines still do here what they did when they were built: digests, "
        "decoding, known answers, time, memory, disk, temperature. Nothing is written.",
    )
    add_bundle(parser)
    add_engines(parser)
    add_signature(parser)
    parser.add_argument(
        "--gate-images",
        type=at_least_one,
        default=40,
        metavar="N",
        help="at most N images of the gate set (%(default)s)",
    )
    add_time_factor(parser)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.set_defaults(run=run)


def add_time_factor(parser: argparse.ArgumentParser) -> None:
    """Add --time-factor."""
    parser.add_argument(
        "--time-factor", type=_factor, default=3.0, metavar="X",
        help="a screening may take X times as long as when the engines were built (%(default)s)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Test, print the report, return the exit status."""
    from cxr_edge.health.self_test import run_from

    report, _ = run_from(
        args.bundle,
        args.engines,
        backend=args.backend,
        threads=args.threads,
        box=trusted_box(args),
        options=_options(args, gate_images=args.gate_images, time_factor=args.time_factor),
    )
    if args.json:
        print_json(report.as_json())
    else:
        print_results("\n".join(report.lines()))
    return 0 if report.passed else FAILED


def require_passed(screener: Screener, args: argparse.Namespace) -> str:
    """Run the self-test for another command, say its verdict on stderr and return it. Raises EngineError if an item failed."""
    from cxr_edge.health.self_test import run as run_self_test

    report = run_self_test(screener, _options(args))
    verdict = report.lines()[-1]
    if not report.passed:
        wrong = "\n".join(f"  {item.name}: {item.finding.message}" for item in report.failures)
        raise EngineError(f"{verdict}\n{wrong}\nNothing was screened; cxr-edge self-test shows all items")
    print_message(verdict)
    return verdict.removeprefix("self-test: ")


def _options(args: argparse.Namespace, **values: Any) -> SelfTestOptions:
    from cxr_edge.health.self_test import SelfTestOptions

    return SelfTestOptions(
        require_signature=args.require_signature, trusted_keys=args.trusted_keys, state=args.state, **values
    )


def _factor(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 1.0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number of 1 or more, got {text[:40]!r}")
    return value
