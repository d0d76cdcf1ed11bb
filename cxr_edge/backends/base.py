"""The protocol that every runtime meets: compile an ONNX file into an engine, load an engine, run it.

`build` compiles and `members` runs through these classes only, so a new runtime is one new file beside this one.
Host engines take and give NumPy arrays. A device engine (TensorRT, a CUDA provider) adds `DeviceEngine`: it is given
device addresses and a stream and must not synchronise, so that a whole screening can be captured as one graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from cxr_edge.errors import ContractError, InputError

__all__ = ["Backend", "CompileOptions", "DeviceEngine", "Engine", "TensorInfo", "check_inputs"]


@dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """Name, dtype (NumPy's name) and shape of an engine's input or output; None in the shape is the batch size."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True, kw_only=True)
class CompileOptions:
    """threads: threads one inference may use, 1 or more."""

    threads: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.threads, bool) or not isinstance(self.threads, int) or self.threads < 1:
            raise InputError(f"threads must be a whole number of 1 or more, got {self.threads!r}")


@runtime_checkable
class Engine(Protocol):
    """A compiled network, loaded. `run` may be called by several threads at once."""

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]

    def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[np.float32]]:
        """All outputs by name. Raises ContractError for a wrong name, dtype or shape."""
        ...


@runtime_checkable
class DeviceEngine(Engine, Protocol):
    """An engine that also runs on device memory, on the caller's stream, without synchronising."""

    def enqueue(self, addresses: Mapping[str, int], *, batch: int, stream: int) -> None:
        """addresses: device address of every input and output. stream: the runtime's stream handle as an integer."""
        ...


@runtime_checkable
class Backend(Protocol):
    """One runtime. All state is in the engines it makes."""

    name: str
    suffix: str  # of its engine files, ".onnx"
    precisions: tuple[str, ...]  # of the ONNX files that it compiles, out of "fp32", "fp16", "int8", "uint8"

    def unavailable_because(self) -> str | None:
        """None if it can run here, else why not and what to install. Cheap; `auto` runs an inference besides."""
        ...

    def versions(self) -> dict[str, str]:
        """What an engine depends on: runtime version, driver, processor. A difference makes an engine outdated."""
        ...

    def compile(self, onnx: Path, engine: Path, options: CompileOptions) -> None:
        """Compile `onnx` and write the engine file. Raises BackendError if it cannot."""
        ...

    def load(self, engine: Path, options: CompileOptions) -> Engine:
        """Load an engine file that `compile` wrote on this machine. Raises BackendError if it cannot."""
        ...


def check_inputs(expected: tuple[TensorInfo, ...], given: Mapping[str, npt.NDArray[Any]]) -> None:
    """Raise ContractError unless `given` holds exactly the expected inputs, each of the right dtype and shape."""
    names = [t.name for t in expected]
    if set(given) != set(names):
        raise ContractError(f"the engine takes the inputs {names}, got {sorted(given)}")
    for tensor in expected:
        array = given[tensor.name]
        if array.dtype != tensor.dtype or not _fits(array.shape, tensor.shape):
            wanted = ", ".join("N" if d is None else str(d) for d in tensor.shape)
            raise ContractError(
                f"the engine's input {tensor.name!r} is {tensor.dtype} ({wanted}), got {array.dtype} {array.shape}"
            )


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(shape) == len(wanted) and all(
        w == s or (w is None and s > 0) for s, w in zip(shape, wanted, strict=True)
    )
