"""`cxr-edge screen PATH...`: answers for X-ray files, as text, JSON or CSV, with an HTML report and pictures on demand.

A bad file is a row with its reason and makes the exit status 1; the others are answered all the same.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from datetime import datetime
from typing import TYPE_CHECKING

from cxr_edge.bundle import Bundle
from cxr_edge.cli.arguments import add_bundle, add_engines, add_rebuild, at_least_one, load_engines, path_argument
from cxr_edge.cli.files import Selection, select
from cxr_edge.cli.output import Results, print_message
from cxr_edge.cli.traces import TracebackLog, add_traceback_options
from cxr_edge.decoding.decode import MAX_PIXELS, MIN_SIDE_PX
from cxr_edge.errors import CxrEdgeError
from cxr_edge.names import printable, printable_lines
from cxr_edge.records import Failure
from cxr_edge.screening.folder import screen_files
from cxr_edge.screening.screener import FileResult, Screener, internal_error
from cxr_edge.version import __version__

if TYPE_CHECKING:
    from cxr_edge.report import ReportWriter, RunInfo

__all__ = ["add_parser", "run"]

_BLOCKS_UP_TO = 4  # images that are shown as a block each; more are a line each
_PROGRESS_FROM = 8
_SKIPPED_SHOWN = 20
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
    form.add_argument("--csv", action="store_true", help="print CSV, one row per file")
    output.add_argument("--html", type=path_argument, metavar="FILE", help="write a report with pictures, one file")
    output.add_argument(
        "--heatmap", type=path_argument, metavar="DIR", help="write a PNG per image: lung box and heat map over it"
    )
    output.add_argument("--note", default="", metavar="TEXT", help="a sentence for the head of the reports")
    parser.add_argument(
        "--max-pixels", type=at_least_one, default=MAX_PIXELS, metavar="N", help="refuse larger images (%(default)s)"
    )
    parser.add_argument(
        "--min-side", type=at_least_one, default=MIN_SIDE_PX, metavar="N",
        help="refuse pictures with a side shorter than this, in pixels (%(default)s)",
    )  # fmt: skip
    add_traceback_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Screen, print, return the exit status."""
    selection = select(args.paths)
    _check_outputs(args)
    traces = TracebackLog(verbose=args.verbose, log=args.log)
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
        min_side_px=args.min_side,
    )
    with ExitStack() as stack:
        writers = _writers(args, screener, selection, stack)
        failed = _write(_progress(answers, len(selection.files)), writers, traces)
    if not args.json:
        _say_skipped(selection)
    for written in (args.html, args.heatmap):
        if written is not None:
            print_message(f"written: {printable(written)}")
    return _SOME_FAILED if failed else 0


def _check_outputs(args: argparse.Namespace) -> None:
    """Refuse reports that cannot be written there before there is work. Raises InputError."""
    if args.html is not None:
        from cxr_edge.report.html import page_target

        page_target(args.html)
    if args.heatmap is not None:
        from cxr_edge.report.overlay import check_folder

        check_folder(args.heatmap)


def _write(answers: Iterable[FileResult], writers: list[ReportWriter], traces: TracebackLog) -> int:
    """Give every answer to every writer. Returns how many files failed."""
    failed = 0
    for answer in answers:
        for writer in writers:
            answer = _add(writer, answer)
        traces.add(answer)
        failed += isinstance(answer.outcome, Failure)
    for writer in writers:
        writer.close()
    return failed


def _add(writer: ReportWriter, answer: FileResult) -> FileResult:
    """Write the answer; a picture that cannot be made turns it into an internal error, for this and the next writers."""
    try:
        writer.add(answer)
    except CxrEdgeError:
        raise
    except Exception as error:
        answer = internal_error(answer.outcome.source, error)
        writer.add(answer)
    return answer


def _writers(
    args: argparse.Namespace, screener: Screener, selection: Selection, stack: ExitStack
) -> list[ReportWriter]:
    """The requested writers, those with pictures first, so that a picture that cannot be made is a failure in all of them."""
    from cxr_edge.report.structured import CsvWriter, JsonWriter
    from cxr_edge.report.text import TextWriter

    info = _run_info(args, screener)
    writers: list[ReportWriter] = []
    if args.heatmap is not None:
        from cxr_edge.report.overlay import OverlayWriter

        writers.append(OverlayWriter(args.heatmap))
    if args.html is not None:
        from cxr_edge.report.html import HtmlWriter

        writers.append(stack.enter_context(HtmlWriter(args.html, info, selection.skipped, hidden=selection.hidden)))
    results = Results(utf8=args.json)
    if args.json:
        writers.append(JsonWriter(results, info, selection.skipped, hidden=selection.hidden))
    elif args.csv:
        writers.append(CsvWriter(results, info))
    else:
        writers.append(TextWriter(results, info, compact=len(selection.files) > _BLOCKS_UP_TO))
    return writers


def _say_skipped(selection: Selection) -> None:
    """List what was left out of folders, up to a bound."""
    skipped = selection.skipped
    if skipped:
        print_message(f"{len(skipped)} files or folders were not tried:")
    for one in skipped[:_SKIPPED_SHOWN]:
        print_message(f"  {printable(one.path)}: {one.reason}")
    if len(skipped) > _SKIPPED_SHOWN:
        print_message(f"  and {len(skipped) - _SKIPPED_SHOWN} more, which --json and --html list")
    if selection.hidden:
        print_message(f"{selection.hidden} hidden files or folders were not tried (their names begin with a dot)")


def _run_info(args: argparse.Namespace, screener: Screener) -> RunInfo:
    from cxr_edge.backends.cpu_info import processor_name
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
        note=printable_lines(args.note),
    )


def _progress(answers: Iterator[FileResult], total: int) -> Iterator[FileResult]:
    """The answers, with a bar on stderr while many are at work and a person is watching."""
    if total < _PROGRESS_FROM or not sys.stderr.isatty():
        yield from answers
        return
    from tqdm import tqdm

    bar = tqdm(answers, total=total, unit="image", file=sys.stderr, leave=False)
    for answer in bar:
        bar.clear()  # on a terminal the answer's own line comes next, in the bar's place
        yield answer
