"""Parent process of the fuzzer: seeds and a number of inputs or seconds in, a `Report` of findings and rates per format out.

It runs batches in worker processes, identifies the input at which a worker died, and continues after it.
"""

from __future__ import annotations

import mmap
import multiprocessing
import re
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import IO

from tests.fuzz.mutate import Source
from tests.fuzz.worker import PROGRESS, Batch, Budget, Finding, redirect_output, run_batch

BATCH = 500
# Shares of the inputs: formats with more branches get more of them.
SHARES = {"dicom": 6, "tiff": 5, "png": 4, "jpeg": 3, "webp": 2, "bmp": 1}
_FORK = multiprocessing.get_context("fork")  # a batch starts in milliseconds, with all libraries imported
_FRAME = re.compile(r'File "[^"]*?([^/"]+)", line (\d+) in (\w+)')


@dataclass(kw_only=True)
class Tally:
    """Counts of one format."""

    inputs: int = 0
    images: int = 0
    seconds: float = 0.0  # sum over its workers
    output: str = ""  # first line that a library printed


@dataclass(frozen=True, kw_only=True)
class Report:
    """Findings, and counts by format."""

    findings: list[Finding] = field(default_factory=list)
    tallies: dict[str, Tally] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class _Worker:
    batch: Batch
    process: BaseProcess
    pipe: Connection
    progress: mmap.mmap
    output: IO[bytes]
    started: float


def batches_of(inputs: int, *, seed: int, formats: tuple[str, ...]) -> Iterator[Batch]:
    """Yield batches that divide a number of inputs among formats by their shares."""
    total = sum(SHARES[name] for name in formats)
    for name in formats:
        number = -(-inputs * SHARES[name] // total)
        for start in range(0, number, BATCH):
            yield Batch(seed=seed, format=name, start=start, stop=min(start + BATCH, number))


def batches_for(seconds: float, *, seed: int, formats: tuple[str, ...]) -> Iterator[Batch]:
    """Yield batches of all formats in turn until the time is over."""
    end = time.monotonic() + seconds
    for turn in count():
        for name in formats:
            for share in range(SHARES[name]):
                if time.monotonic() >= end:
                    return
                start = (turn * SHARES[name] + share) * BATCH
                yield Batch(seed=seed, format=name, start=start, stop=start + BATCH)


def run(batches: Iterator[Batch], sources: dict[str, tuple[Source, ...]], budget: Budget, *, jobs: int) -> Report:
    """Run all batches, `jobs` at a time."""
    report = Report()
    rest: list[Batch] = []
    workers: list[_Worker] = []
    while True:
        while len(workers) < jobs and (batch := rest.pop() if rest else next(batches, None)) is not None:
            workers.append(_start(batch, sources[batch.format], budget))
        if not workers:
            return report
        wait([worker.pipe for worker in workers], timeout=1)
        for worker in list(workers):
            if (left := _collect(worker, report, budget)) is not None:
                workers.remove(worker)
                rest += [left] if left.start < left.stop else []


def _start(batch: Batch, sources: tuple[Source, ...], budget: Budget) -> _Worker:
    receiver, sender = _FORK.Pipe(duplex=False)
    progress = mmap.mmap(-1, PROGRESS.size)
    output = tempfile.TemporaryFile()  # noqa: SIM115  closed when the worker has ended

    def work() -> None:
        receiver.close()
        redirect_output(output.fileno())
        run_batch(batch, sources, budget, progress, sender)

    PROGRESS.pack_into(progress, 0, batch.start, time.monotonic())
    process = _FORK.Process(target=work)
    process.start()
    sender.close()
    return _Worker(
        batch=batch, process=process, pipe=receiver, progress=progress, output=output, started=time.monotonic()
    )


def _collect(worker: _Worker, report: Report, budget: Budget) -> Batch | None:
    """Process one message of a worker, if there is one. Return the rest of its batch if it has ended, else None."""
    if not worker.pipe.poll():
        if _is_stuck(worker, budget):
            worker.process.kill()
        return None
    try:
        message = worker.pipe.recv()
    except EOFError:
        worker.process.join()
        index, _ = PROGRESS.unpack_from(worker.progress)
        report.findings.append(Finding(format=worker.batch.format, index=index, kind=_exit_reason(worker, budget)))
        return _finish(worker, report, index + 1, 0)
    if isinstance(message, Finding):
        report.findings.append(message)
        return None
    return _finish(worker, report, *message)


def _is_stuck(worker: _Worker, budget: Budget) -> bool:
    """Return whether the current input takes too long. Read twice, since the worker may be writing the 16 bytes."""
    first = PROGRESS.unpack_from(worker.progress)
    if time.monotonic() - first[1] <= budget.wall_seconds:
        return False
    time.sleep(0.05)
    return PROGRESS.unpack_from(worker.progress) == first


def _finish(worker: _Worker, report: Report, next_index: int, images: int) -> Batch:
    tally = report.tallies.setdefault(worker.batch.format, Tally())
    tally.inputs += next_index - worker.batch.start
    tally.images += images
    tally.seconds += time.monotonic() - worker.started
    worker.process.join()
    tally.output = tally.output or _output(worker).partition("\n")[0]
    worker.pipe.close()
    worker.output.close()
    worker.progress.close()
    batch = worker.batch
    return Batch(seed=batch.seed, format=batch.format, start=next_index, stop=batch.stop)


def _exit_reason(worker: _Worker, budget: Budget) -> str:
    """Return the reason why a worker ended, with the innermost Python frames that faulthandler printed."""
    code = worker.process.exitcode or 0
    frames = " < ".join(f"{file}:{line} {name}" for file, line, name in _FRAME.findall(_output(worker))[:3])
    if code == -signal.SIGPROF:
        return f"over {budget.seconds} s of processor time in {frames}"
    if code == -signal.SIGKILL:
        return f"killed, or still running after {budget.wall_seconds} s"
    return f"ended by {signal.Signals(-code).name if code < 0 else f'status {code}'} in {frames}"


def _output(worker: _Worker) -> str:
    worker.output.seek(0)
    return worker.output.read(1 << 16).decode(errors="replace").strip()
