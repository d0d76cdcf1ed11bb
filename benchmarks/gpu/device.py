"""Functions that the sections of the GPU benchmark share: arrays and images on a device, work timed by its clock.

Takes a `Device`, arrays of the host, functions that enqueue work; returns buffers, arrays, milliseconds, and the
`Section` that every part of the benchmark returns. Also two wrappers of a device: one without graph capture, one that
counts copies, kernels and launches.
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
    """Results of one part of the benchmark."""

    tables: tuple[Table, ...]
    targets: tuple[Target, ...] = ()
    failures: tuple[str, ...] = ()  # errors, not slowness; any of them makes the exit status 1


def join_sections(sections: Sequence[Section]) -> Section:
    """Join sections into one."""
    return Section(
        tables=tuple(t for s in sections for t in s.tables),
        targets=tuple(t for s in sections for t in s.targets),
        failures=tuple(f for s in sections for f in s.failures),
    )


@dataclass(frozen=True, kw_only=True)
class Timed:
    """Durations by the device's clock."""

    milliseconds: npt.NDArray[np.float64] = field(repr=False)  # one per round
    note: str = ""  # what else the durations include; empty if nothing


def to_device(device: Device, array: npt.NDArray[Any]) -> Buffer:
    """Copy an array to a new buffer of the device."""
    buffer, stream = device.allocate(array.nbytes), device.stream()
    device.upload(buffer.address, np.ascontiguousarray(array), stream)
    device.synchronize(stream)
    return buffer


def from_device(device: Device, buffer: Buffer, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Copy the array at the start of a buffer to the host."""
    array, stream = np.zeros(shape, dtype), device.stream()
    device.download(array, buffer.address, stream)
    device.synchronize(stream)
    return array


def nan_buffer(device: Device, n_bytes: int) -> Buffer:
    """Return a buffer of NaNs for results, so that values a kernel does not write are not correct results of an earlier one."""
    return to_device(device, np.full(n_bytes, 0xFF, np.uint8))


def upload_frame(device: Device, pixels: GrayPixels) -> Buffer:
    """Copy an image (height, width) to the device, in the layout that the kernels expect."""
    frame = np.zeros(frame_bytes(pixels), np.uint8)
    put_frame(pixels, frame)
    return to_device(device, frame)


def time_work(device: Device, stream: Stream, work: Callable[[], None], *, rounds: int, warmup: int) -> Timed:
    """Time `work`, which enqueues on `stream`, between two events.

    It is captured as a graph, so that the interval excludes the host's time to enqueue it; where the runtime refuses the
    capture, it is enqueued each time, and the note has the reason.
    """
    start, end = device.event(), device.event()

    def enqueue(*, in_graph: bool) -> None:
        device.record(start, stream, in_graph=in_graph)
        work()
        device.record(end, stream, in_graph=in_graph)

    enqueue(in_graph=False)  # modules that are loaded at first use cannot be loaded during a capture
    device.synchronize(stream)
    run, note = _launcher(device, stream, enqueue)
    milliseconds = []
    for number in range(-warmup, rounds):
        run()
        device.synchronize(stream)
        if number >= 0:
            milliseconds.append(device.elapsed_ms(start, end))
    return Timed(milliseconds=np.asarray(milliseconds), note=note)


def _launcher(device: Device, stream: Stream, enqueue: Callable[..., None]) -> tuple[Callable[[], None], str]:
    try:
        graph = device.capture(stream, lambda: enqueue(in_graph=True))
    except BackendError as error:
        return lambda: enqueue(in_graph=False), f"enqueued one by one, the host's gaps included (no graph: {error})"
    return lambda: graph.launch(stream), ""


class GraphlessDevice:
    """Wrapper of a device that refuses graph capture, so that a pipeline uses plain streams."""

    def __init__(self, device: Device) -> None:
        self._device = device

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)

    def capture(self, stream: Stream, work: Callable[[], None]) -> Graph:
        raise BackendError("the benchmark disables capture")


class CountingDevice:
    """Wrapper of a device that counts graph launches (`launches`) and single copies and kernels (`pieces`).

    Work that an engine enqueues without a graph is not counted, but its copies are.
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
