"""Does a folder use both cores, and does memory stay flat over many images?

    cxr-edge build-engine starter && python -m benchmarks.throughput

First the screener on the same files with one worker and with several, in one process, engines with one thread each.
Then the command itself on folders of more and more small files (links to a few pictures), each time in a process of its
own, whose peak memory the system reports.
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
COUNTS = (200, 2000)  # and --images
ONE = "1 worker, 1 thread"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write JSON; 3 if the bundle or its engines cannot be used."""
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
    parser.add_argument("--files", type=at_least_one, default=32, metavar="N", help="files a run (%(default)s)")
    parser.add_argument("--side-px", type=at_least_one, default=2048, metavar="N", help="of these files (%(default)s)")
    parser.add_argument(
        "--images", type=at_least_one, default=10_000, metavar="N", help="largest folder for memory (%(default)s)"
    )
    return parser


def _measure(args: argparse.Namespace, bundle: Bundle, folder: Path) -> None:
    pictures = _pictures(bundle)
    found = _workers(args, bundle, _written(folder / "large", pictures, args.side_px, args.files))
    per_second: dict[str, Cell] = {m.implementation.name: 1e3 * args.files / m.p50_ms for m in found}
    speed = latency_table(
        f"{args.files} JPEG files of {args.side_px}x{args.side_px}, time an image",
        found,
        baseline=ONE,
        per_run=args.files,
        extra={"images/s": per_second},
    )
    counts = sorted({*(c for c in COUNTS if c < args.images), args.images})
    memory = _memory(args, pictures, counts, folder / "small")
    first, last = memory.rows[0][1], memory.rows[-1][1]
    assert isinstance(first, float)
    assert isinstance(last, float)
    publish(
        name=BENCHMARK.name,
        question="How does screening of a folder scale with workers, and with the number of files?",
        interval="workers: files on disk (in the page cache) to screenings, engines loaded before; memory: the whole "
        "command, process start and loading included",
        settings={"bundle": f"{bundle.manifest.name} {bundle.manifest.version}", "workers": args.threads,
                  "rounds": args.rounds, "warm-up": args.warmup, "files a run": args.files},
        tables=[speed, memory],
        targets=[
            Target(text=f"times the images a second, {args.threads} workers against 1", wanted=1.8, at_least=True,
                   measured=found[0].ratio_to(found[1]) if args.threads > 1 else None),
            Target(text=f"peak memory with {counts[-1]} images over that with {counts[0]}", wanted=1.1, at_least=False,
                   measured=last / first),
        ],
        notes=("A table's percentiles are of the rounds' means an image, not of single images.",),
        out=args.out,
    )  # fmt: skip


def _pictures(bundle: Bundle) -> list[GrayPixels]:
    answers = bundle.manifest.known_answers
    if not answers:
        raise BundleError(f"the bundle {bundle.manifest.name} has no known-answer images: take one that has")
    return [decode(bundle.file(a.file)).pixels for a in answers[:8]]


def _written(folder: Path, pictures: Sequence[GrayPixels], side_px: int, count: int) -> list[Path]:
    """`count` JPEG files of side_px x side_px in `folder`, of which as many differ as there are pictures."""
    folder.mkdir()
    files: list[Path] = []
    for i in range(count):
        file = folder / f"{i:06}.jpg"
        if i < len(pictures):
            file.write_bytes(jpeg_bytes(enlarge(pictures[i], side_px)))
        else:
            os.link(files[i % len(pictures)], file)
        files.append(file)
    return files


def _workers(args: argparse.Namespace, bundle: Bundle, files: Sequence[Path]) -> list[Measured]:
    cv2.setNumThreads(1)
    alone = Screener(bundle, load_engines(args, bundle, threads=1))
    wide = Screener(bundle, load_engines(args, bundle, threads=args.threads), threads=args.threads)
    n = args.threads
    entrants = [Implementation(name=ONE, run=lambda _: _screened(alone, files, 1))]
    if n > 1:
        entrants += [
            Implementation(name=f"{n} workers, 1 thread each", run=lambda _: _screened(alone, files, n)),
            Implementation(name=f"1 worker, {n} threads", run=lambda _: _screened(wide, files, 1)),
        ]
    return measure(entrants, rounds=args.rounds, warmup=args.warmup)


def _screened(screener: Screener, files: Sequence[Path], workers: int) -> Any:
    failures = [a.outcome for a in screen_files(screener, files, workers=workers) if isinstance(a.outcome, Failure)]
    if failures:
        raise RuntimeError(f"{len(failures)} files were not answered, the first because: {failures[0].reason}")
    return len(files)


def _memory(args: argparse.Namespace, pictures: Sequence[GrayPixels], counts: Sequence[int], folder: Path) -> Table:
    folder.mkdir()
    rows: list[tuple[Cell, ...]] = []
    for count in counts:
        print(f"cxr-edge screen on {count} files ...", file=sys.stderr)
        inside = folder / str(count)
        _written(inside, pictures, SMALL_PX, count)
        used = command.run_measured([*command.screen_command(args, inside), "--json"])
        rows.append((count, used.peak_mib, used.seconds, count / used.seconds))
    return Table(
        title=f"`cxr-edge screen FOLDER --json`, JPEG files of {SMALL_PX}x{SMALL_PX}",
        columns=("images", "peak memory MiB", "seconds", "images/s"),
        rows=tuple(rows),
    )


if __name__ == "__main__":
    sys.exit(main())
