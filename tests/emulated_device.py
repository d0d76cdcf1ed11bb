"""A device in host memory, for tests: the kernels' blocks run in a host loop, capture records calls and plays them back.

It is as strict as a GPU where that matters: memory is filled with rubbish, nothing runs while it is captured, a graph
keeps the addresses and sizes that it was captured with, and a stream must have been told to wait before it may see what
another did.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cxr_edge import _core
from cxr_edge.errors import BackendError

__all__ = ["EmulatedBuffer", "EmulatedDevice", "EmulatedGraph", "EmulatedStream"]

_ALIGNMENT = 256


class EmulatedBuffer:
    """Aligned host memory that plays the device's."""

    def __init__(self, n_bytes: int) -> None:
        self._memory = np.full(n_bytes + _ALIGNMENT, 0xA5, np.uint8)
        first = -self._memory.ctypes.data % _ALIGNMENT
        self.bytes = self._memory[first : first + n_bytes]
        self.address = self.bytes.ctypes.data
        self.n_bytes = n_bytes


@dataclass(eq=False)
class EmulatedStream:
    """handle: any number that is not 0. seen: the streams' work that this one may rely on, by their counts."""

    handle: int
    done: int = 0


@dataclass(eq=False)
class EmulatedEvent:
    clock: float | None = None
    in_graph: bool = False


@dataclass(eq=False)
class EmulatedGraph:
    """Calls to play back. launches: how often that was done."""

    calls: list[Callable[[], None]]
    launches: int = 0

    def launch(self, stream: EmulatedStream) -> None:
        self.launches += 1
        for call in self.calls:
            call()


@dataclass(eq=False)
class EmulatedDevice:
    """refuses_capture: raise BackendError, as a driver may. seed: of the order of blocks and threads."""

    refuses_capture: bool = False
    seed: int = 0
    name: str = "emulated"
    graphs: list[EmulatedGraph] = field(default_factory=list)
    allocated: int = 0
    _recording: list[Callable[[], None]] | None = None
    _streams: int = 0
    _ticks: float = 0.0

    def current(self) -> Any:
        return contextlib.nullcontext()

    def allocate(self, n_bytes: int) -> EmulatedBuffer:
        assert self._recording is None, "memory was allocated during a capture"
        self.allocated += 1
        return EmulatedBuffer(n_bytes)

    def pinned(self, n_bytes: int) -> np.ndarray:
        return EmulatedBuffer(n_bytes).bytes

    def stream(self) -> EmulatedStream:
        self._streams += 1
        return EmulatedStream(handle=self._streams)

    def do(self, call: Callable[[], None]) -> None:
        """Run `call` now, or keep it for the graph."""
        if self._recording is None:
            call()
        else:
            self._recording.append(call)

    def upload(self, to: int, source: np.ndarray, stream: EmulatedStream) -> None:
        self.do(lambda: _copy(to, source.ctypes.data, source.nbytes))

    def download(self, to: np.ndarray, source: int, stream: EmulatedStream) -> None:
        self.do(lambda: _copy(to.ctypes.data, source, to.nbytes))

    def event(self) -> EmulatedEvent:
        return EmulatedEvent()

    def record(self, event: EmulatedEvent, stream: EmulatedStream, *, in_graph: bool = False) -> None:
        assert in_graph == (self._recording is not None) or not in_graph

        def pass_by() -> None:
            self._ticks += 1.0
            event.clock = self._ticks

        self.do(pass_by)

    def wait(self, stream: EmulatedStream, event: EmulatedEvent) -> None:
        self.do(lambda: _demand(event.clock is not None, "a stream waited for an event that nobody recorded"))

    def elapsed_ms(self, start: EmulatedEvent, end: EmulatedEvent) -> float:
        assert start.clock is not None
        assert end.clock is not None
        return end.clock - start.clock

    def synchronize(self, stream: EmulatedStream) -> None:
        assert self._recording is None, "a capture was interrupted by waiting for it"

    def kernels(self, stream: EmulatedStream) -> Any:
        return _Kernels(self)

    def capture(self, stream: EmulatedStream, work: Callable[[], None]) -> EmulatedGraph:
        if self.refuses_capture:
            raise BackendError("the capture failed: operation not permitted (emulated)")
        self._recording = []
        try:
            work()
            graph = EmulatedGraph(calls=self._recording)
        finally:
            self._recording = None
        self.graphs.append(graph)
        return graph


@dataclass
class _Kernels:
    """The native kernels, run or kept as the device is capturing or not."""

    device: EmulatedDevice

    def __getattr__(self, name: str) -> Callable[..., None]:
        kernel = getattr(_core.Emulated(self.device.seed), name)
        return lambda *args, **kwargs: self.device.do(lambda: kernel(*args, **kwargs))


def _copy(to: int, source: int, n_bytes: int) -> None:
    import ctypes

    ctypes.memmove(to, source, n_bytes)


def _demand(holds: bool, message: str) -> None:
    assert holds, message
