"""What the pipeline asks of a device: memory, streams, events, capture, kernels; and how an image lies on it.

The CUDA device meets it with a GPU (`cuda.CudaDevice`); the tests meet it with host memory and the kernels' blocks in a
host loop. Addresses are integers. Copies and kernels are in stream order and return at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

import cxr_edge._core as _core
from cxr_edge.records import GrayPixels

__all__ = ["Buffer", "Device", "Event", "Graph", "Kernels", "Stream", "frame_bytes", "put_frame", "row_bytes"]

_HEADER = np.dtype([("width", "<i4"), ("height", "<i4"), ("row_bytes", "<i4"), ("bytes_per_pixel", "<i4")])


# Both are taken by the device that made them only.
Event = Any  # a point in a stream, with a time once it has been passed
Stream = Any  # work in order; its `handle` is the runtime's, as an integer


class Buffer(Protocol):
    """Device memory, 256-byte aligned, freed with the object."""

    address: int
    n_bytes: int


class Graph(Protocol):
    """Captured work."""

    def launch(self, stream: Stream) -> None:
        """Run all of it, in stream order."""
        ...


class Kernels(Protocol):
    """The native core's kernels on one stream (`_core.Cuda`, `_core.Emulated`); see csrc/include/cxr/device.h."""

    def preprocess(
        self,
        preprocessor: _core.DevicePreprocessor,
        *,
        frame: int,
        lungs: int,
        scratch: int,
        outputs: Sequence[int],
    ) -> None: ...

    def lung_box(
        self, *, mask: int, rows: int, columns: int, rule: _core.LungRule, frame: int, scratch: int, record: int
    ) -> None: ...

    def combine(
        self,
        combiner: _core.DeviceCombiner,
        *,
        parameters: int,
        logits: int,
        member_stride: int,
        scratch: int,
        probabilities: int,
        winner: int,
    ) -> None: ...


class Device(Protocol):
    """One GPU, or what stands for it. All methods are called with the device current."""

    name: str

    def current(self) -> Any:
        """A context manager that makes the device the calling thread's."""
        ...

    def allocate(self, n_bytes: int) -> Buffer:
        """Device memory. Raises BackendError if there is not so much."""
        ...

    def pinned(self, n_bytes: int) -> npt.NDArray[np.uint8]:
        """Page-locked host memory (n_bytes), which copies need to be asynchronous. Raises BackendError likewise."""
        ...

    def stream(self) -> Stream: ...

    def upload(self, to: int, source: npt.NDArray[Any], stream: Stream) -> None:
        """Copy the whole contiguous array to the device."""
        ...

    def download(self, to: npt.NDArray[Any], source: int, stream: Stream) -> None:
        """Copy from the device into the whole contiguous array."""
        ...

    def event(self) -> Event: ...

    def record(self, event: Event, stream: Stream, *, in_graph: bool = False) -> None:
        """in_graph: as a node of the graph being captured, so that it is passed, and timed, when the graph runs."""
        ...

    def wait(self, stream: Stream, event: Event) -> None:
        """What comes next in the stream waits for the event."""
        ...

    def elapsed_ms(self, start: Event, end: Event) -> float: ...

    def synchronize(self, stream: Stream) -> None:
        """Wait for the stream. Raises BackendError if any of its work failed."""
        ...

    def kernels(self, stream: Stream) -> Kernels: ...

    def capture(self, stream: Stream, work: Callable[[], None]) -> Graph:
        """`work`, which puts its work into `stream` and streams that wait for it, as a graph; none of it runs yet.

        Raises BackendError if the runtime refuses; the stream is usable afterwards.
        """
        ...


def row_bytes(pixels: GrayPixels) -> int:
    """Bytes of a row on the device: padded, so that every row starts aligned."""
    step = _core.ROW_ALIGNMENT
    return -(-int(pixels.shape[1]) * pixels.itemsize // step) * step


def frame_bytes(pixels: GrayPixels) -> int:
    """Bytes that an image takes on the device, header and padding included."""
    return _core.FRAME_HEADER_BYTES + int(pixels.shape[0]) * row_bytes(pixels)


def put_frame(pixels: GrayPixels, frame: npt.NDArray[np.uint8]) -> None:
    """Lay an image (height, width), uint8 or uint16, out in `frame`, as it goes to the device."""
    height, width = pixels.shape
    start, stride = _core.FRAME_HEADER_BYTES, row_bytes(pixels)
    frame[: _HEADER.itemsize].view(_HEADER)[0] = (width, height, stride, pixels.itemsize)
    rows = frame[start : start + height * stride].reshape(height, stride)
    rows[:, : width * pixels.itemsize].view(pixels.dtype)[...] = pixels
