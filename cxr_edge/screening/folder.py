"""Screen many files: takes paths, returns results in the same order, with several workers and bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from cxr_edge.backends.cpu_quota import thread_limit
from cxr_edge.decoding.limits import MAX_PIXELS, MIN_SIDE_PX, Limits
from cxr_edge.screening.screener import FileResult, Screener

__all__ = ["screen_files"]


def screen_files(
    screener: Screener,
    paths: Iterable[Path],
    *,
    workers: int,
    heatmap: bool = False,
    max_pixels: int = MAX_PIXELS,
    min_side_px: int = MIN_SIDE_PX,
) -> Iterator[FileResult]:
    """Screen files in order, `workers` at a time (1: in the caller's thread).

    Memory is bounded: at most workers + 1 results are pending. Load the engines with one thread each if workers is above
    1, so that the workers do not compete for cores.
    """
    workers = min(workers, thread_limit())
    limits = Limits(max_pixels=max_pixels, min_side_px=min_side_px)

    def screen(path: Path) -> FileResult:
        return screener.decode_and_screen(path, limits, heatmap=heatmap)

    return map(screen, paths) if workers == 1 else _in_order(screen, paths, workers)


def _in_order(screen: Callable[[Path], FileResult], paths: Iterable[Path], workers: int) -> Iterator[FileResult]:
    pending: deque[Future[FileResult]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="screen") as pool:
        for path in paths:
            pending.append(pool.submit(screen, path))
            if len(pending) > workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
