"""Emulation of a GPU in host memory, for tests: kernels' blocks run in a host loop, a capture records calls and replays them.

It is as strict as a GPU where a host can be: memory is filled with a pattern; nothing runs during a capture; a graph has the
addresses and sizes of its capture; streams must wait for one another before they access the same memory (every stream has a
vector clock, and a missing wait is an error although the host runs everything in sequence); and a capture must fork into
every stream that it uses and join it again.
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
TICK_MS = 1e-3  # time between two events
_GPU = Gpu(name="emulated GPU", compute_capability="0.0", driver="0.0")

Range = tuple[int, int]  # address and bytes


class EmulatedBuffer:
    """Aligned host memory in the role of device memory."""

    def __init__(self, n_bytes: int) -> None:
        self._memory = np.full(n_bytes + _ALIGNMENT, 0xA5, np.uint8)
        first = -self._memory.ctypes.data % _ALIGNMENT
        self.bytes = self._memory[first : first + n_bytes]
        self.address = self.bytes.ctypes.data
        self.n_bytes = n_bytes


@dataclass(eq=False)
class EmulatedStream:
    """A stream with a vector clock."""

    handle: int  # not 0
    clock: dict[int, int] = field(
        default_factory=dict
    )  # by stream: number of its calls that this stream's work follows
    captured: bool = False  # part of a capture

    @property
    def calls(self) -> int:
        """Number of calls enqueued on this stream."""
        return self.clock.get(self.handle, 0)


@dataclass(eq=False)
class EmulatedEvent:
    """A point in a stream."""

    clock: dict[int, int] | None = None  # of the stream when it was recorded
    captured: bool = False
    passed_ms: float | None = None  # time when it was last passed


@dataclass(eq=False)
class EmulatedGraph:
    """Captured calls."""

    calls: list[Callable[[], None]]
    breaks: str = ""
    launches: int = 0  # number of launches

    def launch(self, stream: EmulatedStream) -> None:
        self.launches += 1
        if self.breaks == "on launch":
            raise BackendError("launching the graph failed: out of memory")
        for call in self.calls[-2:] if self.breaks == "silently" else self.calls:
            call()


@dataclass(frozen=True)
class _Access:
    memory: Range
    stream: int
    call: int  # number of the call in its stream
    writes: bool

    def clashes(self, other: _Access) -> bool:
        (a, n), (b, m) = self.memory, other.memory
        return (self.writes or other.writes) and a < b + m and b < a + n


@dataclass(eq=False)
class EmulatedDevice:
    """A `Device` in host memory, which can be set to fail."""

    refuses_capture: bool = False  # a capture raises BackendError
    breaks_graphs: str = ""  # `on launch`, or `silently` by skipping most of the work
    seed: int = 0  # order of the kernels' blocks and threads
    name: str = "emulated GPU"
    kernels_fail: str = ""  # `loudly`, or `silently` by doing nothing
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
        """Run `call` in stream order, or record it for the graph; check its memory accesses."""
        assert stream.captured == (self._recording is not None), "work on a stream outside the capture, or after it"
        stream.clock[stream.handle] = stream.calls + 1
        for memory, wrote in [*((r, False) for r in reads), *((w, True) for w in writes)]:
            self._check(_Access(memory, stream.handle, stream.calls, wrote), stream)
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
        event.clock, event.captured = dict(stream.clock), stream.captured and not in_graph
        if self._recording is None or in_graph:
            self.do(lambda: self._pass(event), stream, reads=[], writes=[])

    def wait(self, stream: EmulatedStream, event: EmulatedEvent) -> None:
        assert event.clock is not None, "a stream waits for an event that was not recorded"
        assert event.captured or not stream.captured, "a captured stream waits for an event outside the capture"
        stream.captured = stream.captured or event.captured
        for handle, calls in event.clock.items():
            stream.clock[handle] = max(stream.clock.get(handle, 0), calls)

    def elapsed_ms(self, start: EmulatedEvent, end: EmulatedEvent) -> float:
        assert start.passed_ms is not None
        assert end.passed_ms is not None
        return end.passed_ms - start.passed_ms

    def synchronize(self, stream: EmulatedStream) -> None:
        assert self._recording is None, "synchronised during a capture"
        self._accesses = [a for a in self._accesses if a.call > stream.clock.get(a.stream, 0)]

    def kernels(self, stream: EmulatedStream) -> _Kernels:
        return _Kernels(self, stream)

    def capture(self, stream: EmulatedStream, work: Callable[[], None]) -> EmulatedGraph:
        if self.refuses_capture:
            raise BackendError("the capture failed: operation not permitted")
        self._recording, self._accesses, stream.captured = [], [], True
        try:
            work()
            forked = [s for s in self.streams.values() if s.captured and s is not stream]
            assert all(stream.clock.get(s.handle, 0) == s.calls for s in forked), (
                "a stream of the capture was not joined"
            )
            graph = EmulatedGraph(calls=self._recording, breaks=self.breaks_graphs)
        finally:
            self._recording, self._accesses = None, []
            for s in self.streams.values():
                s.captured = False
        self.graphs.append(graph)
        return graph

    def _pass(self, event: EmulatedEvent) -> None:
        self._ticks += TICK_MS
        event.passed_ms = self._ticks

    def _check(self, access: _Access, stream: EmulatedStream) -> None:
        for earlier in self._accesses:
            ordered = stream.clock.get(earlier.stream, 0) >= earlier.call
            assert ordered or not earlier.clashes(access), (
                f"stream {access.stream} and stream {earlier.stream} touch the same memory, and neither waits"
            )
        self._accesses.append(access)


@dataclass
class _Kernels:
    """The native kernels on a stream: run immediately, or recorded during a capture."""

    device: EmulatedDevice
    stream: EmulatedStream

    def preprocess(self, preprocessor: _core.DevicePreprocessor, **at: Any) -> None:
        self._do(
            lambda core: core.preprocess(preprocessor, **at),
            reads=[(at["frame"], 1), *([(at["lungs"], 16)] if at["lungs"] else [])],
            writes=[(at["scratch"], preprocessor.scratch_bytes), *((o, 1) for o in at["outputs"])],
        )

    def lung_box(self, **at: Any) -> None:
        rows, columns = at["rows"], at["columns"]
        self._do(
            lambda core: core.lung_box(**at),
            reads=[(at["mask"], 4 * rows * columns), (at["frame"], 16)],
            writes=[(at["scratch"], _core.lung_scratch_bytes(rows, columns)), (at["record"], 36)],
        )

    def combine(self, combiner: _core.Combiner, **at: Any) -> None:
        self._do(
            lambda core: core.combine(combiner, **at),
            reads=[(at["parameters"], 1), (at["logits"], 4 * at["member_stride"] * combiner.members)],
            writes=[(at["scratch"], combiner.scratch_bytes), (at["probabilities"], 1), (at["winner"], 4)],
        )

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
        results = {t.name: array_at(addresses[t.name], shapes[t.name], t.dtype) for t in self.outputs}
        if set(addresses) != {*given, *results}:
            raise ContractError(f"addresses of {sorted(addresses)}")

        def infer() -> None:
            for name, y in self.host.run({k: v.copy() for k, v in given.items()}).items():
                results[name][...] = y

        def enqueue() -> None:
            self.device.do(
                infer,
                self.device.streams[stream],
                reads=[(addresses[n], x.nbytes) for n, x in given.items()],
                writes=[(addresses[n], y.nbytes) for n, y in results.items()],
            )

        return enqueue


def array_at(address: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Return a view of host memory."""
    kind = np.dtype(dtype)
    memory = (ctypes.c_uint8 * (int(np.prod(shape)) * kind.itemsize)).from_address(address)
    return np.frombuffer(memory, kind).reshape(shape)
