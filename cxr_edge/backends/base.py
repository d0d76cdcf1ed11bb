"""The protocol that every runtime meets: compile an ONNX file into an engine, load an engine, run it.

`build` compiles and `screener` runs through these classes only, so a new runtime is one new file beside this one.
Host engines take and give NumPy arrays. A device engine (TensorRT, ONNX Runtime's CUDA provider) adds `DeviceEngine`: it
is bound to device addresses and a stream once, and from then on puts its work there without synchronising, so that a
whole screening can be captured as one graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
import numpy.typing as npt

from cxr_edge.errors import ContractError, InputError

if TYPE_CHECKING:
    from cxr_edge.gpu.interface import Device

__all__ = [
    "HARDWARE_COMPATIBILITY",
    "Backend",
    "CompileOptions",
    "DeviceBackend",
    "DeviceEngine",
    "Engine",
    "GpuOptions",
    "HardwareCompatibility",
    "TensorInfo",
    "check_inputs",
]

HardwareCompatibility = Literal["none", "same-compute-capability", "ampere-plus"]
HARDWARE_COMPATIBILITY: tuple[str, ...] = get_args(HardwareCompatibility)


@dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """Name, dtype (NumPy's name) and shape of an engine's input or output; None in the shape is the batch size."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True, kw_only=True)
class GpuOptions:
    """How a GPU's compiler builds; the runtimes that have no such choice ignore it. None: the compiler's own default.

    optimization_level: 0 (quick to build) to 5 (tries most). workspace_mib: memory that one layer may use.
    timing_cache: a file of measured kernels, made or added to, which makes the next build quick.
    hardware_compatibility: for which other GPUs the engine shall be valid, at a cost in speed.
    version_compatible: whether later minor versions of the compiler's runtime may load it, likewise.
    max_batch: the largest batch; the engine is tuned for one image. dla_core: build for that DLA of a Jetson, which
    computes in fp16 and int8, and leave to the GPU what the DLA cannot do.
    """

    optimization_level: int | None = None
    workspace_mib: int | None = None
    timing_cache: Path | None = None
    hardware_compatibility: HardwareCompatibility = "none"
    version_compatible: bool = False
    max_batch: int = 1
    dla_core: int | None = None

    def __post_init__(self) -> None:
        _check_whole("optimization_level", self.optimization_level, 0, 5)
        _check_whole("workspace_mib", self.workspace_mib, 1, None)
        _check_whole("max_batch", self.max_batch, 1, None)
        _check_whole("dla_core", self.dla_core, 0, None)
        if self.hardware_compatibility not in HARDWARE_COMPATIBILITY:
            raise InputError(
                f"hardware_compatibility is one of {', '.join(HARDWARE_COMPATIBILITY)}, "
                f"got {self.hardware_compatibility!r}"
            )
        if self.dla_core is not None and self.max_batch != 1:
            raise InputError(f"an engine for a DLA has max_batch 1, since its shapes are fixed; got {self.max_batch}")


@dataclass(frozen=True, kw_only=True)
class CompileOptions:
    """threads: threads one inference may use, 1 or more. progress: takes lines about a long compilation."""

    threads: int = 1
    gpu: GpuOptions = field(default_factory=GpuOptions)
    progress: Callable[[str], None] | None = field(default=None, compare=False, repr=False)

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

    def output_shapes(self, batch: int) -> dict[str, tuple[int, ...]]:
        """The shape of every output for that batch."""
        ...

    def bind(self, addresses: Mapping[str, int], *, batch: int, stream: int) -> Callable[[], None]:
        """A function that puts one inference on the stream; it neither waits nor allocates once it has run.

        addresses: of every input and output on the device, 256-byte aligned. stream: the runtime's handle, as an
        integer. Called with the device current; the function keeps what it needs alive. Binding again leaves earlier
        functions valid. Raises ContractError unless the addresses are exactly those of the inputs and outputs.
        """
        ...


@runtime_checkable
class Backend(Protocol):
    """One runtime. All state is in the engines it makes."""

    name: str
    suffix: str  # of its engine files, ".onnx"
    precisions: tuple[str, ...]  # of the ONNX files that it compiles: "fp32", "fp16", "bf16", "int8", "uint8"
    takes_gpu_options: bool  # whether `GpuOptions` change what it compiles

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


@runtime_checkable
class DeviceBackend(Backend, Protocol):
    """A runtime whose engines are device engines."""

    def device(self) -> Device:
        """The device that its engines run on. Raises BackendError if it cannot be used."""
        ...

    def portable(self, options: GpuOptions) -> tuple[str, ...]:
        """The keys of `versions` on which an engine built with these options does not depend."""
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


def _check_whole(name: str, value: object, least: int, most: int | None) -> None:
    if value is None:
        return
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):  # type: ignore[operator]
        limits = f"from {least} to {most}" if most is not None else f"of {least} or more"
        raise InputError(f"{name} must be a whole number {limits}, got {value!r}")
