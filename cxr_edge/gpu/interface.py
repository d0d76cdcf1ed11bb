"""Interface of a GPU: memory, streams, events, capture and kernels; and the layout of an image in its memory.

`cuda.CudaDevice` implements it; the tests have an emulation in host memory, which runs the kernels' blocks in a host loop.
Addresses are integers. Copies and kernels run in stream order and return immediately.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

import cxr_edge._core as _core
from cxr_edge.records import GrayPixels

__all__ = ["Buffer", "Device", "Event", "Graph", "Kernels", "Stream", "frame_bytes", "put_frame", "row_bytes"]

_HEADER = np.dtype([("width", "<i4"), ("height", "<i4"), ("row_bytes", "<i4"), ("bytes_per_pixel", "<i4")])


# Only the device that created an event or stream accepts it.
Event = Any  # a point in a stream, with a time once it has been passed
Stream = Any  # an ordered queue of work; its `handle` is the runtime's, as an integer
Kernels: TypeAlias = "_core.Kernels"  # the native core's kernels on one stream


class Buffer(Protocol):
    """Device memory, 256-byte aligned, freed with the object."""

    address: int
    n_bytes: int


class Graph(Protocol):
    """Captured work."""

    def launch(self, stream: Stream) -> None:
        """Run the work in stream order."""
        ...


class Device(Protocol):
    """One GPU. All methods are called with the device current."""

    name: str

    def current(self) -> Any:
        """Return a context manager that makes the device current in the calling thread."""
        ...

    def allocate(self, n_bytes: int) -> Buffer:
        """Allocate device memory. Raises BackendError if there is not enough."""
        ...

    def pinned(self, n_bytes: int) -> npt.NDArray[np.uint8]:
        """Allocate page-locked host memory (n_bytes), which asynchronous copies need. Raises BackendError likewise."""
        ...

    def stream(self) -> Stream: ...

    def upload(self, to: int, source: npt.NDArray[Any], stream: Stream) -> None:
        """Copy a contiguous array to the device."""
        ...

    def download(self, to: npt.NDArray[Any], source: int, stream: Stream) -> None:
        """Copy from the device into a contiguous array."""
        ...

    def event(self) -> Event: ...

    def record(self, event: Event, stream: Stream, *, in_graph: bool = False) -> None:
        """Record the event. in_graph: as a node of the graph being captured, so that graph launches pass and time it."""
        ...

    def wait(self, stream: Stream, event: Event) -> None:
        """Make later work in the stream wait for the event."""
        ...

    def elapsed_ms(self, start: Event, end: Event) -> float: ...

    def synchronize(self, stream: Stream) -> None:
        """Wait for the stream. Raises BackendError if any of its work failed."""
        ...

    def kernels(self, stream: Stream) -> Kernels: ...

    def capture(self, stream: Stream, work: Callable[[], None]) -> Graph:
        """Capture the work that `work` enqueues on `stream` and on streams that wait for it; none of it runs yet.

        Raises BackendError if the capture fails; the stream is usable afterwards.
        """
        ...


def row_bytes(pixels: GrayPixels) -> int:
    """Return the bytes per row on the device, padded so that every row is aligned."""
    step = _core.ROW_ALIGNMENT
    return -(-int(pixels.shape[1]) * pixels.itemsize // step) * step


def frame_bytes(pixels: GrayPixels) -> int:
    """Return the bytes of an image on the device, with header and padding."""
    return _core.FRAME_HEADER_BYTES + int(pixels.shape[0]) * row_bytes(pixels)


def put_frame(pixels: GrayPixels, frame: npt.NDArray[np.uint8]) -> None:
    """Write an image (height, width), uint8 or uint16, into `frame` in the device layout (csrc/include/cxr/device.h)."""
    height, width = pixels.shape
    start, stride = _core.FRAME_HEADER_BYTES, row_bytes(pixels)
    frame[: _HEADER.itemsize].view(_HEADER)[0] = (width, height, stride, pixels.itemsize)
    rows = frame[start : start + height * stride].reshape(height, stride)
    rows[:, : width * pixels.itemsize].view(pixels.dtype)[...] = pixels
