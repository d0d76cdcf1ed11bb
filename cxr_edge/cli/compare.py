"""`cxr-edge compare OLD NEW PATH...`: screen files with two bundles and report where their verdicts differ.

Exit status 1 if some files failed, or if more verdicts differ than `--max-changed`.
"""

from __future__ import annotations

import argparse
from typing import Any

from cxr_edge.bundle import Bundle
from cxr_edge.cli.arguments import add_runtime, add_signature, at_least_one, open_bundle, share_or_percent, trusted_box
from cxr_edge.cli.files import report_skipped, select
from cxr_edge.cli.output import print_json, print_message, print_results
from cxr_edge.decoding.limits import MAX_PIXELS, MIN_SIDE_PX, Limits
from cxr_edge.engines import EngineSet, load, reference
from cxr_edge.names import not_empty
from cxr_edge.screening.screener import Screener

__all__ = ["add_parser", "run"]

_DIFFERENT = 1


def add_parser(subparsers: Any) -> None:
    """Add the `compare` command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "compare",
        help="screen files with two bundles and report what changes",
        description="Screen files with two bundles, each with its engines on this machine, and report where they disagree.",
    )
    for name in ("old", "new"):
        parser.add_argument(
            name, type=not_empty, metavar=name.upper(), help="folder of a bundle or of installed versions, or `starter`"
        )
    parser.add_argument("paths", nargs="+", metavar="PATH", help="files, folders or glob patterns")
    parser.add_argument("--fp32", action="store_true", help="run the bundles' fp32 networks, which need no engines")
    parser.add_argument(
        "--max-changed", type=share_or_percent, metavar="SHARE",
        help="end with status 1 if the verdict of more of the files changes, such as 0.05 or 5%%",
    )  # fmt: skip
    add_runtime(parser)
    parser.add_argument(
        "--max-pixels", type=at_least_one, default=MAX_PIXELS, metavar="N", help="reject larger images (%(default)s)"
    )
    add_signature(parser)
    parser.add_argument("--json", action="store_true", help="print the report as JSON, with every file")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compare, print, return the exit status."""
    from cxr_edge.changes.comparison import compare

    selection = select(args.paths)
    old, new = (_screener(args, bundle) for bundle in (open_bundle(args, args.old), open_bundle(args, args.new)))
    print_message("screening the files with both")
    limits = Limits(max_pixels=args.max_pixels, min_side_px=MIN_SIDE_PX)
    report_skipped(selection)
    found = compare(old, new, selection.items(), limits=limits)
    if args.json:
        print_json(found.as_json())
    else:
        print_results("\n".join(found.lines()))
    exceeded = args.max_changed is not None and found.exceeds(args.max_changed)
    return _DIFFERENT if found.failed or exceeded else 0


def _screener(args: argparse.Namespace, bundle: Bundle) -> Screener:
    return Screener(bundle, _engines(args, bundle), threads=args.threads, whole=True)


def _engines(args: argparse.Namespace, bundle: Bundle) -> EngineSet:
    if args.fp32:
        return reference(bundle, threads=args.threads)
    return load(bundle, backend=args.backend, threads=args.threads, box=trusted_box(args), whole=True)
