"""Data loading: the batches of an epoch in, the same batches prefetched by a thread or by DataLoader workers out.

A task provides a sequence that creates each batch on access, from random numbers of its own, so that the result does not
depend on the thread or process that creates it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import cv2
import torch
from torch import Tensor
from torch.utils.data import DataLoader

__all__ = ["Batch", "Batches", "chunks", "prefetch"]

Batch = tuple[Tensor, ...]
Item = TypeVar("Item")


class Batches:
    """Sequence of `length` batches; `make` returns the batch of an index, always the same for the same index."""

    def __init__(self, length: int, make: Callable[[int], Batch]) -> None:
        self._length, self._make = length, make

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Batch]:
        return map(self._make, range(self._length))

    def __getitem__(self, index: int) -> Batch:
        return self._make(index)


def prefetch(batches: Batches, workers: int) -> Iterator[Batch]:
    """Return the batches in order, prefetched by `workers` processes, or by one thread if `workers` is 0."""
    return _by_thread(iter(batches)) if workers == 0 else iter(_by_processes(batches, workers))


def chunks(items: Iterator[Item], size: int) -> Iterator[list[Item]]:
    """Return lists of `size` items; the last one may be shorter."""
    return iter(lambda: list(islice(items, size)), [])


def _by_thread(batches: Iterator[Batch]) -> Iterator[Batch]:
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(next, batches, None)
        while (batch := future.result()) is not None:
            future = pool.submit(next, batches, None)
            yield batch


def _by_processes(batches: Batches, workers: int) -> DataLoader[Batch]:
    # Forked, so that workers share the canvases (gigabytes); the default start method of later Pythons does not.
    return DataLoader(
        batches,  # type: ignore[arg-type]
        batch_size=None,
        num_workers=workers,
        multiprocessing_context="fork",
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_init_worker,
    )


def _init_worker(_: int) -> None:
    cv2.setNumThreads(0)  # a thread pool does not survive a fork
