"""Several arrays in one piece of memory, so that they cross between device and host in one copy.

Arrays are named and laid out in the order of adding, each aligned as engines want their outputs; then offsets come out for
the device, and views for the host.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["ALIGNMENT", "Arena"]

ALIGNMENT = 256  # bytes; TensorRT asks for it


class Arena:
    """n_bytes: of all arrays together."""

    def __init__(self) -> None:
        self._places: dict[str, tuple[int, tuple[int, ...], np.dtype[Any]]] = {}
        self.n_bytes = 0

    def add(self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        """Add an array. Arrays of one shape and dtype that follow each other lie at equal distances."""
        kind = np.dtype(dtype)
        self._places[name] = (self.n_bytes, shape, kind)
        size = int(np.prod(shape)) * kind.itemsize
        self.n_bytes += -(-size // ALIGNMENT) * ALIGNMENT

    def offset(self, name: str) -> int:
        """Bytes from the beginning to the array."""
        return self._places[name][0]

    def views(self, memory: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[Any]]:
        """The arrays in `memory` (n_bytes), by name."""
        return {
            name: memory[start : start + int(np.prod(shape)) * kind.itemsize].view(kind).reshape(shape)
            for name, (start, shape, kind) in self._places.items()
        }
