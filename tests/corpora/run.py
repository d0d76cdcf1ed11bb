"""Compare decoded pixels with independent decoders: `python -m tests.corpora.run FOLDER [--json FILE] [--jobs J]`.

Input: any folder of files. Output: a line for each file with different pixels, or that only one of the two decoders rejects, and
a table by format; exit status 1 for a pixel difference, an exception other than InputError, or a crash. It exists so that users
can test their own files. Each file is decoded in a separate process, with limits of memory and time.
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
# stored step if the index of a table is rounded. Lossy: inverse transforms and chroma upsampling may differ between decoders by
# a few of 255 steps (T.83 allows one before colour conversion; fancy upsampling at edges more); the mean stays below one.
ROUNDING_STEPS = 1.01
LOSSY_STEPS, LOSSY_MEAN_STEPS = 12, 1

EQUAL, DIFFERENT, BOTH_REJECT = "equal", "different", "both reject"
ONLY_CXR_EDGE_REJECTS, ONLY_REFERENCE_REJECTS = "only cxr_edge rejects", "only the reference rejects"
CXR_EDGE_ERROR = "error or crash of cxr_edge"
STATUSES = (EQUAL, DIFFERENT, BOTH_REJECT, ONLY_CXR_EDGE_REJECTS, ONLY_REFERENCE_REJECTS, CXR_EDGE_ERROR)
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
    """Result of comparing one file."""

    path: str
    format: str
    status: str
    detail: str = ""  # the difference or the error message


@dataclass(frozen=True, kw_only=True)
class Options:
    """Limits for one file."""

    seconds: int = 120  # wall-clock time
    memory_mb: int = 6000
    any_modality: bool = False  # read DICOM files of any modality as X-rays


@dataclass(frozen=True, kw_only=True)
class _Worker:
    path: Path
    process: BaseProcess
    pipe: Connection
    started: float
    reports: list[str]


def main(arguments: list[str] | None = None) -> int:
    """Compare all files below a folder; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.corpora.run", description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", type=Path, help="also write all rows to this file")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="files at a time")
    parser.add_argument("--seconds", type=int, default=120, help="time limit per file (default 120)")
    parser.add_argument("--memory-mb", type=int, default=6000, help="memory limit per file (default 6000)")
    parser.add_argument(
        "--any-modality", action="store_true", help="read CT, MR and others as DX, to compare their pixels"
    )
    options = parser.parse_args(arguments)
    if not options.folder.is_dir():
        parser.error(f"expected a folder of files, {options.folder} is not one")
    limits = Options(seconds=options.seconds, memory_mb=options.memory_mb, any_modality=options.any_modality)
    rows = sorted(compare_all(files_below(options.folder), limits, jobs=options.jobs), key=lambda row: row.path)
    print_report(rows)
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    return 1 if any(row.status in (DIFFERENT, CXR_EDGE_ERROR) for row in rows) else 0


def files_below(folder: Path) -> Iterator[Path]:
    """Yield all regular files, sorted by name."""
    for root, folders, names in os.walk(folder):
        folders.sort()
        yield from (path for path in (Path(root, name) for name in sorted(names)) if path.is_file())


def compare_all(paths: Iterator[Path], options: Options, *, jobs: int) -> Iterator[Row]:
    """Yield one row per file, in order of completion."""
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
    receiver, sender = _FORK.Pipe(duplex=False)
    process = _FORK.Process(target=_work, args=(path, options, sender))
    process.start()
    sender.close()
    return _Worker(path=path, process=process, pipe=receiver, started=time.monotonic(), reports=[])


def _collect(worker: _Worker, options: Options) -> Row | None:
    """Return the row of a worker that has ended, None while it runs. A worker sends a report after cxr_edge, then its row."""
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
        return _row_of_a_crash(worker, options)
    return None


def _row_of_a_crash(worker: _Worker, options: Options) -> Row:
    code = worker.process.exitcode or 0
    reason = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
    if code == -signal.SIGKILL:
        reason = f"still running after {options.seconds} s, or killed"
    kind = format_of(worker.path.read_bytes()[:256])
    if not worker.reports:
        return Row(path=str(worker.path), format=kind, status=CXR_EDGE_ERROR, detail=f"cxr_edge {reason}")
    status = ONLY_REFERENCE_REJECTS if worker.reports[0] == "decoded" else BOTH_REJECT
    return Row(path=str(worker.path), format=kind, status=status, detail=f"the reference {reason}")


def _work(path: Path, options: Options, pipe: Connection) -> None:
    faulthandler.disable()  # the row reports a crash
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    resource.setrlimit(resource.RLIMIT_AS, (options.memory_mb << 20,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pipe.send(compare(path, options, pipe))


def compare(path: Path, options: Options, pipe: Connection) -> Row:
    """Decode with both and compare; send the result of cxr_edge before the reference starts."""
    data = path.read_bytes()
    if options.any_modality:
        data = _MODALITY.sub(rb"\1DX", data, count=1)
    image, error = _decode(data)
    if error is not None and not isinstance(error, InputError):
        detail = f"{type(error).__name__}: {error}"
        return Row(path=str(path), format=format_of(data), status=CXR_EDGE_ERROR, detail=detail)
    pipe.send("rejected" if image is None else "decoded")
    try:
        reference = decode_reference(data, stored_bits=None if image is None else image.stored_bits)
    except Exception as reference_error:
        status = BOTH_REJECT if image is None else ONLY_REFERENCE_REJECTS
        detail = f"cxr_edge: {error}" if image is None else _describe(reference_error)
        return Row(path=str(path), format=format_of(data), status=status, detail=detail[:400])
    if image is None:
        return Row(path=str(path), format=format_of(data), status=ONLY_CXR_EDGE_REJECTS, detail=str(error))
    difference = describe_difference(image, reference)
    return Row(
        path=str(path), format=format_of(data), status=DIFFERENT if difference else EQUAL, detail=difference or ""
    )


def _describe(error: Exception) -> str:
    return f"the reference: {type(error).__name__}: {error}"


def _decode(data: bytes) -> tuple[Image | None, Exception | None]:
    try:
        return decode_bytes(data, source="file", limits=Limits(min_side_px=1)), None
    except Exception as error:
        return None, error


def describe_difference(image: Image, reference: Reference) -> str | None:
    """Return a description of the difference, None if the pixels are equal within the tolerance."""
    if image.pixels.shape != reference.pixels.shape:
        return f"shape {image.pixels.shape}, the reference has {reference.pixels.shape}"
    top = float(np.iinfo(image.pixels.dtype).max)
    difference = np.abs(image.pixels / top - reference.pixels)
    largest, mean, step = float(difference.max()), float(difference.mean()), 1 / min(top, reference.steps)
    if reference.lossy:
        step = max(step, 1 / 255)
        if largest <= LOSSY_STEPS * step and mean <= LOSSY_MEAN_STEPS * step:
            return None
    elif largest <= ROUNDING_STEPS * step:
        return None
    flags = ", ".join(flag.code for flag in image.flags) or "none"
    return f"off by {largest:.5f}, mean {mean:.6f}, {np.mean(difference > step):.1%} of the pixels; flags: {flags}"


def format_of(data: bytes) -> str:
    """Return the format by the first bytes, `other` if neither decoder supports it."""
    if data[128:132] == b"DICM" or data[:4] in (b"\x08\0\x05\0", b"\x08\0\x08\0", b"\x08\0\x16\0", b"\x02\0\0\0"):
        return "dicom"
    return next((name for magic, name in _MAGICS if data.startswith(magic)), "other")


def print_report(rows: list[Row]) -> None:
    """Print a line per difference, the reasons of rejection with counts, and the table."""
    for row in rows:
        if row.status in (DIFFERENT, ONLY_REFERENCE_REJECTS, CXR_EDGE_ERROR):
            print(f"{row.status}: {row.path}: {row.detail}")
    for status in (ONLY_CXR_EDGE_REJECTS, BOTH_REJECT):
        reasons = Counter((row.format, _reason(row.detail)) for row in rows if row.status == status)
        print(f"\n{status}: {sum(reasons.values())}")
        for (kind, reason), number in reasons.most_common():
            print(f"{number:6} {kind}: {reason}")
    print("\n| format | files | " + " | ".join(STATUSES) + " |\n|---|---|" + "---|" * len(STATUSES))
    for kind in sorted({row.format for row in rows}):
        counts = Counter(row.status for row in rows if row.format == kind)
        cells = " | ".join(str(counts[status]) for status in STATUSES)
        print(f"| {kind} | {sum(counts.values())} | {cells} |")


def _reason(detail: str) -> str:
    """Return an error message without numbers and advice, so that equal reasons are counted together."""
    return re.sub(r"\d[\d,.x]*", "N", detail.removeprefix("cxr_edge: ").removeprefix("file: "))[:160]


if __name__ == "__main__":
    cv2.setNumThreads(0)  # before any fork: threads do not survive a fork
    sys.exit(main())
