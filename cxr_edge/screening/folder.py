"""Screen many files: paths in, results in the same order out, several files at once with flat memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from cxr_edge.decoding.decode import MAX_PIXELS, MIN_SIDE_PX
from cxr_edge.screening.screener import FileResult, Screener

__all__ = ["cores", "screen_files"]


def screen_files(
    screener: Screener,
    paths: Iterable[Path],
    *,
    workers: int,
    heatmap: bool = False,
    max_pixels: int = MAX_PIXELS,
    min_side_px: int = MIN_SIDE_PX,
) -> Iterator[FileResult]:
    """Screen files in their order, `workers` at a time (1: in the caller's thread).

    Memory stays flat: at most workers + 1 answers wait to be taken. Load the engines with one thread each when workers
    is above 1, so that the workers do not fight over the cores.
    """

    def screen(path: Path) -> FileResult:
        return screener.screen_file(path, heatmap=heatmap, max_pixels=max_pixels, min_side_px=min_side_px)

    return map(screen, paths) if workers == 1 else _in_order(screen, paths, workers)


def _in_order(screen: Callable[[Path], FileResult], paths: Iterable[Path], workers: int) -> Iterator[FileResult]:
    waiting: deque[Future[FileResult]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="screen") as pool:
        for path in paths:
            waiting.append(pool.submit(screen, path))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
