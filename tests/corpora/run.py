"""Compare decoded pixels with independent decoders: `python -m tests.corpora.run FOLDER [--json FILE] [--jobs J]`.

In: any folder of files. Out: a line for each file that differs, or that one side refuses and the other answers, and a table
by format; exit status 1 for a pixel difference, an exception other than InputError, or a crash. It exists so that anyone can
try their own files. Each file is decoded in a process of its own, under limits of memory and time.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import multiprocessing
import os
import re
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import cv2
import numpy as np

from cxr_edge.decoding.decode import decode_bytes
from cxr_edge.decoding.limits import Limits
from cxr_edge.errors import InputError
from cxr_edge.records import Image
from tests.corpora.reference import Reference, decode_reference

# Largest difference allowed, on a scale of 0..1. Lossless: rounding to the output's type, twice (gray, then alpha), and one
# stored step where a table's index is rounded. Lossy: inverse transforms and chroma upsampling may differ between decoders by
# a few of 255 steps (T.83 allows one before colour conversion; fancy upsampling at edges more); the mean stays below one.
ROUNDING_STEPS = 1.01
LOSSY_STEPS, LOSSY_MEAN_STEPS = 12, 1

EQUAL, DIFFER, BOTH_REFUSE = "equal", "differ", "both refuse"
ONLY_REFUSED_HERE, ONLY_ANSWERED_HERE, FAULT = "refused here only", "answered here only", "error or crash here"
OUTCOMES = (EQUAL, DIFFER, BOTH_REFUSE, ONLY_REFUSED_HERE, ONLY_ANSWERED_HERE, FAULT)
_FORK = multiprocessing.get_context("fork")
_MAGICS = (
    (b"\xff\xd8", "jpeg"),
    (b"\x89PNG", "png"),
    (b"II", "tiff"),
    (b"MM", "tiff"),
    (b"RIFF", "webp"),
    (b"BM", "bmp"),
)
_MODALITY = re.compile(rb"((?:\x08\0\x60\0CS\x02\0)|(?:\x08\0\x60\0\x02\0\0\0)|(?:\0\x08\0\x60CS\0\x02))([A-Z]{2})")


@dataclass(frozen=True, kw_only=True)
class Row:
    """What became of one file. detail: the difference, or who refuses with which words."""

    path: str
    format: str
    outcome: str
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Limits for one file, and whether any modality is read as an X-ray."""

    seconds: int = 120
    memory_mb: int = 6000
    any_modality: bool = False


@dataclass(frozen=True, kw_only=True)
class _Worker:
    path: Path
    process: BaseProcess
    pipe: Connection
    started: float
    reports: list[str]


def main(arguments: list[str] | None = None) -> int:
    """Compare all files below a folder; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.corpora.run", description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", type=Path, help="also write all rows to this file")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="files at a time")
    parser.add_argument("--seconds", type=int, default=120, help="limit of waiting per file (default 120)")
    parser.add_argument("--memory-mb", type=int, default=6000, help="limit of memory per file (default 6000)")
    parser.add_argument(
        "--any-modality", action="store_true", help="read CT, MR and others as DX, to compare their pixels"
    )
    options = parser.parse_args(arguments)
    if not options.folder.is_dir():
        parser.error(f"expected a folder of files, {options.folder} is none")
    limits = Options(seconds=options.seconds, memory_mb=options.memory_mb, any_modality=options.any_modality)
    rows = sorted(compare_all(files_below(options.folder), limits, jobs=options.jobs), key=lambda row: row.path)
    print_report(rows)
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    return 1 if any(row.outcome in (DIFFER, FAULT) for row in rows) else 0


def files_below(folder: Path) -> Iterator[Path]:
    """All regular files, in order of their names."""
    for root, folders, names in os.walk(folder):
        folders.sort()
        yield from (path for path in (Path(root, name) for name in sorted(names)) if path.is_file())


def compare_all(paths: Iterator[Path], options: Options, *, jobs: int) -> Iterator[Row]:
    """One row per file, in order of completion."""
    workers: list[_Worker] = []
    while True:
        while len(workers) < jobs and (path := next(paths, None)) is not None:
            workers.append(_start(path, options))
        if not workers:
            return
        wait([worker.pipe for worker in workers], timeout=1)
        for worker in list(workers):
            if (row := _collect(worker, options)) is not None:
                workers.remove(worker)
                yield row


def _start(path: Path, options: Options) -> _Worker:
    here, there = _FORK.Pipe(duplex=False)
    process = _FORK.Process(target=_work, args=(path, options, there))
    process.start()
    there.close()
    return _Worker(path=path, process=process, pipe=here, started=time.monotonic(), reports=[])


def _collect(worker: _Worker, options: Options) -> Row | None:
    """The row of a worker that has ended; None while it runs. It sends a report after cxr_edge, then its row."""
    if time.monotonic() - worker.started > options.seconds:
        worker.process.kill()
    try:
        while worker.pipe.poll():
            message = worker.pipe.recv()
            if isinstance(message, Row):
                worker.process.join()
                return message
            worker.reports.append(message)
    except EOFError:
        worker.process.join()
        return _row_of_the_dead(worker, options)
    return None


def _row_of_the_dead(worker: _Worker, options: Options) -> Row:
    code = worker.process.exitcode or 0
    words = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
    if code == -signal.SIGKILL:
        words = f"no end after {options.seconds} s, or killed"
    kind = format_of(worker.path.read_bytes()[:256])
    if not worker.reports:
        return Row(path=str(worker.path), format=kind, outcome=FAULT, detail=f"cxr_edge {words}")
    outcome = ONLY_ANSWERED_HERE if worker.reports[0] == "answered" else BOTH_REFUSE
    return Row(path=str(worker.path), format=kind, outcome=outcome, detail=f"the reference {words}")


def _work(path: Path, options: Options, pipe: Connection) -> None:
    faulthandler.disable()  # what a crash means is told by the row
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    resource.setrlimit(resource.RLIMIT_AS, (options.memory_mb << 20,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pipe.send(compare(path, options, pipe))


def compare(path: Path, options: Options, pipe: Connection) -> Row:
    """Decode with both, and compare. Sends how cxr_edge ended before the reference starts."""
    data = path.read_bytes()
    if options.any_modality:
        data = _MODALITY.sub(rb"\1DX", data, count=1)
    image, error_message = _decode_here(data)
    if error_message is not None and not isinstance(error_message, InputError):
        detail = f"{type(error_message).__name__}: {error_message}"
        return Row(path=str(path), format=format_of(data), outcome=FAULT, detail=detail)
    pipe.send("refused" if image is None else "answered")
    try:
        reference = decode_reference(data, stored_bits=None if image is None else image.stored_bits)
    except Exception as error:
        outcome = BOTH_REFUSE if image is None else ONLY_ANSWERED_HERE
        detail = f"cxr_edge: {error_message}" if image is None else f"the reference: {type(error).__name__}: {error}"
        return Row(path=str(path), format=format_of(data), outcome=outcome, detail=detail[:400])
    if image is None:
        return Row(path=str(path), format=format_of(data), outcome=ONLY_REFUSED_HERE, detail=str(error_message))
    difference = describe_difference(image, reference)
    return Row(path=str(path), format=format_of(data), outcome=DIFFER if difference else EQUAL, detail=difference or "")


def _decode_here(data: bytes) -> tuple[Image | None, Exception | None]:
    try:
        return decode_bytes(data, source="file", limits=Limits(min_side_px=1)), None
    except Exception as error:
        return None, error


def describe_difference(image: Image, reference: Reference) -> str | None:
    """None if the pixels are equal within the tolerance, else what differs."""
    if image.pixels.shape != reference.pixels.shape:
        return f"shape {image.pixels.shape}, the reference has {reference.pixels.shape}"
    top = float(np.iinfo(image.pixels.dtype).max)
    off = np.abs(image.pixels / top - reference.pixels)
    largest, mean, step = float(off.max()), float(off.mean()), 1 / min(top, reference.steps)
    if reference.lossy:
        step = max(step, 1 / 255)
        if largest <= LOSSY_STEPS * step and mean <= LOSSY_MEAN_STEPS * step:
            return None
    elif largest <= ROUNDING_STEPS * step:
        return None
    flags = ", ".join(flag.code for flag in image.flags) or "none"
    return f"off by {largest:.5f}, mean {mean:.6f}, {np.mean(off > step):.1%} of the pixels; flags: {flags}"


def format_of(data: bytes) -> str:
    """By the first bytes; `other` for what neither side reads."""
    if data[128:132] == b"DICM" or data[:4] in (b"\x08\0\x05\0", b"\x08\0\x08\0", b"\x08\0\x16\0", b"\x02\0\0\0"):
        return "dicom"
    return next((name for magic, name in _MAGICS if data.startswith(magic)), "other")


def print_report(rows: list[Row]) -> None:
    """Lines for what is not equal or refused by both; reasons of refusals; the table."""
    for row in rows:
        if row.outcome in (DIFFER, ONLY_ANSWERED_HERE, FAULT):
            print(f"{row.outcome}: {row.path}: {row.detail}")
    for outcome in (ONLY_REFUSED_HERE, BOTH_REFUSE):
        reasons = Counter((row.format, _reason(row.detail)) for row in rows if row.outcome == outcome)
        print(f"\n{outcome}: {sum(reasons.values())}")
        for (kind, reason), number in reasons.most_common():
            print(f"{number:6} {kind}: {reason}")
    print("\n| format | files | " + " | ".join(OUTCOMES) + " |\n|---|---|" + "---|" * len(OUTCOMES))
    for kind in sorted({row.format for row in rows}):
        counts = Counter(row.outcome for row in rows if row.format == kind)
        cells = " | ".join(str(counts[outcome]) for outcome in OUTCOMES)
        print(f"| {kind} | {sum(counts.values())} | {cells} |")


def _reason(detail: str) -> str:
    """A error_message without its numbers and its advice, so that equal reasons are counted together."""
    return re.sub(r"\d[\d,.x]*", "N", detail.removeprefix("cxr_edge: ").removeprefix("file: "))[:160]


if __name__ == "__main__":
    cv2.setNumThreads(0)  # before any fork: threads do not survive it
    sys.exit(main())
