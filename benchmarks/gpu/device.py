"""What the questions of the GPU benchmark have in common: arrays and images on a device, and work timed by its clock.

In: a `Device`, arrays of the host, functions that enqueue; out: buffers, arrays, milliseconds, and the `Answer` that
every question gives. Two stand-ins for a device are here as well: one that captures no graph, one that counts what it
is given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.harness.report import Target
from benchmarks.harness.side_by_side import Table
from cxr_edge.errors import BackendError
from cxr_edge.gpu.interface import Buffer, Device, Graph, Kernels, Stream, frame_bytes, put_frame
from cxr_edge.records import GrayPixels

__all__ = [
    "CountingDevice",
    "GraphlessDevice",
    "Section",
    "Timed",
    "from_device",
    "join_sections",
    "nan_buffer",
    "time_work",
    "to_device",
    "upload_frame",
]


@dataclass(frozen=True, kw_only=True)
class Section:
    """What one question found. failures: what is wrong, not merely slow; one of them makes the exit status 1."""

    tables: tuple[Table, ...]
    targets: tuple[Target, ...] = ()
    failures: tuple[str, ...] = ()


def join_sections(sections: Sequence[Section]) -> Section:
    """All of them as one."""
    return Section(
        tables=tuple(t for a in sections for t in a.tables),
        targets=tuple(t for a in sections for t in a.targets),
        failures=tuple(f for a in sections for f in a.failures),
    )


@dataclass(frozen=True, kw_only=True)
class Timed:
    """Milliseconds of the device's clock, one a round. note: what else is in them; empty if nothing is."""

    milliseconds: npt.NDArray[np.float64] = field(repr=False)
    note: str = ""


def to_device(device: Device, array: npt.NDArray[Any]) -> Buffer:
    """A buffer of the device that holds the array's bytes."""
    buffer, stream = device.allocate(array.nbytes), device.stream()
    device.upload(buffer.address, np.ascontiguousarray(array), stream)
    device.synchronize(stream)
    return buffer


def from_device(device: Device, buffer: Buffer, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """The array that lies at the beginning of a buffer."""
    array, stream = np.zeros(shape, dtype), device.stream()
    device.download(array, buffer.address, stream)
    device.synchronize(stream)
    return array


def nan_buffer(device: Device, n_bytes: int) -> Buffer:
    """A buffer of NaNs, for results: what a kernel leaves unwritten must not be the right answer of an earlier one."""
    return to_device(device, np.full(n_bytes, 0xFF, np.uint8))


def upload_frame(device: Device, pixels: GrayPixels) -> Buffer:
    """An image (height, width) on the device, as the kernels want it."""
    frame = np.zeros(frame_bytes(pixels), np.uint8)
    put_frame(pixels, frame)
    return to_device(device, frame)


def time_work(device: Device, stream: Stream, work: Callable[[], None], *, rounds: int, warmup: int) -> Timed:
    """Time `work`, which enqueues on `stream`, between two events.

    It is captured as a graph, so that what the host needs to enqueue it is not in the interval; where the runtime
    refuses that, it is enqueued each time, and the note says so.
    """
    start, end = device.event(), device.event()

    def enqueue(*, in_graph: bool) -> None:
        device.record(start, stream, in_graph=in_graph)
        work()
        device.record(end, stream, in_graph=in_graph)

    enqueue(in_graph=False)  # what is loaded at its first use cannot be loaded in a capture
    device.synchronize(stream)
    run, note = _launcher(device, stream, enqueue)
    found = []
    for number in range(-warmup, rounds):
        run()
        device.synchronize(stream)
        if number >= 0:
            found.append(device.elapsed_ms(start, end))
    return Timed(milliseconds=np.asarray(found), note=note)


def _launcher(device: Device, stream: Stream, enqueue: Callable[..., None]) -> tuple[Callable[[], None], str]:
    try:
        graph = device.capture(stream, lambda: enqueue(in_graph=True))
    except BackendError as error:
        return lambda: enqueue(in_graph=False), f"enqueued one by one, the host's gaps included (no graph: {error})"
    return lambda: graph.launch(stream), ""


class GraphlessDevice:
    """A device that captures no graph, so that a pipeline stays on plain streams; all else is the device's own."""

    def __init__(self, device: Device) -> None:
        self._device = device

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)

    def capture(self, stream: Stream, work: Callable[[], None]) -> Graph:
        raise BackendError("the benchmark asked for plain streams")


class CountingDevice:
    """A device that counts what the host hands to it: launches of graphs; pieces: copies and kernels one by one.

    What an engine enqueues without a graph is not counted, but then the copies are.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self.launches = self.pieces = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)

    def upload(self, to: int, source: npt.NDArray[Any], stream: Stream) -> None:
        self.pieces += 1
        self._device.upload(to, source, stream)

    def download(self, to: npt.NDArray[Any], source: int, stream: Stream) -> None:
        self.pieces += 1
        self._device.download(to, source, stream)

    def kernels(self, stream: Stream) -> Kernels:
        return _CountingKernels(self, self._device.kernels(stream))

    def capture(self, stream: Stream, work: Callable[[], None]) -> Graph:
        return _CountingGraph(self, self._device.capture(stream, work))


class _CountingGraph:
    def __init__(self, device: CountingDevice, graph: Graph) -> None:
        self._device, self._graph = device, graph

    def launch(self, stream: Stream) -> None:
        self._device.launches += 1
        self._graph.launch(stream)


class _CountingKernels:
    def __init__(self, device: CountingDevice, kernels: Kernels) -> None:
        self._device, self._kernels = device, kernels

    def __getattr__(self, name: str) -> Any:
        kernel = getattr(self._kernels, name)

        def counted(*args: Any, **addresses: Any) -> None:
            self._device.pieces += 1
            kernel(*args, **addresses)

        return counted
