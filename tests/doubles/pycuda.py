"""Fake of `pycuda.driver` on host memory: the part that cxr_edge/gpu/cuda.py uses, as strict about contexts as pycuda.

Memory may be freed only with the context current, a call without a context is an error, and pushes and pops must match. The
names are those of pycuda 2026.1, with which the same calls were tested once on a stub driver.
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
    """The module, with any number of GPUs."""

    Error = Error

    def __init__(self, *, gpus: int = 1) -> None:
        self.gpus = gpus
        self.counts = {"memory": 0, "pinned": 0, "stream": 0}  # existing objects
        self.warnings: list[str] = []  # of a real driver
        self._stacks = threading.local()
        self.Context = SimpleNamespace(pop=self._pop)

    @property
    def stack(self) -> list[Any]:
        if not hasattr(self._stacks, "of_thread"):
            self._stacks.of_thread = []
        return self._stacks.of_thread

    def require_context(self, call: str) -> None:
        if not self.stack:
            self.warnings.append(f"{call} without a context")
            raise Error(f"{call} failed: invalid device context")

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
        self.require_context("cuMemAlloc")
        if n_bytes > 1 << 40:
            raise Error("cuMemAlloc failed: out of memory")
        return _Allocation(self, n_bytes, "memory")

    def pagelocked_empty(self, n_bytes: int, dtype: Any) -> np.ndarray:
        self.require_context("cuMemHostAlloc")
        return np.asarray(_Allocation(self, n_bytes, "pinned"))

    def Stream(self, flags: int) -> _Stream:  # noqa: N802
        self.require_context("cuStreamCreate")
        assert flags == 1, "a stream that waits for the legacy default stream"
        return _Stream(self)

    def memcpy_htod_async(self, to: int, source: np.ndarray, stream: _Stream) -> None:
        self.require_context("cuMemcpyHtoDAsync")
        assert source.flags.c_contiguous
        assert isinstance(stream, _Stream)
        ctypes.memmove(to, source.ctypes.data, source.nbytes)

    def memcpy_dtoh_async(self, to: np.ndarray, source: int, stream: _Stream) -> None:
        self.require_context("cuMemcpyDtoHAsync")
        assert to.flags.c_contiguous
        assert isinstance(stream, _Stream)
        ctypes.memmove(to.ctypes.data, source, to.nbytes)


class _Context:
    def __init__(self, driver: FakeDriver) -> None:
        self._driver = driver

    def push(self) -> None:
        self._driver.stack.append(self)


class _Owned:
    """An object of the driver, which must be freed with the context current."""

    def __init__(self, driver: FakeDriver, kind: str) -> None:
        self.driver, self.kind, self.alive = driver, kind, True
        driver.counts[kind] += 1

    def free(self) -> None:
        self.driver.require_context(f"freeing {self.kind}")
        self.driver.counts[self.kind] -= 1
        self.alive = False

    def __del__(self) -> None:
        if self.alive:
            if not self.driver.stack:
                self.driver.warnings.append(f"{self.kind} in out-of-thread context could not be cleaned up")
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
        self.driver.require_context("cuStreamSynchronize")
