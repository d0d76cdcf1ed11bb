"""Throughput of a folder with one and with several workers, and peak memory over the number of files.

    cxr-edge build-engine starter && python -m benchmarks.throughput

First the screener on the same files with one worker and with several, in one process, engines with one thread each. Then
the command itself on folders with more and more small files (links to a few images), each time in a new process, whose
peak memory the operating system reports.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2

from benchmarks.harness import command
from benchmarks.harness.images import enlarge, jpeg_bytes
from benchmarks.harness.report import Target, publish
from benchmarks.harness.script import Benchmark, add_out, add_rounds, exit_status, make_parser
from benchmarks.harness.side_by_side import Cell, Implementation, Measured, Table, latency_table, measure
from cxr_edge.bundle import Bundle
from cxr_edge.cli.arguments import add_bundle, add_engines, at_least_one, load_engines
from cxr_edge.decoding.decode import decode
from cxr_edge.errors import BundleError, CxrEdgeError
from cxr_edge.records import Failure, GrayPixels
from cxr_edge.screening.folder import screen_files
from cxr_edge.screening.screener import Screener

__all__ = ["BENCHMARK", "main"]

BENCHMARK = Benchmark(name="throughput", position=90)

SMALL_PX = 320
COUNTS = (200, 2000)  # of files, in addition to --images
ONE = "1 worker, 1 thread"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write JSON. Return 3 if the bundle or its engines cannot be used."""
    args = _parser().parse_args(argv)
    return exit_status(BENCHMARK.name, lambda: _run(args), errors=(CxrEdgeError, RuntimeError))


def _run(args: argparse.Namespace) -> None:
    bundle = Bundle.open(args.bundle)
    with tempfile.TemporaryDirectory() as folder:
        _measure(args, bundle, Path(folder))


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(BENCHMARK, __doc__)
    add_rounds(parser, rounds=10, warmup=1)
    add_out(parser, BENCHMARK.name)
    add_bundle(parser)
    add_engines(parser)
    parser.add_argument("--files", type=at_least_one, default=32, metavar="N", help="files per run (%(default)s)")
    parser.add_argument("--side-px", type=at_least_one, default=2048, metavar="N", help="of these files (%(default)s)")
    parser.add_argument(
        "--images", type=at_least_one, default=10_000, metavar="N", help="largest folder for memory (%(default)s)"
    )
    return parser


def _measure(args: argparse.Namespace, bundle: Bundle, folder: Path) -> None:
    images = _known_images(bundle)
    measured = _measure_workers(args, bundle, _write_files(folder / "large", images, args.side_px, args.files))
    per_second: dict[str, Cell] = {m.implementation.name: 1e3 * args.files / m.p50_ms for m in measured}
    speed = latency_table(
        f"{args.files} JPEG files of {args.side_px}x{args.side_px}, time per image",
        measured,
        baseline=ONE,
        per_run=args.files,
        extra={"images/s": per_second},
    )
    counts = sorted({*(c for c in COUNTS if c < args.images), args.images})
    memory = _measure_memory(args, images, counts, folder / "small")
    first, last = memory.rows[0][1], memory.rows[-1][1]
    assert isinstance(first, float)
    assert isinstance(last, float)
    publish(
        name=BENCHMARK.name,
        question="How does screening of a folder scale with workers, and with the number of files?",
        interval="workers: files on disk (in the page cache) to screenings, engines loaded before; memory: the whole "
        "command, process start and loading included",
        settings={"bundle": f"{bundle.manifest.name} {bundle.manifest.version}", "workers": args.threads,
                  "rounds": args.rounds, "warm-up": args.warmup, "files per run": args.files},
        tables=[speed, memory],
        targets=[
            Target(text=f"times the images per second, {args.threads} workers over 1", required=1.8, at_least=True,
                   measured=measured[0].ratio_to(measured[1]) if args.threads > 1 else None),
            Target(text=f"peak memory with {counts[-1]} images over that with {counts[0]}", required=1.1, at_least=False,
                   measured=last / first),
        ],
        notes=("Percentiles are of each round's mean time per image, not of single images.",),
        out=args.out,
    )  # fmt: skip


def _known_images(bundle: Bundle) -> list[GrayPixels]:
    answers = bundle.manifest.known_answers
    if not answers:
        raise BundleError(f"the bundle {bundle.manifest.name} has no known-answer images: use a bundle that has some")
    return [decode(bundle.file(a.file)).pixels for a in answers[:8]]


def _write_files(folder: Path, images: Sequence[GrayPixels], side_px: int, count: int) -> list[Path]:
    """Write `count` JPEG files of side_px x side_px to `folder`: one per image, the others as links to these."""
    folder.mkdir()
    files: list[Path] = []
    for i in range(count):
        file = folder / f"{i:06}.jpg"
        if i < len(images):
            file.write_bytes(jpeg_bytes(enlarge(images[i], side_px)))
        else:
            os.link(files[i % len(images)], file)
        files.append(file)
    return files


def _measure_workers(args: argparse.Namespace, bundle: Bundle, files: Sequence[Path]) -> list[Measured]:
    cv2.setNumThreads(1)
    one_thread = Screener(bundle, load_engines(args, bundle, threads=1))
    all_threads = Screener(bundle, load_engines(args, bundle, threads=args.threads), threads=args.threads)
    n = args.threads
    implementations = [Implementation(name=ONE, run=lambda _: _screen_all(one_thread, files, 1))]
    if n > 1:
        implementations += [
            Implementation(name=f"{n} workers, 1 thread each", run=lambda _: _screen_all(one_thread, files, n)),
            Implementation(name=f"1 worker, {n} threads", run=lambda _: _screen_all(all_threads, files, 1)),
        ]
    return measure(implementations, rounds=args.rounds, warmup=args.warmup)


def _screen_all(screener: Screener, files: Sequence[Path], workers: int) -> Any:
    failures = [a.outcome for a in screen_files(screener, files, workers=workers) if isinstance(a.outcome, Failure)]
    if failures:
        raise RuntimeError(f"{len(failures)} files failed, the first because: {failures[0].reason}")
    return len(files)


def _measure_memory(
    args: argparse.Namespace, images: Sequence[GrayPixels], counts: Sequence[int], folder: Path
) -> Table:
    folder.mkdir()
    rows: list[tuple[Cell, ...]] = []
    for count in counts:
        print(f"cxr-edge screen on {count} files ...", file=sys.stderr)
        subfolder = folder / str(count)
        _write_files(subfolder, images, SMALL_PX, count)
        usage = command.run_measured([*command.screen_command(args, subfolder), "--json"])
        rows.append((count, usage.peak_mib, usage.seconds, count / usage.seconds))
    return Table(
        title=f"`cxr-edge screen FOLDER --json`, JPEG files of {SMALL_PX}x{SMALL_PX}",
        columns=("images", "peak memory MiB", "seconds", "images/s"),
        rows=tuple(rows),
    )


if __name__ == "__main__":
    sys.exit(main())
