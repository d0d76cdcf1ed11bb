"""CUDA implementation of `interface.Device`: memory, streams and copies by pycuda; events, capture and kernels by csrc.

pycuda has no stream capture and does not expose an event's handle, so csrc implements these two. Everything runs in the
device's primary context, which torch and the CUDA runtime use too; `pycuda.autoinit`, which would create another context,
is never used. pycuda frees memory only in the thread that retained the context or with the context current, so objects of
this module are released with the context current, in any thread.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, ParamSpec

import numpy as np
import numpy.typing as npt

import cxr_edge._core as _core
from cxr_edge.errors import BackendError

__all__ = ["CudaDevice", "Gpu", "cuda_device", "gpu_unavailable_reason"]

P = ParamSpec("P")

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: does not wait for the legacy default stream, which torch may be using


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """Properties of a GPU that an engine depends on."""

    name: str
    compute_capability: str  # such as 8.7
    driver: str  # the CUDA version that the driver supports, such as 13.0

    def versions(self) -> dict[str, str]:
        """Return the GPU's part of `Backend.versions`."""
        return {"gpu": self.name, "compute_capability": self.compute_capability, "driver": self.driver}


def gpu_unavailable_reason() -> str | None:
    """Return None if a GPU can be used through pycuda, else the reason and the fix.

    Initialises the driver, creates no context.
    """
    if importlib.util.find_spec("pycuda") is None:
        return "the package pycuda is not installed: pip install 'cxr-edge[gpu]' (it needs the CUDA toolkit to build)"
    try:
        return None if _driver().Device.count() else "the driver finds no GPU: check nvidia-smi"
    except Exception as error:  # pycuda's error classes exist only after its import
        return f"the CUDA driver cannot be used ({str(error).strip() or type(error).__name__}): check nvidia-smi"


@functools.cache
def cuda_device(ordinal: int = 0) -> CudaDevice:
    """Return the process's single object for that GPU. Raises BackendError if it cannot be used."""
    reason = gpu_unavailable_reason()
    if reason is not None:
        raise BackendError(f"no GPU can be used here: {reason}")
    return CudaDevice(ordinal)


class CudaDevice:
    """One GPU. Get it from `cuda_device`, so that a process has one object per GPU."""

    def __init__(self, ordinal: int) -> None:
        self._cuda = _driver()
        device = self._cuda.Device(ordinal)
        self.gpu = _describe_gpu(self._cuda, device)
        self.name = self.gpu.name
        self._context = device.retain_primary_context()
        # Never released: the driver does it when the process ends, and pycuda 2026.1 would detach it incorrectly.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._context))

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the primary context current in the calling thread."""
        self._context.push()
        try:
            yield
        finally:
            self._cuda.Context.pop()

    def allocate(self, n_bytes: int) -> _Buffer:
        with self._driver_errors(f"allocating {n_bytes} bytes of GPU memory failed"):
            allocation = self._cuda.mem_alloc(max(n_bytes, 1))
        buffer = _Buffer(int(allocation), n_bytes)
        weakref.finalize(buffer, self._free, allocation)
        return buffer

    def pinned(self, n_bytes: int) -> npt.NDArray[np.uint8]:
        with self._driver_errors(f"allocating {n_bytes} bytes of pinned memory failed"):
            array: npt.NDArray[np.uint8] = self._cuda.pagelocked_empty(n_bytes, np.uint8)
        weakref.finalize(array, self._free, array.base)
        return array

    def stream(self) -> _Stream:
        with self._driver_errors("creating a stream failed"):
            pycuda = self._cuda.Stream(_NON_BLOCKING)
        stream = _Stream(pycuda, pycuda.handle)
        weakref.finalize(stream, self._release, [pycuda])
        return stream

    def upload(self, to: int, source: npt.NDArray[Any], stream: _Stream) -> None:
        with self._driver_errors("copying to the GPU failed"):
            self._cuda.memcpy_htod_async(to, source, stream.pycuda)

    def download(self, to: npt.NDArray[Any], source: int, stream: _Stream) -> None:
        with self._driver_errors("copying from the GPU failed"):
            self._cuda.memcpy_dtoh_async(to, source, stream.pycuda)

    def event(self) -> _core.Event:
        with self._driver_errors("creating an event failed"):
            return _core.Event()

    def record(self, event: _core.Event, stream: _Stream, *, in_graph: bool = False) -> None:
        with self._driver_errors("recording an event failed"):
            event.record(stream.handle, in_graph)

    def wait(self, stream: _Stream, event: _core.Event) -> None:
        with self._driver_errors("waiting for an event failed"):
            event.make_wait(stream.handle)

    def elapsed_ms(self, start: _core.Event, end: _core.Event) -> float:
        with self._driver_errors("timing failed"):
            return end.ms_since(start)

    def synchronize(self, stream: _Stream) -> None:
        with self._driver_errors("the GPU's work failed"):
            stream.pycuda.synchronize()

    def kernels(self, stream: _Stream) -> _Kernels:
        return _Kernels(self, stream)

    def capture(self, stream: _Stream, work: Callable[[], None]) -> _Graph:
        with self._driver_errors("capturing the work as a graph failed"):
            _core.begin_capture(stream.handle)
            try:
                work()
            except BaseException:
                self._abandon(stream)
                raise
            return _Graph(self, _core.end_capture(stream.handle))

    @staticmethod
    def _abandon(stream: _Stream) -> None:
        """End a capture whose work failed, so that the stream is usable again. The capture may be invalid already."""
        with suppress(RuntimeError):
            _core.end_capture(stream.handle)

    def _free(self, allocation: Any) -> None:
        with self.current():
            allocation.free()

    def _release(self, only_reference: list[Any]) -> None:
        """Destroy an object that has no destroy method by clearing its last reference."""
        with self.current():
            only_reference.clear()

    @contextmanager
    def _driver_errors(self, action: str) -> Iterator[None]:
        """Re-raise errors of the driver and the core as a BackendError that names the action and the GPU."""
        try:
            yield
        except (self._cuda.Error, RuntimeError) as error:
            raise BackendError(f"{action} on {self.name}: {str(error).strip()}") from error


@dataclass(eq=False)
class _Buffer:
    address: int
    n_bytes: int


class _Stream:
    def __init__(self, pycuda: Any, handle: int) -> None:
        self._pycuda = weakref.ref(pycuda)  # weak, so that the finalizer holds the last reference
        self.handle = handle  # the driver's

    @property
    def pycuda(self) -> Any:
        """The stream object for pycuda's functions."""
        return self._pycuda()


class _Graph:
    def __init__(self, device: CudaDevice, graph: _core.Graph) -> None:
        self._device, self._graph = device, graph

    def launch(self, stream: _Stream) -> None:
        with self._device._driver_errors("launching the graph failed"):
            self._graph.launch(stream.handle)


class _Kernels:
    """`_core.Cuda` on a stream, with errors that name the GPU; the signatures are those of `_core.Kernels`."""

    def __init__(self, device: CudaDevice, stream: _Stream) -> None:
        core = _core.Cuda(stream.handle)
        self.preprocess = _with_driver_errors(core.preprocess, device, "preprocessing failed")
        self.lung_box = _with_driver_errors(core.lung_box, device, "computing the lung box failed")
        self.combine = _with_driver_errors(core.combine, device, "combining failed")


def _with_driver_errors(kernel: Callable[P, None], device: CudaDevice, action: str) -> Callable[P, None]:
    def launch(*args: P.args, **kwargs: P.kwargs) -> None:
        with device._driver_errors(action):
            kernel(*args, **kwargs)

    return launch


def _driver() -> Any:
    """Import and initialise pycuda's driver module; never autoinit."""
    import pycuda.driver

    pycuda.driver.init()
    return pycuda.driver


def _describe_gpu(cuda: Any, device: Any) -> Gpu:
    major, minor = device.compute_capability()
    version = cuda.get_driver_version()
    return Gpu(
        name=device.name(),
        compute_capability=f"{major}.{minor}",
        driver=f"{version // 1000}.{version % 1000 // 10}",
    )
