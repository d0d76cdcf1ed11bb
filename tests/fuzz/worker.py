"""Worker process of the fuzzer: one batch of mutated inputs in, findings out through a pipe.

It exists because a decoder may abort the process, never return or use all memory: the worker stores the index of each input in
shared memory before decoding it, so that the parent can continue after that input.
"""

from __future__ import annotations

import faulthandler
import mmap
import os
import resource
import signal
import struct
import sys
import time
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from random import Random

import numpy as np

from cxr_edge.decoding.decode import decode_bytes
from cxr_edge.decoding.limits import MIN_SIDE_PX, Limits
from cxr_edge.errors import InputError
from tests.fuzz.mutate import Source, mutate

NAME = "fuzzed.bin"
PROGRESS = struct.Struct("<qd")  # index of the input in progress, and when it started (monotonic clock)
_AS_MARGIN = 3 << 30


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Limits of decoding one input."""

    max_pixels: int = 500_000
    memory: int = 128 << 20  # growth of the resident set, in bytes
    seconds: int = 5  # processor time

    @property
    def wall_seconds(self) -> int:
        """Limit of wall-clock time."""
        return 6 * self.seconds


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Inputs start..stop-1 of a format. Input i depends only on (seed, format, i)."""

    seed: int
    format: str
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True)
class Finding:
    """An input that gave neither an image nor an InputError within the limits."""

    format: str
    index: int
    kind: str  # description of the fault, equal for findings with the same cause


def make_input(sources: tuple[Source, ...], batch: Batch, index: int) -> bytes:
    """Return the mutated file of an index."""
    random = Random(f"{batch.seed} {batch.format} {index}")
    return mutate(random.choice(sources), sources, random)


def run_batch(batch: Batch, sources: tuple[Source, ...], budget: Budget, progress: mmap.mmap, pipe: Connection) -> None:
    """Decode each input of the batch; send findings, then the number of images. Runs in a new forked process."""
    _prepare()
    images = 0
    for index in range(batch.start, batch.stop):
        data = make_input(sources, batch, index)
        PROGRESS.pack_into(progress, 0, index, time.monotonic())
        signal.setitimer(signal.ITIMER_PROF, budget.seconds)
        before = _resident()
        kind, decoded = _decode(data, budget)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
        images += decoded
        if kind is None and peak - before > budget.memory:
            kind = f"memory above {budget.memory >> 20} MB"
        if kind is not None:
            pipe.send(Finding(format=batch.format, index=index, kind=kind))
        if peak - before > budget.memory:
            break  # the peak hides later ones: the parent starts a new process for the rest
    signal.setitimer(signal.ITIMER_PROF, 0)
    pipe.send((index + 1, images))


def _prepare() -> None:
    faulthandler.enable(2, all_threads=False)
    faulthandler.register(signal.SIGPROF, 2, all_threads=False, chain=True)  # then the default action, exit
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * mmap.PAGESIZE
    resource.setrlimit(resource.RLIMIT_AS, (size + _AS_MARGIN, size + _AS_MARGIN))


def _resident() -> int:
    with open("/proc/self/statm", "rb", buffering=0) as file:
        return int(file.read().split()[1]) * mmap.PAGESIZE


def _decode(data: bytes, budget: Budget) -> tuple[str | None, bool]:
    """Return (description of the fault or None, whether there was an image)."""
    try:
        image = decode_bytes(data, source=NAME, limits=Limits(max_pixels=budget.max_pixels))
    except InputError as error:
        return _message_fault(str(error)), False
    except BaseException as error:  # a finding, whatever its type
        return _describe(error), False
    pixels = image.pixels
    if pixels.dtype not in (np.uint8, np.uint16) or min(pixels.shape) < MIN_SIDE_PX or pixels.size > budget.max_pixels:
        return f"an image of {pixels.dtype} outside the limits of its size", True
    return None, True


def _message_fault(message: str) -> str | None:
    if not message.startswith(f"{NAME}: ") or len(message) > 1000:
        return f"a message without the file's name or too long: {message[:100]!r}"
    return None if message.isprintable() else f"a message with control characters: {message[:100]!r}"


def _describe(error: BaseException) -> str:
    """Return the type of an exception and its source lines: the innermost frame of cxr_edge and the innermost of all."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "cxr_edge" in frame.filename] or frames
    lines = dict.fromkeys(f"{os.path.basename(f.filename)}:{f.lineno} {f.name}" for f in (own[-1], frames[-1]))
    return f"{type(error).__name__} in {' > '.join(lines)}"


def redirect_output(fd: int) -> None:
    """Redirect the output of libraries to a file that the parent reads, so that it does not mix with the table."""
    sys.stdout.flush()
    os.dup2(fd, 1)
    os.dup2(fd, 2)
