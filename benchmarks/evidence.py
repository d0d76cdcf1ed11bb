"""Cost of the evidence log: screening of the same files without a log and with one.

    cxr-edge build-engine starter && python -m benchmarks.evidence

One worker, engines with one thread, every line on the disk before the next file, as `cxr-edge screen --evidence` does; then with
one wait for the disk in ten files. The log is where the temporary folder is. Beside that, one line alone.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import process_time
from typing import Any

import cv2

from benchmarks.harness.images import enlarge, jpeg_bytes
from benchmarks.harness.report import publish
from benchmarks.harness.script import Benchmark, add_out, add_rounds, exit_status, make_parser
from benchmarks.harness.side_by_side import Implementation, Table, latency_table, measure
from cxr_edge.bundle import Bundle
from cxr_edge.cli.arguments import add_bundle, add_engines, at_least_one, load_engines
from cxr_edge.decoding.decode import decode
from cxr_edge.errors import CxrEdgeError
from cxr_edge.evidence import EvidenceLog, WriterSettings, verify
from cxr_edge.screening.screener import FileResult, Screener

__all__ = ["BENCHMARK", "main"]

BENCHMARK = Benchmark(name="evidence", position=95, only_if_named=True)

WITHOUT, EVERY, TENTH = "without a log", "with a log", "with a log, one wait in 10"
_LINES = 50  # of one run of the line alone


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write JSON. Return 3 if the bundle or its engines cannot be used."""
    args = _parser().parse_args(argv)
    return exit_status(BENCHMARK.name, lambda: _run(args), errors=(CxrEdgeError,))


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(BENCHMARK, __doc__)
    add_rounds(parser, rounds=20, warmup=1)
    add_out(parser, BENCHMARK.name)
    add_bundle(parser)
    add_engines(parser)
    parser.add_argument("--files", type=at_least_one, default=100, metavar="N", help="files per run (%(default)s)")
    parser.add_argument("--side-px", type=at_least_one, default=1024, metavar="N", help="of these files (%(default)s)")
    return parser


def _run(args: argparse.Namespace) -> None:
    cv2.setNumThreads(1)
    bundle = Bundle.open(args.bundle)
    screener = Screener(bundle, load_engines(args, bundle, threads=1))
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        files = _write_files(folder, bundle, args.side_px, args.files)
        logs = {name: _open(folder, screener, every) for name, every in ((EVERY, 1), (TENTH, 10))}
        screened = measure(
            [
                Implementation(name=WITHOUT, run=lambda _: _screen(screener, files, None)),
                *(Implementation(name=name, run=_screening(screener, files, log)) for name, log in logs.items()),
            ],
            rounds=args.rounds,
            warmup=args.warmup,
        )
        result = screener.screen_file(files[0])
        lines = measure(
            [Implementation(name=name, run=_adding(result, log)) for name, log in logs.items()],
            rounds=args.rounds,
            warmup=args.warmup,
        )
        line: dict[str, float] = {"bytes of a line": _bytes_of_a_line(folder, screener, result)}
        line["processor ms of a line"] = _processor_ms(result, logs[TENTH])
        for log in logs.values():
            log.close()
        count = verify(folder / "log-1").lines
        verified = measure(
            [Implementation(name="verify", run=lambda _: verify(folder / "log-1"))],
            rounds=args.rounds,
            warmup=args.warmup,
        )
    tables = [
        latency_table(f"{args.files} JPEG files, time per image", screened, baseline=WITHOUT, per_run=args.files),
        latency_table("one line alone", lines, baseline=EVERY, per_run=_LINES),
        latency_table(f"verification of a log of {count} lines", verified, baseline="verify"),
    ]
    _publish(args, bundle, tables, line)


def _write_files(folder: Path, bundle: Bundle, side_px: int, count: int) -> list[Path]:
    images = [decode(bundle.file(answer.file)).pixels for answer in bundle.manifest.known_answers[:8]]
    contents = [jpeg_bytes(enlarge(image, side_px)) for image in images]
    files = [folder / f"{i:06}.jpg" for i in range(count)]
    for i, file in enumerate(files):
        file.write_bytes(contents[i % len(contents)])
    return files


def _open(folder: Path, screener: Screener, sync_every: int) -> EvidenceLog:
    return EvidenceLog(folder / f"log-{sync_every}", screener, settings=WriterSettings(sync_every=sync_every))


def _screening(screener: Screener, files: Sequence[Path], log: EvidenceLog) -> Any:
    return lambda _: _screen(screener, files, log)


def _screen(screener: Screener, files: Sequence[Path], log: EvidenceLog | None) -> None:
    for file in files:
        result = screener.screen_file(file)
        if log is not None:
            log.add(result)


def _adding(result: FileResult, log: EvidenceLog) -> Any:
    def add(_: int) -> None:
        for _line in range(_LINES):
            log.add(result)

    return add


def _processor_ms(result: FileResult, log: EvidenceLog) -> float:
    """Return the processor time of a line, without the waits."""
    begin = process_time()
    _adding(result, log)(0)
    return round(1e3 * (process_time() - begin) / _LINES, 3)


def _bytes_of_a_line(folder: Path, screener: Screener, result: FileResult) -> int:
    with EvidenceLog(folder / "one", screener) as log:
        log.add(result)
    (file,) = (folder / "one").glob("*.jsonl")
    return max(len(line) for line in file.read_bytes().splitlines() if b'"kind":"screening"' in line)


def _publish(args: argparse.Namespace, bundle: Bundle, tables: list[Table], line: dict[str, float]) -> None:
    publish(
        name=BENCHMARK.name,
        question="What does the evidence log cost?",
        interval="files in the page cache to screenings, each in the log; engines and log opened before",
        settings={
            "bundle": f"{bundle.manifest.name} {bundle.manifest.version}",
            "files per run": args.files,
            "side px": args.side_px,
            "workers": 1,
            "rounds": args.rounds,
            **line,
        },
        tables=tables,
        targets=[],
        notes=(
            "Percentiles are of each round's mean time per image or line, not of single ones.",
            "A line's wait for the disk depends on the disk, and on what else writes to it.",
        ),
        out=args.out,
    )


if __name__ == "__main__":
    sys.exit(main())
