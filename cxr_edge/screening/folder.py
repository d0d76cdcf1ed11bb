"""Screen many files: takes paths or images, returns results in the same order, with several workers and bounded memory."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from cxr_edge.backends.cpu_quota import thread_limit
from cxr_edge.decoding.limits import MAX_PIXELS, MIN_SIDE_PX, Limits
from cxr_edge.errors import InputError
from cxr_edge.records import Failure, Image
from cxr_edge.screening.screener import FileResult, Screener

__all__ = ["EncodedFile", "Item", "screen_files"]


@dataclass(frozen=True, kw_only=True)
class EncodedFile:
    """A file whose bytes are already in memory."""

    source: str  # its name in results
    data: bytes


# What `screen_files` takes: a path, a file in memory, or a failure that is passed on in its place.
Item = str | Path | EncodedFile | Failure


def screen_files(
    screener: Screener,
    paths: Iterable[object],
    *,
    workers: int,
    heatmap: bool = False,
    max_pixels: int = MAX_PIXELS,
    min_side_px: int = MIN_SIDE_PX,
) -> Iterator[FileResult]:
    """Screen files in order, `workers` at a time (1: in the caller's thread).

    paths: of files; also each `Item`, each `Image`, and anything else that `load_image` takes. Raises
    InputError for one instead of several.

    Every result is returned as soon as it and those before it are there, even if the next path is still being waited for:
    with several workers, `paths` is read in a thread of its own. Memory is bounded: at most workers + 1 results are
    pending. Load the engines with one thread each if workers is above 1, so that the workers do not compete for cores.
    """
    if not isinstance(screener, Screener):
        raise InputError(f"screen_files takes a Screener first, found {type(screener).__name__}")
    if not isinstance(workers, int) or workers < 1:
        raise InputError(f"workers is a whole number of 1 or more, got {workers!r}")
    if isinstance(paths, str | bytes | os.PathLike | Image):
        raise InputError(f"screen_files takes several images, found one {type(paths).__name__}: put it in a list")
    workers = min(workers, thread_limit())
    limits = Limits(max_pixels=max_pixels, min_side_px=min_side_px)

    def screen(item: object) -> FileResult:
        if isinstance(item, Failure):
            return FileResult(outcome=item)
        if isinstance(item, EncodedFile):
            return screener.decode_and_screen(item.data, limits, heatmap=heatmap, source=item.source)
        return screener.decode_and_screen(item, limits, heatmap=heatmap)

    return map(screen, paths) if workers == 1 else _in_order(screen, paths, workers)


def _in_order(screen: Callable[[object], FileResult], items: Iterable[object], workers: int) -> Iterator[FileResult]:
    pending: SimpleQueue[Future[FileResult] | None] = SimpleQueue()
    free = threading.Semaphore(workers + 1)
    stopped = threading.Event()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="screen")

    def submit() -> None:
        try:
            for item in items:
                free.acquire()
                if stopped.is_set():
                    return
                pending.put(pool.submit(screen, item))
        except BaseException as error:  # raised to the caller, in its place in the order
            failed: Future[FileResult] = Future()
            failed.set_exception(error)
            pending.put(failed)
        pending.put(None)

    # A daemon, because it may wait for a path that never comes.
    threading.Thread(target=submit, name="paths", daemon=True).start()
    try:
        while (future := pending.get()) is not None:
            yield future.result()
            free.release()
    finally:
        stopped.set()
        free.release()
        pool.shutdown(cancel_futures=True)
