"""A device in host memory, for tests: the kernels' blocks run in a host loop, capture records calls and plays them back.

It is as strict as a GPU where that can be told on a host: memory is filled with rubbish; nothing runs while it is captured;
a graph keeps the addresses and sizes that it was captured with; streams must have been told to wait for one another before
they touch the same memory (every stream keeps a vector clock, and a missing wait is an error although the host did
everything in turn); and a capture must have forked into every stream that it uses and joined it again.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import cxr_edge._core as _core
from cxr_edge.backends.base import Engine, TensorInfo
from cxr_edge.errors import BackendError, ContractError
from cxr_edge.gpu.cuda import Gpu

__all__ = [
    "TICK_MS",
    "EmulatedBuffer",
    "EmulatedDevice",
    "EmulatedEngine",
    "EmulatedGraph",
    "EmulatedStream",
    "array_at",
]

_ALIGNMENT = 256
TICK_MS = 1e-3  # what passes between two events
_GPU = Gpu(name="emulated GPU", compute_capability="0.0", driver="0.0")

Range = tuple[int, int]  # address and bytes


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
    """handle: not 0. knows: how much of each stream's work this one comes after. captured: part of a capture."""

    handle: int
    knows: dict[int, int] = field(default_factory=dict)
    captured: bool = False

    @property
    def own(self) -> int:
        return self.knows.get(self.handle, 0)


@dataclass(eq=False)
class EmulatedEvent:
    """knows: what had been done where it was recorded. clock: when it was last passed."""

    knows: dict[int, int] | None = None
    captured: bool = False
    clock: float | None = None


@dataclass(eq=False)
class EmulatedGraph:
    """Calls to play back. launches: how often that was done."""

    calls: list[Callable[[], None]]
    breaks: str = ""
    launches: int = 0

    def launch(self, stream: EmulatedStream) -> None:
        self.launches += 1
        if self.breaks == "on launch":
            raise BackendError("launching the graph failed: out of memory")
        for call in self.calls[-2:] if self.breaks == "silently" else self.calls:
            call()


@dataclass(frozen=True)
class _Access:
    place: Range
    stream: int
    time: int
    writes: bool

    def clashes(self, other: _Access) -> bool:
        (a, n), (b, m) = self.place, other.place
        return (self.writes or other.writes) and a < b + m and b < a + n


@dataclass(eq=False)
class EmulatedDevice:
    """refuses_capture: raise BackendError, as a driver may. breaks_graphs: `on launch`, or `silently`, by leaving most of
    the work out. kernels_fail: `loudly`, or `silently`, by doing nothing. seed: of the order of the kernels' blocks and
    threads.
    """

    refuses_capture: bool = False
    breaks_graphs: str = ""
    seed: int = 0
    name: str = "emulated GPU"
    kernels_fail: str = ""
    gpu: Gpu = _GPU
    graphs: list[EmulatedGraph] = field(default_factory=list)
    allocations: int = 0
    streams: dict[int, EmulatedStream] = field(default_factory=dict)
    _recording: list[Callable[[], None]] | None = None
    _accesses: list[_Access] = field(default_factory=list)
    _ticks: float = 0.0

    def current(self) -> Any:
        return contextlib.nullcontext()

    def allocate(self, n_bytes: int) -> EmulatedBuffer:
        assert self._recording is None, "memory was allocated during a capture"
        self.allocations += 1
        return EmulatedBuffer(n_bytes)

    def pinned(self, n_bytes: int) -> np.ndarray:
        return EmulatedBuffer(n_bytes).bytes

    def stream(self) -> EmulatedStream:
        stream = EmulatedStream(handle=len(self.streams) + 1)
        self.streams[stream.handle] = stream
        return stream

    def do(
        self, call: Callable[[], None], stream: EmulatedStream, *, reads: Sequence[Range], writes: Sequence[Range]
    ) -> None:
        """Run `call` in stream order, or keep it for the graph; checks that it may touch what it touches."""
        assert stream.captured == (self._recording is not None), "work on a stream outside the capture, or after it"
        stream.knows[stream.handle] = stream.own + 1
        for place, wrote in [*((r, False) for r in reads), *((w, True) for w in writes)]:
            self._check(_Access(place, stream.handle, stream.own, wrote), stream)
        if self._recording is None:
            call()
        else:
            self._recording.append(call)

    def upload(self, to: int, source: np.ndarray, stream: EmulatedStream) -> None:
        def copy() -> None:
            ctypes.memmove(to, source.ctypes.data, source.nbytes)

        self.do(copy, stream, reads=[], writes=[(to, source.nbytes)])

    def download(self, to: np.ndarray, source: int, stream: EmulatedStream) -> None:
        def copy() -> None:
            ctypes.memmove(to.ctypes.data, source, to.nbytes)

        self.do(copy, stream, reads=[(source, to.nbytes)], writes=[])

    def event(self) -> EmulatedEvent:
        return EmulatedEvent()

    def record(self, event: EmulatedEvent, stream: EmulatedStream, *, in_graph: bool = False) -> None:
        """An event recorded in a capture without in_graph only orders streams, and has no time."""
        event.knows, event.captured = dict(stream.knows), stream.captured and not in_graph
        if self._recording is None or in_graph:
            self.do(lambda: self._pass(event), stream, reads=[], writes=[])

    def wait(self, stream: EmulatedStream, event: EmulatedEvent) -> None:
        assert event.knows is not None, "a stream waits for an event that nobody recorded"
        assert event.captured or not stream.captured, "a captured stream waits for an event outside the capture"
        stream.captured = stream.captured or event.captured
        for handle, time in event.knows.items():
            stream.knows[handle] = max(stream.knows.get(handle, 0), time)

    def elapsed_ms(self, start: EmulatedEvent, end: EmulatedEvent) -> float:
        assert start.clock is not None
        assert end.clock is not None
        return end.clock - start.clock

    def synchronize(self, stream: EmulatedStream) -> None:
        assert self._recording is None, "a capture was interrupted by waiting for it"
        self._accesses = [a for a in self._accesses if a.time > stream.knows.get(a.stream, 0)]

    def kernels(self, stream: EmulatedStream) -> _Kernels:
        return _Kernels(self, stream)

    def capture(self, stream: EmulatedStream, work: Callable[[], None]) -> EmulatedGraph:
        if self.refuses_capture:
            raise BackendError("the capture failed: operation not permitted")
        self._recording, self._accesses, stream.captured = [], [], True
        try:
            work()
            forked = [s for s in self.streams.values() if s.captured and s is not stream]
            assert all(stream.knows.get(s.handle, 0) == s.own for s in forked), "a stream of the capture was not joined"
            graph = EmulatedGraph(calls=self._recording, breaks=self.breaks_graphs)
        finally:
            self._recording, self._accesses = None, []
            for s in self.streams.values():
                s.captured = False
        self.graphs.append(graph)
        return graph

    def _pass(self, event: EmulatedEvent) -> None:
        self._ticks += TICK_MS
        event.clock = self._ticks

    def _check(self, access: _Access, stream: EmulatedStream) -> None:
        for earlier in self._accesses:
            known = stream.knows.get(earlier.stream, 0) >= earlier.time
            assert known or not earlier.clashes(access), (
                f"stream {access.stream} and stream {earlier.stream} touch the same memory, and neither waits"
            )
        self._accesses.append(access)


@dataclass
class _Kernels:
    """The native kernels, run or kept as the device is capturing or not."""

    device: EmulatedDevice
    stream: EmulatedStream

    def preprocess(self, planned: Any, *, frame: int, lungs: int, scratch: int, outputs: Sequence[int]) -> None:
        self._do(
            lambda core: core.preprocess(planned, frame=frame, lungs=lungs, scratch=scratch, outputs=outputs),
            reads=[(frame, 1), *([(lungs, 16)] if lungs else [])],
            writes=[(scratch, planned.scratch_bytes), *((o, 1) for o in outputs)],
        )

    def lung_box(self, *, mask: int, frame: int, scratch: int, record: int, **rest: Any) -> None:
        self._do(
            lambda core: core.lung_box(mask=mask, frame=frame, scratch=scratch, record=record, **rest),
            reads=[(mask, 4 * rest["rows"] * rest["columns"]), (frame, 16)],
            writes=[(scratch, _core.lung_scratch_bytes(rest["rows"], rest["columns"])), (record, 36)],
        )

    def combine(
        self, combiner: Any, *, parameters: int, logits: int, member_stride: int, scratch: int, probabilities: int,
        winner: int,
    ) -> None:  # fmt: skip
        self._do(
            lambda core: core.combine(
                combiner, parameters=parameters, logits=logits, member_stride=member_stride, scratch=scratch,
                probabilities=probabilities, winner=winner,
            ),
            reads=[(parameters, 1), (logits, 4 * member_stride * combiner.members)],
            writes=[(scratch, combiner.scratch_bytes), (probabilities, 1), (winner, 4)],
        )  # fmt: skip

    def _do(self, kernel: Callable[[Any], None], *, reads: Sequence[Range], writes: Sequence[Range]) -> None:
        if self.device.kernels_fail == "loudly":
            raise BackendError("no kernel image is available for execution on the device")
        if self.device.kernels_fail:
            return
        executor = _core.Emulated(self.device.seed)
        self.device.do(lambda: kernel(executor), self.stream, reads=reads, writes=writes)


@dataclass
class EmulatedEngine:
    """A host engine on the emulated device's memory: a `DeviceEngine`."""

    host: Engine
    device: EmulatedDevice

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        return self.host.inputs

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        return self.host.outputs

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return self.host.run(inputs)

    def output_shapes(self, batch: int) -> dict[str, tuple[int, ...]]:
        zeros = {t.name: np.zeros((batch, *t.shape[1:]), t.dtype) for t in self.inputs}
        return {name: y.shape for name, y in self.host.run(zeros).items()}

    def bind(self, addresses: Mapping[str, int], *, batch: int, stream: int) -> Callable[[], None]:
        shapes = self.output_shapes(batch)
        given = {t.name: array_at(addresses[t.name], (batch, *t.shape[1:]), t.dtype) for t in self.inputs}
        wanted = {t.name: array_at(addresses[t.name], shapes[t.name], t.dtype) for t in self.outputs}
        if set(addresses) != {*given, *wanted}:
            raise ContractError(f"addresses of {sorted(addresses)}")

        def infer() -> None:
            for name, y in self.host.run({k: v.copy() for k, v in given.items()}).items():
                wanted[name][...] = y

        def enqueue() -> None:
            self.device.do(
                infer,
                self.device.streams[stream],
                reads=[(addresses[n], x.nbytes) for n, x in given.items()],
                writes=[(addresses[n], y.nbytes) for n, y in wanted.items()],
            )

        return enqueue


def array_at(address: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """A view of host memory."""
    kind = np.dtype(dtype)
    memory = (ctypes.c_uint8 * (int(np.prod(shape)) * kind.itemsize)).from_address(address)
    return np.frombuffer(memory, kind).reshape(shape)
