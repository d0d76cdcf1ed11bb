"""Batches in the order of an epoch, made ahead of need: by a thread, or by worker processes of torch's DataLoader.

A task gives a sequence whose items are made when they are asked for, each from random numbers of its own, so that it does not
matter who makes them.
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

__all__ = ["Batch", "Batches", "ahead", "in_groups"]

Batch = tuple[Tensor, ...]
Item = TypeVar("Item")


class Batches:
    """length: of the sequence. make: the batch of a number, the same for the same number."""

    def __init__(self, length: int, make: Callable[[int], Batch]) -> None:
        self._length, self._make = length, make

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Batch]:
        return map(self._make, range(self._length))

    def __getitem__(self, number: int) -> Batch:
        return self._make(number)


def ahead(batches: Batches, workers: int) -> Iterator[Batch]:
    """The batches in order, made by `workers` processes, or by a thread while the one before is learnt from."""
    return _by_thread(iter(batches)) if workers == 0 else iter(_by_processes(batches, workers))


def in_groups(items: Iterator[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items; the last one may be shorter."""
    return iter(lambda: list(islice(items, size)), [])


def _by_thread(batches: Iterator[Batch]) -> Iterator[Batch]:
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = pool.submit(next, batches, None)
            yield batch


def _by_processes(batches: Batches, workers: int) -> DataLoader[Batch]:
    # Forked, so that they share the canvases, gigabytes of them; Python's default becomes another way.
    return DataLoader(
        batches,  # type: ignore[arg-type]
        batch_size=None,
        num_workers=workers,
        multiprocessing_context="fork",
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_quiet,
    )


def _quiet(_: int) -> None:
    cv2.setNumThreads(0)  # a thread pool does not survive a fork
