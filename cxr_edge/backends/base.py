"""Backend protocols: compile an ONNX file into an engine, load an engine, run it.

`compiler` and `screening` use runtimes only through these classes, so a new runtime is one new file beside this one.
Host engines take and return NumPy arrays. A device engine (TensorRT, ONNX Runtime's CUDA provider) implements
`DeviceEngine` as well: it is bound to device addresses and a stream once, and then enqueues its work there without
synchronising, so that a whole screening can be captured as one CUDA graph.
"""

from __future__ import annotations

import threading
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
    "InterruptibleEngine",
    "Interruption",
    "TensorInfo",
    "check_inputs",
    "option",
]

HardwareCompatibility = Literal["none", "same-compute-capability", "ampere-plus"]
HARDWARE_COMPATIBILITY: tuple[str, ...] = get_args(HardwareCompatibility)


@dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """Name, dtype and shape of an engine's input or output."""

    name: str
    dtype: str  # NumPy's name
    shape: tuple[int | None, ...]  # None: the batch size


def option(description: str, metavar: str | None = None) -> dict[str, str | None]:
    """Return the metadata of a field that is also a command-line option; the description is its help."""
    return {"help": description, "metavar": metavar}


@dataclass(frozen=True, kw_only=True)
class GpuOptions:
    """Settings of a GPU compiler, ignored by runtimes that have no such setting. None: the compiler's own default.

    Each field is the `build-engine` option of the same name. Raises InputError for a value out of range.
    """

    optimization_level: int | None = field(
        default=None,
        metadata=option("0 builds fastest, 5 tries the most kernels (default: TensorRT's own)", "0..5"),
    )
    workspace_mib: int | None = field(default=None, metadata=option("memory that one layer may use", "N"))
    timing_cache: Path | None = field(
        default=None,
        metadata=option("file of measured kernel times, created or extended; it makes the next build fast", "FILE"),
    )
    hardware_compatibility: HardwareCompatibility = field(
        default="none",
        metadata=option("other GPUs on which the engines must be valid, at a cost in speed (default: none)"),
    )
    version_compatible: bool = field(
        default=False,
        metadata=option("allow later minor versions of TensorRT to load the engines, at a cost in speed"),
    )
    max_batch: int = field(
        default=1, metadata=option("largest batch of an engine, which is tuned for batch 1 (%(default)s)", "N")
    )
    dla_core: int | None = field(
        default=None,
        metadata=option(
            "build for this DLA of a Jetson, in fp16 and int8; layers that it cannot run go to the GPU", "N"
        ),
    )

    def __post_init__(self) -> None:
        _check_integer("optimization_level", self.optimization_level, 0, 5)
        _check_integer("workspace_mib", self.workspace_mib, 1, None)
        _check_integer("max_batch", self.max_batch, 1, None)
        _check_integer("dla_core", self.dla_core, 0, None)
        if self.hardware_compatibility not in HARDWARE_COMPATIBILITY:
            raise InputError(
                f"hardware_compatibility is one of {', '.join(HARDWARE_COMPATIBILITY)}, "
                f"got {self.hardware_compatibility!r}"
            )
        if self.dla_core is not None and self.max_batch != 1:
            raise InputError(f"an engine for a DLA has max_batch 1, since its shapes are fixed; got {self.max_batch}")


@dataclass(frozen=True, kw_only=True)
class CompileOptions:
    """Settings of one compilation or one loaded engine."""

    threads: int = 1  # that one inference may use, 1 or more
    gpu: GpuOptions = field(default_factory=GpuOptions)
    progress: Callable[[str], None] | None = field(default=None, compare=False, repr=False)  # gets lines of progress

    def __post_init__(self) -> None:
        if isinstance(self.threads, bool) or not isinstance(self.threads, int) or self.threads < 1:
            raise InputError(f"threads must be a whole number of 1 or more, got {self.threads!r}")


@runtime_checkable
class Engine(Protocol):
    """A compiled, loaded network. Thread-safe: several threads may call `run` at once."""

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]

    def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[np.float32]]:
        """Return all outputs by name. Raises ContractError for a wrong name, dtype or shape."""
        ...


class Interruption:
    """A request of one thread that a run in another one ends. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requested = False
        self._actions: list[Callable[[], None]] = []

    def request(self) -> None:
        """Request the end: every action is called, now or when it is added."""
        with self._lock:
            self._requested = True
            actions, self._actions = self._actions, []
        for action in actions:
            action()

    def on_request(self, action: Callable[[], None]) -> None:
        """Add what makes a run end early."""
        with self._lock:
            if not self._requested:
                self._actions.append(action)
                return
        action()


@runtime_checkable
class InterruptibleEngine(Engine, Protocol):
    """An engine whose runs can be ended early."""

    def run_until(
        self, inputs: Mapping[str, npt.NDArray[Any]], interruption: Interruption
    ) -> dict[str, npt.NDArray[np.float32]]:
        """As `run`. Raises BackendError soon after `interruption` is requested."""
        ...


@runtime_checkable
class DeviceEngine(Engine, Protocol):
    """An engine that also runs on device memory, on the caller's stream, without synchronising."""

    def output_shapes(self, batch: int) -> dict[str, tuple[int, ...]]:
        """Return the shape of every output for that batch size."""
        ...

    def bind(self, addresses: Mapping[str, int], *, batch: int, stream: int) -> Callable[[], None]:
        """Return a function that enqueues one inference on the stream.

        After its first call the function neither waits nor allocates. It keeps everything that it needs alive, and binding
        again leaves earlier functions valid. Call `bind` and the function with the device current.

        addresses: of every input and output on the device, 256-byte aligned.
        batch: number of images per inference.
        stream: the runtime's stream handle as an integer.

        Raises ContractError unless the addresses are exactly those of the inputs and outputs.
        """
        ...


@runtime_checkable
class Backend(Protocol):
    """One runtime. Stateless; state is in the engines that it loads."""

    name: str
    suffix: str  # of its engine files, for example ".onnx"
    precisions: tuple[str, ...]  # of the ONNX files that it compiles: "fp32", "fp16", "bf16", "int8", "uint8"
    takes_gpu_options: bool  # whether `GpuOptions` change the compiled engine

    def unavailable_because(self) -> str | None:
        """Return None if the runtime can run here, else the reason and what to install.

        Cheap: it only looks at what is installed. `backends.choose` runs the self-test as well.
        """
        ...

    def versions(self) -> dict[str, str]:
        """Return the versions that an engine depends on: runtime, driver, processor. A difference makes it outdated."""
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
        """Return the device that the engines run on. Raises BackendError if it cannot be used."""
        ...

    def portable(self, options: GpuOptions) -> tuple[str, ...]:
        """Return the keys of `versions` that an engine built with these options does not depend on."""
        ...


def check_inputs(expected: tuple[TensorInfo, ...], given: Mapping[str, npt.NDArray[Any]]) -> None:
    """Raise ContractError unless `given` holds exactly the expected inputs, each of the right dtype and shape."""
    names = [t.name for t in expected]
    if set(given) != set(names):
        raise ContractError(f"the engine takes the inputs {names}, got {sorted(given)}")
    for tensor in expected:
        array = given[tensor.name]
        if array.dtype != tensor.dtype or not _fits(array.shape, tensor.shape):
            shape = ", ".join("N" if d is None else str(d) for d in tensor.shape)
            raise ContractError(
                f"the engine's input {tensor.name!r} is {tensor.dtype} ({shape}), got {array.dtype} {array.shape}"
            )


def _fits(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    return len(shape) == len(expected) and all(
        e == s or (e is None and s > 0) for s, e in zip(shape, expected, strict=True)
    )


def _check_integer(name: str, value: object, minimum: int, maximum: int | None) -> None:
    if value is None:
        return
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    if not is_integer or value < minimum or (maximum is not None and value > maximum):  # type: ignore[operator]
        limits = f"from {minimum} to {maximum}" if maximum is not None else f"of {minimum} or more"
        raise InputError(f"{name} must be a whole number {limits}, got {value!r}")
