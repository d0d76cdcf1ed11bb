"""`cxr-edge screen PATH...`: answers for X-ray files, as text, JSON or CSV, with an HTML report and pictures on demand.

A bad file is a row with its reason and makes the exit status 1; the others are answered all the same.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from cxr_edge import __version__
from cxr_edge.bundle import Bundle
from cxr_edge.cli.arguments import add_bundle, add_engines, add_rebuild, at_least_one, load_engines
from cxr_edge.cli.files import Selection, select
from cxr_edge.decode import MAX_PIXELS
from cxr_edge.records import Failure
from cxr_edge.screener import Answer, Screener, screen_files

if TYPE_CHECKING:
    from cxr_edge.report import ReportWriter, RunInfo

__all__ = ["add_parser", "run"]

_BLOCKS_UP_TO = 4  # images that are shown as a block each; more are a line each
_PROGRESS_FROM = 8
_SOME_FAILED = 1


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "screen",
        help="answer X-ray files",
        description="Screen chest X-rays (JPEG, PNG, TIFF, WEBP, DICOM; recognised by content). Research use only.",
    )
    parser.add_argument("paths", nargs="+", metavar="PATH", help="files, folders or glob patterns")
    add_bundle(parser)
    add_engines(parser)
    add_rebuild(parser)
    output = parser.add_argument_group("output")
    form = output.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON document")
    form.add_argument("--csv", action="store_true", help="print CSV, one row a file")
    output.add_argument("--html", type=Path, metavar="FILE", help="write a report with pictures, one file")
    output.add_argument(
        "--heatmap", type=Path, metavar="DIR", help="write a PNG an image: lung box and heat map over it"
    )
    output.add_argument("--note", default="", metavar="TEXT", help="a sentence for the head of the reports")
    parser.add_argument(
        "--max-pixels", type=at_least_one, default=MAX_PIXELS, metavar="N", help="refuse larger images (%(default)s)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Screen, print, return the exit status."""
    selection = select(args.paths)
    bundle = Bundle.open(args.bundle)
    workers = min(args.threads, len(selection.files))
    threads = max(1, args.threads // workers)
    engines = load_engines(args, bundle, threads=threads)
    screener = Screener(bundle, engines, threads=threads)
    answers = screen_files(
        screener,
        selection.files,
        workers=workers,
        heatmap=args.html is not None or args.heatmap is not None,
        max_pixels=args.max_pixels,
    )
    failed = _write(_progress(answers, len(selection.files)), _writers(args, screener, selection))
    if selection.skipped and not args.json:
        print(f"{len(selection.skipped)} files were not tried: by their names they are no images", file=sys.stderr)
    for written in (args.html, args.heatmap):
        if written is not None:
            print(f"written: {written}", file=sys.stderr)
    return _SOME_FAILED if failed else 0


def _write(answers: Iterable[Answer], writers: list[ReportWriter]) -> int:
    """Give every answer to every writer. Returns how many files failed."""
    failed = 0
    for answer in answers:
        failed += isinstance(answer.outcome, Failure)
        for writer in writers:
            writer.add(answer)
    for writer in writers:
        writer.close()
    return failed


def _writers(args: argparse.Namespace, screener: Screener, selection: Selection) -> list[ReportWriter]:
    from cxr_edge.report.structured import CsvWriter, JsonWriter
    from cxr_edge.report.text import TextWriter

    info = _run_info(args, screener)
    writers: list[ReportWriter] = []
    if args.json:
        writers.append(JsonWriter(sys.stdout, info, selection.skipped))
    elif args.csv:
        writers.append(CsvWriter(sys.stdout, info))
    else:
        writers.append(TextWriter(sys.stdout, info, compact=len(selection.files) > _BLOCKS_UP_TO))
    if args.html is not None:
        from cxr_edge.report.html import HtmlWriter

        writers.append(HtmlWriter(args.html, info, selection.skipped))
    if args.heatmap is not None:
        from cxr_edge.report.overlay import OverlayWriter

        writers.append(OverlayWriter(args.heatmap))
    return writers


def _run_info(args: argparse.Namespace, screener: Screener) -> RunInfo:
    from cxr_edge.backends.host import processor_name
    from cxr_edge.report import RunInfo

    bundle, manifest = screener.bundle, screener.manifest
    return RunInfo(
        bundle=manifest.name,
        version=manifest.version,
        digest=bundle.digest,
        labels=manifest.labels,
        intended_use=manifest.intended_use,
        engines=screener.describe(),
        machine=f"{processor_name()}, {args.threads} threads",
        cxr_edge=__version__,
        started=datetime.now().astimezone().isoformat(timespec="seconds"),
        note=args.note,
    )


def _progress(answers: Iterator[Answer], total: int) -> Iterator[Answer]:
    """The answers, with a bar on stderr while many are at work and a person is watching."""
    if total < _PROGRESS_FROM or not sys.stderr.isatty():
        yield from answers
        return
    from tqdm import tqdm

    bar = tqdm(answers, total=total, unit="image", file=sys.stderr, leave=False)
    for answer in bar:
        bar.clear()  # on a terminal the answer's own line comes next, in the bar's place
        yield answer
