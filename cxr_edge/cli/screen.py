"""`cxr-edge screen PATH...`: screen X-ray files; output as text, JSON, JSON lines or CSV, also HTML and overlays.

A file that fails is reported with its reason and makes the exit status 1; the other files are still screened.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from cxr_edge.bundle import Bundle
from cxr_edge.cli.arguments import (
    add_bundle,
    add_engines,
    add_rebuild,
    add_signature,
    at_least_one,
    load_engines,
    open_bundle,
    record_bundle,
)
from cxr_edge.cli.evidence_options import add_evidence, check_evidence, logged, open_evidence
from cxr_edge.cli.files import Selection, report_skipped, select
from cxr_edge.cli.output import Results, print_message
from cxr_edge.cli.self_test import require_passed
from cxr_edge.cli.traces import TracebackLog, add_traceback_options
from cxr_edge.decoding.formats import FORMAT_LIST
from cxr_edge.decoding.limits import MAX_PIXELS, MIN_SIDE_PX, Limits
from cxr_edge.errors import CxrEdgeError, InputError
from cxr_edge.names import not_empty, path_argument, printable, printable_lines
from cxr_edge.records import Failure, Screening
from cxr_edge.screening.folder import screen_files
from cxr_edge.screening.screener import FileResult, Screener, internal_error
from cxr_edge.specs.checks import POPULATIONS
from cxr_edge.version import __version__

if TYPE_CHECKING:
    from cxr_edge.drift import DriftMonitor
    from cxr_edge.report import ReportWriter, RunInfo

__all__ = ["add_parser", "run"]

_MAX_BLOCKS = 4  # up to so many images are shown as blocks, more as one line each
_MIN_PROGRESS = 8  # images from which on a progress bar is shown
_SOME_FAILED = 1


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "screen",
        help="screen X-ray files",
        description=f"Screen chest X-rays ({FORMAT_LIST}; recognised by content). Research use only.",
    )
    parser.add_argument(
        "paths", nargs="*", metavar="PATH", help="files, folders or glob patterns; `-`: one image from standard input"
    )
    parser.add_argument(
        "--files-from",
        type=not_empty,
        metavar="FILE",
        help="further files, listed in FILE (`-`: standard input), one in each line or, as from find -print0, each with a "
        "zero byte at its end",
    )
    add_bundle(parser)
    add_engines(parser)
    add_rebuild(parser)
    add_signature(parser)
    output = parser.add_argument_group("output")
    form = output.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON document")
    form.add_argument(
        "--jsonl", action="store_true", help="print one JSON object per file and line, as soon as it is known"
    )
    form.add_argument("--csv", action="store_true", help="print CSV, one row per file")
    output.add_argument("--html", type=path_argument, metavar="FILE", help="write a report with images, one file")
    output.add_argument(
        "--heatmap", type=path_argument, metavar="DIR", help="write a PNG per image: lung box and heat map over it"
    )
    output.add_argument("--note", default="", metavar="TEXT", help="a sentence for the head of the reports")
    parser.add_argument(
        "--max-pixels", type=at_least_one, default=MAX_PIXELS, metavar="N", help="reject larger images (%(default)s)"
    )
    parser.add_argument(
        "--min-side", type=at_least_one, default=MIN_SIDE_PX, metavar="N",
        help="reject images with a side shorter than this, in pixels (%(default)s)",
    )  # fmt: skip
    answers = parser.add_argument_group("answers")
    answers.add_argument(
        "--answer-all", action="store_true",
        help="answer images too that the bundle is not made for, and decisions that are too uncertain; a flag says so",
    )  # fmt: skip
    answers.add_argument(
        "--population", choices=POPULATIONS,
        help="refuse children (adults), adults (children) or neither (any); default: as the bundle says",
    )  # fmt: skip
    parser.add_argument(
        "--drift-state", type=path_argument, metavar="FILE",
        help="go on with the comparison with the bundle's reference exams from run to run; FILE is made if need be",
    )  # fmt: skip
    parser.add_argument(
        "--deadline-ms", type=at_least_one, metavar="N",
        help="answer within N milliseconds from the start of decoding, without the members that have not ended by then",
    )  # fmt: skip
    parser.add_argument(
        "--self-test", action="store_true", help="test bundle, engines and machine first; screen nothing if that fails"
    )
    add_evidence(parser)
    add_traceback_options(parser)
    parser.set_defaults(run=run, usage_error=parser.error)


def run(args: argparse.Namespace) -> int:
    """Screen, print, return the exit status."""
    if not args.paths and args.files_from is None:
        args.usage_error("expected at least one PATH, or --files-from FILE")
    limits = Limits(max_pixels=args.max_pixels, min_side_px=args.min_side)
    selection = select(args.paths, args.files_from, limits=limits)
    _check_outputs(args)
    check_evidence(args)
    tracebacks = TracebackLog(verbose=args.verbose, log=args.log)
    bundle = open_bundle(args, args.bundle)
    drift = _drift(args.drift_state, bundle, selection)
    workers = min(args.threads, selection.images)
    threads = args.threads // workers
    engines = load_engines(args, bundle, threads=threads, whole=False)
    screener = Screener(
        bundle, engines, threads=threads, answer_all=args.answer_all, population=args.population,
        deadline_ms=args.deadline_ms,
    )  # fmt: skip
    _report_degraded(screener)
    tested = require_passed(screener, args) if args.self_test else ""
    record_bundle(args, bundle)
    results = screen_files(
        screener,
        selection.items(),
        workers=workers,
        heatmap=args.html is not None or args.heatmap is not None,
        max_pixels=args.max_pixels,
        min_side_px=args.min_side,
    )
    with ExitStack() as stack:
        evidence = open_evidence(args, screener, workers, stack)
        output = Results(utf8=args.json or args.jsonl)
        info = _run_info(args, screener, f"images at a time: {workers}, threads for each: {threads}", tested)
        writers = _writers(args, output, info, selection, drift, stack)
        degraded = _DegradedCount()
        counted = degraded.counting(_progress(logged(results, evidence), selection.count))
        failed = _write(counted, writers, drift, output, tracebacks)
    if screener.degraded is None and degraded.screenings:
        print_message(degraded.describe())
    if drift is not None:
        _end_drift(args, drift, bundle)
    if not args.json:
        report_skipped(selection)
    for output in (args.html, args.heatmap):
        if output is not None:
            print_message(f"written: {printable(output)}")
    return _SOME_FAILED if failed else 0


def _check_outputs(args: argparse.Namespace) -> None:
    """Check before the work starts that the reports can be written to their paths. Raises InputError."""
    if args.html is not None:
        from cxr_edge.report.html import page_target

        page_target(args.html)
    if args.heatmap is not None:
        from cxr_edge.report.overlay import check_folder

        check_folder(args.heatmap)


def _drift(state: Path | None, bundle: Bundle, selection: Selection) -> DriftMonitor | None:
    """Return the monitor of the run; None for a few images without a state, and for a bundle without a reference."""
    from cxr_edge.drift import DriftMonitor
    from cxr_edge.drift.monitor import LEAST_SHOWN
    from cxr_edge.drift.state import read_state

    if state is None and selection.images < LEAST_SHOWN:
        return None
    monitor = DriftMonitor.of_bundle(bundle)
    if state is not None and monitor is None:
        raise InputError(
            f"--drift-state needs a bundle with reference exams, which {bundle.manifest.name!r} lacks: leave it out"
        )
    if state is not None and monitor is not None:
        read_state(monitor, state, digest=bundle.digest)
    return monitor


def _end_drift(args: argparse.Namespace, drift: DriftMonitor, bundle: Bundle) -> None:
    """Write the state, and say on stderr what the output has no place for."""
    from cxr_edge.drift.state import write_state
    from cxr_edge.report.drift import drift_lines

    if args.drift_state is not None:
        write_state(drift, args.drift_state, digest=bundle.digest)
    if drift.alarm is not None and (args.csv or args.jsonl):
        print_message("\n".join(drift_lines(drift.report())))


def _write(
    results: Iterable[FileResult],
    writers: list[ReportWriter],
    drift: DriftMonitor | None,
    output: Results,
    tracebacks: TracebackLog,
) -> int:
    """Pass every result to every writer, and what is printed on at once. Returns the number of failed files."""
    failed = 0
    for result in results:
        outcome, image = result.outcome, result.image
        # What fewer members answer differs from the reference exams by that alone.
        if drift is not None and isinstance(outcome, Screening) and outcome.degraded is None and image is not None:
            drift.add(outcome, image)
        for writer in writers:
            result = _add(writer, result)
        output.flush()
        tracebacks.add(result)
        failed += isinstance(result.outcome, Failure)
    for writer in writers:
        writer.close()
    return failed


def _add(writer: ReportWriter, result: FileResult) -> FileResult:
    """Write the result. If its image cannot be rendered, it becomes an internal error for this and later writers."""
    try:
        writer.add(result)
    except CxrEdgeError:
        raise
    except Exception as error:
        result = internal_error(result.outcome.source, error)
        writer.add(result)
    return result


def _writers(
    args: argparse.Namespace,
    output: Results,
    info: RunInfo,
    selection: Selection,
    drift: DriftMonitor | None,
    stack: ExitStack,
) -> list[ReportWriter]:
    """Return the requested writers. Those with images come first, so that a rendering error is a failure in all of them."""
    from cxr_edge.report.structured import CsvWriter, JsonLinesWriter, JsonWriter
    from cxr_edge.report.text import TextWriter

    writers: list[ReportWriter] = []
    if args.heatmap is not None:
        from cxr_edge.report.overlay import OverlayWriter

        writers.append(OverlayWriter(args.heatmap))
    if args.html is not None:
        from cxr_edge.report.html import HtmlWriter

        writers.append(stack.enter_context(HtmlWriter(args.html, info, selection.skipped, hidden=selection.hidden)))
    if args.json:
        writers.append(JsonWriter(output, info, selection.skipped, hidden=selection.hidden, drift=drift))
    elif args.jsonl:
        writers.append(JsonLinesWriter(output, info))
    elif args.csv:
        writers.append(CsvWriter(output, info))
    else:
        compact = selection.count is None or selection.count > _MAX_BLOCKS
        writers.append(TextWriter(output, info, compact=compact, drift=drift))
    return writers


def _report_degraded(screener: Screener) -> None:
    """Say on stderr that members could not be loaded."""
    if screener.degraded is not None:
        print_message(
            f"DEGRADED: {screener.degraded.describe()} Build the engines again: --rebuild, or cxr-edge build-engine"
        )


class _DegradedCount:
    """Counts of screenings without some members, by member."""

    def __init__(self) -> None:
        self.screenings = 0
        self._members: Counter[str] = Counter()

    def counting(self, results: Iterator[FileResult]) -> Iterator[FileResult]:
        """Yield the results, and count them."""
        for result in results:
            state = None if isinstance(result.outcome, Failure) else result.outcome.degraded
            if state is not None:
                self.screenings += 1
                self._members.update(state.missing)
            yield result

    def describe(self) -> str:
        """Return one line for stderr."""
        listed = ", ".join(f"{name} in {n}" for name, n in self._members.items())
        return f"DEGRADED: {self.screenings} screenings without a member ({listed}); each has the flag degraded with the reason"


def _run_info(args: argparse.Namespace, screener: Screener, use_of_threads: str, self_test: str) -> RunInfo:
    from cxr_edge.backends.cpu_info import processor_name
    from cxr_edge.report import RunInfo

    bundle, manifest, decision = screener.bundle, screener.manifest, screener.operating_point.decision
    return RunInfo(
        bundle=manifest.name,
        version=manifest.version,
        digest=bundle.digest,
        labels=manifest.labels,
        thresholds=tuple(map(decision.threshold_of, manifest.labels)) if manifest.multi_label else None,
        intended_use=manifest.intended_use,
        engines=screener.describe(),
        machine=f"{processor_name()}, {args.threads} threads ({use_of_threads})",
        cxr_edge=__version__,
        started=datetime.now().astimezone().isoformat(timespec="seconds"),
        note=printable_lines(args.note),
        self_test=self_test,
    )


def _progress(results: Iterator[FileResult], total: int | None) -> Iterator[FileResult]:
    """Yield the results, with a progress bar if there are many and stderr is a terminal. total: None if it is not known."""
    if (total is not None and total < _MIN_PROGRESS) or not sys.stderr.isatty():
        yield from results
        return
    from tqdm import tqdm

    bar = tqdm(results, total=total, unit="image", file=sys.stderr, leave=False)
    for result in bar:
        bar.clear()  # on a terminal the line of the result is printed next, in place of the bar
        yield result
