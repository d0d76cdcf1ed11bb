"""Layout of several named arrays in one buffer, so that they cross between device and host in one copy.

Arrays are stored in the order of adding, each aligned as engines need their outputs. `offset` gives the position of an array
on the device, `views` gives the arrays of a host copy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["ALIGNMENT", "Arena"]

ALIGNMENT = 256  # bytes; TensorRT requires it


@dataclass(frozen=True, kw_only=True)
class _Entry:
    offset: int  # bytes from the start of the buffer
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def n_bytes(self) -> int:
        return int(np.prod(self.shape)) * self.dtype.itemsize


class Arena:
    """Arrays by name, with their offsets."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        self.n_bytes = 0  # of the buffer

    def add(self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        """Add an array. Consecutive arrays of equal shape and dtype are stored at equal distances."""
        entry = _Entry(offset=self.n_bytes, shape=shape, dtype=np.dtype(dtype))
        self._entries[name] = entry
        self.n_bytes += -(-entry.n_bytes // ALIGNMENT) * ALIGNMENT

    def offset(self, name: str) -> int:
        """Return the bytes from the start of the buffer to the array."""
        return self._entries[name].offset

    def views(self, memory: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[Any]]:
        """Return the arrays stored in `memory` (n_bytes), by name."""
        return {
            name: memory[entry.offset : entry.offset + entry.n_bytes].view(entry.dtype).reshape(entry.shape)
            for name, entry in self._entries.items()
        }
