"""`cxr-edge doctor`: what works on this machine, what is missing, and one line that mends each.

Exit status 0 if what screening needs works, else 3.
"""

from __future__ import annotations

import argparse

from cxr_edge.cli.arguments import add_bundle, add_engines
from cxr_edge.cli.output import print_json, print_results
from cxr_edge.cli.self_test import add_time_factor

__all__ = ["add_parser", "run"]

NOT_USABLE = 3


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "doctor",
        help="say what works on this machine, and how to mend the rest",
        description="Examine this machine: versions, native core, runtimes, GPU, decoders, disk, folders, bundle, engines, "
        "telemetry, and the self-test if there are engines. Each problem ends with what mends it.",
    )
    add_bundle(parser)
    add_engines(parser)
    add_time_factor(parser)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Examine, print the report, return the exit status."""
    from cxr_edge.health.doctor import DoctorSettings, examine

    settings = DoctorSettings(
        bundle=args.bundle,
        engines_dir=args.engines,
        backend=args.backend,
        threads=args.threads,
        time_factor=args.time_factor,
    )
    report = examine(settings)
    if args.json:
        print_json(report.as_json())
    else:
        print_results("\n".join(report.lines()))
    return 0 if report.usable else NOT_USABLE
