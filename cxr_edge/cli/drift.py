"""`cxr-edge drift PATH...`: compare the exams of an archive with the bundle's reference exams; a table or JSON comes out.

Status 1 if they are not alike, or if files failed.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cxr_edge.cli.arguments import add_bundle, add_engines, add_rebuild, add_signature, load_engines, open_bundle
from cxr_edge.cli.files import Selection, select
from cxr_edge.cli.output import print_json, print_message, print_results
from cxr_edge.drift import DriftMonitor, DriftReport
from cxr_edge.errors import InputError
from cxr_edge.names import printable
from cxr_edge.records import Failure
from cxr_edge.report.drift import drift_lines, drift_table
from cxr_edge.screening.folder import Item, screen_files
from cxr_edge.screening.screener import Screener

__all__ = ["add_parser", "run"]

ORDERS = ("name", "time")
_FOUND = 1
_MAX_FAILED = 20  # failed files listed on stderr


def add_parser(subparsers: Any) -> None:
    """Declare the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "drift",
        help="compare an archive with the bundle's reference exams",
        description="Screen an archive and compare its exams, one after the other, with the bundle's reference exams: are they "
        "of the same kind, from which exam on not, and what moved. Status 1 if they are not, or if files failed.",
    )
    parser.add_argument("paths", nargs="+", metavar="PATH", help="files, folders or glob patterns")
    add_bundle(parser)
    add_engines(parser)
    add_rebuild(parser)
    add_signature(parser)
    parser.add_argument(
        "--order",
        choices=ORDERS,
        default="name",
        help="of the exams: file names, or files' times of change (%(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Screen, print, return the exit status."""
    selection = select(args.paths)
    bundle = open_bundle(args, args.bundle)
    monitor = DriftMonitor.of_bundle(bundle)
    if monitor is None:
        raise InputError(
            f"bundle {bundle.manifest.name!r} has no reference exams: give one that has (cxr-edge inspect shows it)"
        )
    workers = min(args.threads, selection.images)
    threads = args.threads // workers
    screener = Screener(bundle, load_engines(args, bundle, threads=threads), threads=threads, whole=True)
    failed = _follow(monitor, screener, _ordered(selection, args.order), workers)
    report = monitor.report()
    if args.json:
        print_json(_as_json(report, screener, failed, args.order))
    else:
        print_results("\n".join(_lines(report, screener, failed, args.order)))
    return _FOUND if report.alarm or failed else 0


def _ordered(selection: Selection, order: str) -> list[Item]:
    """Return the files in order; what is no file (a folder without images, standard input) comes last."""
    files = sorted((f for f in selection.files if isinstance(f, Path)), key=_time if order == "time" else str)
    listed = set(files)
    return [*files, *(item for item in selection.items() if item not in listed)]


def _time(file: Path) -> tuple[float, str]:
    try:
        return os.stat(file).st_mtime, str(file)
    except OSError:  # it fails as a file
        return 0.0, str(file)


def _follow(monitor: DriftMonitor, screener: Screener, items: Iterable[Item], workers: int) -> list[Failure]:
    failed = []
    for result in screen_files(screener, items, workers=workers):
        if isinstance(result.outcome, Failure) or result.image is None:
            failed.append(result.outcome)
        else:
            monitor.add(result.outcome, result.image)
    return [f for f in failed if isinstance(f, Failure)]


def _as_json(report: DriftReport, screener: Screener, failed: list[Failure], order: str) -> dict[str, Any]:
    manifest = screener.manifest
    head = {"bundle": manifest.name, "version": manifest.version, "digest": screener.bundle.digest}
    return {
        "run": {**head, "engines": screener.describe(), "order": order},
        "failed": [f.as_json() for f in failed],
        "drift": report.as_json(),
    }


def _lines(report: DriftReport, screener: Screener, failed: list[Failure], order: str) -> list[str]:
    for failure in failed[:_MAX_FAILED]:
        print_message(f"failed: {printable(failure.source)}: {printable(failure.reason)}")
    manifest = screener.manifest
    repeated = f", {report.repeated} repeated pictures not counted" if report.repeated else ""
    return [
        f"{manifest.name} {manifest.version} ({screener.bundle.digest[:12]}), {screener.describe()}",
        f"{report.exams} exams in order of {order}{repeated}, {len(failed)} failed; medians of the last {report.recent}",
        "",
        *drift_table(report),
        "",
        f"above: part of the reference below the median now. evidence: power of 10; the alarm is at {report.limit:.3g}",
        *drift_lines(report),
    ]
