"""A GPU through pycuda: memory, streams and copies; events, capture and kernels are the native core's.

pycuda has no stream capture and gives no event's handle, so those two come from csrc. Everything happens in the device's
primary context, which torch and the CUDA runtime use too; `pycuda.autoinit`, which would make another, is never used.
pycuda frees memory only in the thread that retained the context or with the context current, so what is made here is given
back with the context current, in whatever thread that happens.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

import cxr_edge._core as _core
from cxr_edge.errors import BackendError

__all__ = ["CudaDevice", "Gpu", "cuda_device", "missing"]

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: does not wait for the legacy default stream, which torch may be using


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """What an engine depends on. compute_capability: as in 8.7. driver: the CUDA version that it speaks, as in 13.0."""

    name: str
    compute_capability: str
    driver: str

    def versions(self) -> dict[str, str]:
        """The part of `Backend.versions` that is the GPU's."""
        return {"gpu": self.name, "compute_capability": self.compute_capability, "driver": self.driver}


def missing() -> str | None:
    """None if a GPU can be used through pycuda here, else why not and what to do. Starts the driver, makes no context."""
    if importlib.util.find_spec("pycuda") is None:
        return "the package pycuda is not installed: pip install 'cxr-edge[gpu]' (it needs the CUDA toolkit to build)"
    try:
        return None if _driver().Device.count() else "the driver sees no GPU: look at nvidia-smi"
    except Exception as error:  # pycuda's errors exist only once it could be imported
        return f"the CUDA driver cannot be used ({str(error).strip() or type(error).__name__}): look at nvidia-smi"


@functools.cache
def cuda_device(ordinal: int = 0) -> CudaDevice:
    """The process's one object for that GPU. Raises BackendError if it cannot be used."""
    reason = missing()
    if reason is not None:
        raise BackendError(f"no GPU can be used here: {reason}")
    return CudaDevice(ordinal)


class CudaDevice:
    """A `memory.Device`. Get it from `cuda_device`, so that a process has one."""

    def __init__(self, ordinal: int) -> None:
        self._cuda = _driver()
        device = self._cuda.Device(ordinal)
        self.gpu = _facts(self._cuda, device)
        self.name = self.gpu.name
        self._context = device.retain_primary_context()
        # Never released: the driver does that when the process ends, and pycuda 2026.1 would detach it the wrong way.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._context))

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the primary context the calling thread's."""
        self._context.push()
        try:
            yield
        finally:
            self._cuda.Context.pop()

    def allocate(self, n_bytes: int) -> _Buffer:
        with self._said(f"{n_bytes} bytes of GPU memory cannot be had"):
            allocation = self._cuda.mem_alloc(max(n_bytes, 1))
        buffer = _Buffer(int(allocation), n_bytes)
        weakref.finalize(buffer, self._free, allocation)
        return buffer

    def pinned(self, n_bytes: int) -> npt.NDArray[np.uint8]:
        with self._said(f"{n_bytes} bytes of pinned memory cannot be had"):
            array: npt.NDArray[np.uint8] = self._cuda.pagelocked_empty(n_bytes, np.uint8)
        weakref.finalize(array, self._free, array.base)
        return array

    def stream(self) -> _Stream:
        with self._said("a stream could not be made"):
            pycuda = self._cuda.Stream(_NON_BLOCKING)
        stream = _Stream(pycuda, pycuda.handle)
        weakref.finalize(stream, self._drop, [pycuda])
        return stream

    def upload(self, to: int, source: npt.NDArray[Any], stream: _Stream) -> None:
        with self._said("a copy to the GPU failed"):
            self._cuda.memcpy_htod_async(to, source, stream.pycuda)

    def download(self, to: npt.NDArray[Any], source: int, stream: _Stream) -> None:
        with self._said("a copy from the GPU failed"):
            self._cuda.memcpy_dtoh_async(to, source, stream.pycuda)

    def event(self) -> _core.Event:
        with self._said("an event could not be made"):
            return _core.Event()

    def record(self, event: _core.Event, stream: _Stream, *, in_graph: bool = False) -> None:
        with self._said("recording failed"):
            event.record(stream.handle, in_graph)

    def wait(self, stream: _Stream, event: _core.Event) -> None:
        with self._said("waiting failed"):
            event.hold(stream.handle)

    def elapsed_ms(self, start: _core.Event, end: _core.Event) -> float:
        with self._said("timing failed"):
            return end.ms_since(start)

    def synchronize(self, stream: _Stream) -> None:
        with self._said("the GPU's work failed"):
            stream.pycuda.synchronize()

    def kernels(self, stream: _Stream) -> _Kernels:
        return _Kernels(self, _core.Cuda(stream.handle))

    def capture(self, stream: _Stream, work: Callable[[], None]) -> _Graph:
        with self._said("the GPU's work cannot be captured as a graph"):
            _core.begin_capture(stream.handle)
            try:
                work()
            except BaseException:
                self._abandon(stream)
                raise
            return _Graph(self, _core.end_capture(stream.handle))

    @staticmethod
    def _abandon(stream: _Stream) -> None:
        """End a capture whose work failed, so that the stream can be used again. It may be broken already."""
        with suppress(RuntimeError):
            _core.end_capture(stream.handle)

    def _free(self, allocation: Any) -> None:
        with self.current():
            allocation.free()

    def _drop(self, only_reference: list[Any]) -> None:
        """Destroy what has no method for it, by forgetting it."""
        with self.current():
            only_reference.clear()

    @contextmanager
    def _said(self, what: str) -> Iterator[None]:
        """Turn the driver's and the core's errors into a BackendError that says what failed on which GPU."""
        try:
            yield
        except (self._cuda.Error, RuntimeError) as error:
            raise BackendError(f"{what} on {self.name}: {str(error).strip()}") from error


@dataclass(eq=False)
class _Buffer:
    address: int
    n_bytes: int


class _Stream:
    """handle: the driver's. pycuda: the object that its functions take; a weak one, so that forgetting it destroys it."""

    def __init__(self, pycuda: Any, handle: int) -> None:
        self._pycuda = weakref.ref(pycuda)
        self.handle = handle

    @property
    def pycuda(self) -> Any:
        return self._pycuda()


class _Graph:
    def __init__(self, device: CudaDevice, graph: _core.Graph) -> None:
        self._device, self._graph = device, graph

    def launch(self, stream: _Stream) -> None:
        with self._device._said("launching the graph failed"):
            self._graph.launch(stream.handle)


class _Kernels:
    """`_core.Cuda`, with errors that name the GPU."""

    def __init__(self, device: CudaDevice, core: _core.Cuda) -> None:
        self._device, self._core = device, core

    def preprocess(self, preprocessor: _core.DevicePreprocessor, **addresses: Any) -> None:
        with self._device._said("preprocessing failed"):
            self._core.preprocess(preprocessor, **addresses)

    def lung_box(self, **arguments: Any) -> None:
        with self._device._said("finding the lung box failed"):
            self._core.lung_box(**arguments)

    def combine(self, combiner: _core.DeviceCombiner, **addresses: Any) -> None:
        with self._device._said("combining failed"):
            self._core.combine(combiner, **addresses)


def _driver() -> Any:
    """pycuda's driver module, initialised; never autoinit."""
    import pycuda.driver

    pycuda.driver.init()
    return pycuda.driver


def _facts(cuda: Any, device: Any) -> Gpu:
    major, minor = device.compute_capability()
    version = cuda.get_driver_version()
    return Gpu(
        name=device.name(),
        compute_capability=f"{major}.{minor}",
        driver=f"{version // 1000}.{version % 1000 // 10}",
    )
