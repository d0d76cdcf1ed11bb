"""As much of `pycuda.driver` as `device/cuda.py` uses, on host memory, and as strict about contexts as the real one.

Memory may be given back only with the context current, a call without one is an error, and pushes and pops must match. The
names are those of pycuda 2026.1, against which the same calls were tried once on a driver that was a stand-in.
"""

from __future__ import annotations

import ctypes
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np

__all__ = ["FakeDriver"]


class Error(Exception):
    """Base of pycuda's errors."""


class FakeDriver:
    """The module. counts: objects that exist; gpus: how many; complaints: what a real driver would have warned of."""

    Error = Error

    def __init__(self, *, gpus: int = 1) -> None:
        self.gpus, self.counts, self.complaints = gpus, {"memory": 0, "pinned": 0, "stream": 0}, []
        self._stacks = threading.local()
        self.Context = SimpleNamespace(pop=self._pop)

    @property
    def stack(self) -> list[Any]:
        if not hasattr(self._stacks, "of_thread"):
            self._stacks.of_thread = []
        return self._stacks.of_thread

    def need_context(self, what: str) -> None:
        if not self.stack:
            self.complaints.append(f"{what} without a context")
            raise Error(f"{what} failed: invalid device context")

    def _pop(self) -> None:
        self.stack.pop()

    def Device(self, ordinal: int) -> Any:  # noqa: N802
        context = _Context(self)
        return SimpleNamespace(
            name=lambda: "Fake GPU",
            compute_capability=lambda: (8, 7),
            retain_primary_context=lambda: context,
        )

    def get_driver_version(self) -> int:
        return 13000

    def mem_alloc(self, n_bytes: int) -> _Allocation:
        self.need_context("cuMemAlloc")
        if n_bytes > 1 << 40:
            raise Error("cuMemAlloc failed: out of memory")
        return _Allocation(self, n_bytes, "memory")

    def pagelocked_empty(self, n_bytes: int, dtype: Any) -> np.ndarray:
        self.need_context("cuMemHostAlloc")
        return np.asarray(_Allocation(self, n_bytes, "pinned"))

    def Stream(self, flags: int) -> _Stream:  # noqa: N802
        self.need_context("cuStreamCreate")
        assert flags == 1, "a stream that waits for the legacy default stream"
        return _Stream(self)

    def memcpy_htod_async(self, to: int, source: np.ndarray, stream: _Stream) -> None:
        self.need_context("cuMemcpyHtoDAsync")
        assert source.flags.c_contiguous
        assert isinstance(stream, _Stream)
        ctypes.memmove(to, source.ctypes.data, source.nbytes)

    def memcpy_dtoh_async(self, to: np.ndarray, source: int, stream: _Stream) -> None:
        self.need_context("cuMemcpyDtoHAsync")
        assert to.flags.c_contiguous
        assert isinstance(stream, _Stream)
        ctypes.memmove(to.ctypes.data, source, to.nbytes)


class _Context:
    def __init__(self, driver: FakeDriver) -> None:
        self._driver = driver

    def push(self) -> None:
        self._driver.stack.append(self)


class _Owned:
    """Something of the driver's that must go with the context current."""

    def __init__(self, driver: FakeDriver, kind: str) -> None:
        self.driver, self.kind, self.alive = driver, kind, True
        driver.counts[kind] += 1

    def free(self) -> None:
        self.driver.need_context(f"freeing {self.kind}")
        self.driver.counts[self.kind] -= 1
        self.alive = False

    def __del__(self) -> None:
        if self.alive:
            if not self.driver.stack:
                self.driver.complaints.append(f"{self.kind} in out-of-thread context could not be cleaned up")
            else:
                self.free()


class _Allocation(_Owned):
    def __init__(self, driver: FakeDriver, n_bytes: int, kind: str) -> None:
        super().__init__(driver, kind)
        self._memory = (ctypes.c_uint8 * n_bytes)()
        address = ctypes.addressof(self._memory)
        self.__array_interface__ = {"shape": (n_bytes,), "typestr": "|u1", "data": (address, False), "version": 3}

    def __int__(self) -> int:
        return ctypes.addressof(self._memory)


class _Stream(_Owned):
    def __init__(self, driver: FakeDriver) -> None:
        super().__init__(driver, "stream")
        self.handle = id(self)

    def synchronize(self) -> None:
        self.driver.need_context("cuStreamSynchronize")
