"""Common parts of the fake: versions, enumerations, and base classes that behave like pybind11's."""

from __future__ import annotations

import ctypes
import operator
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

# Number of every member, or those of 10.3, 10.16 and 11.4 where they differ; None if it does not exist.
ENUMERATIONS: dict[str, dict[str, int | tuple[int | None, int, int]]] = {
    "BuilderFlag": {"GPU_FALLBACK": 3, "VERSION_COMPATIBLE": (13, 13, 12)},
    "NetworkDefinitionCreationFlag": {"STRONGLY_TYPED": (1, 1, 0)},
    "HardwareCompatibilityLevel": {"NONE": 0, "AMPERE_PLUS": 1, "SAME_COMPUTE_CAPABILITY": (None, 2, 2)},
    "MemoryPoolType": {"WORKSPACE": 0},
    "DeviceType": {"GPU": 0, "DLA": 1},
    "TensorIOMode": {"NONE": 0, "INPUT": 1, "OUTPUT": 2},
    "DataType": {"FLOAT": 0, "HALF": 1, "INT32": 3, "BOOL": 4, "INT64": 8},
}
SEVERITIES = {"INTERNAL_ERROR": 0, "ERROR": 1, "WARNING": 2, "INFO": 3, "VERBOSE": 4}
NUMPY = {"FLOAT": np.float32, "HALF": np.float16, "INT32": np.int32, "BOOL": np.bool_, "INT64": np.int64}


@dataclass(frozen=True, kw_only=True)
class Flavour:
    """Version and device of one fake module, shared by all its objects."""

    version: str
    compute_capability: str
    gpu: bool
    dla_cores: int
    enqueue: Callable[[int, Callable[[], None]], None]
    # The module itself.
    trt: types.ModuleType = field(default_factory=lambda: types.ModuleType("tensorrt"))

    @property
    def column(self) -> int:
        """Column of ENUMERATIONS: 0 for versions like 10.3, 1 for those like 10.16, 2 for 11 and later."""
        major, minor = map(int, self.version.split(".")[:2])
        return 2 if major >= 11 else int(minor >= 16)

    def need_gpu(self) -> None:
        """Raise the error of the bindings for a machine without a device."""
        if not self.gpu:
            raise TypeError("pybind11::init(): factory function returned nullptr")


class _Enumeration:
    """Enumeration member that behaves like pybind11's: no arithmetic, no subscripts, equal only to the same type."""

    __slots__ = ("_name", "_number")

    def __init__(self, name: str, number: int) -> None:
        self._name, self._number = name, number

    @property
    def name(self) -> str:
        return self._name

    def __int__(self) -> int:
        return self._number

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and int(other) == self._number

    def __hash__(self) -> int:
        return hash(self._number)


def enumeration(name: str, numbers: dict[str, Any], column: int = 0) -> type:
    """Return an enumeration with the members of a version."""
    made = type(name, (_Enumeration,), {"__slots__": ()})
    for n, number in numbers.items():
        own = number[column] if isinstance(number, tuple) else number
        if own is not None:
            setattr(made, n, made(n, own))
    return made


def check_type(value: Any, kind: type | tuple[type, ...]) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"incompatible function arguments: {value!r} is no {kind}")
    return value


class _Subclassable(type):
    """Metaclass that rejects objects whose __init__ did not call the base class, like pybind11."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        made = super().__call__(*args, **kwargs)
        if not hasattr(made, "_ready"):
            raise TypeError(f"{cls.__name__}.__init__() must be called when overriding __init__")
        return made


class ILogger(metaclass=_Subclassable):
    __slots__ = ("_ready",)
    Severity = enumeration("Severity", SEVERITIES)

    def __init__(self) -> None:
        self._ready = True

    def log(self, severity: Any, msg: str) -> None:
        raise RuntimeError('Tried to call pure virtual function "ILogger::log"')


for _severity in SEVERITIES:
    setattr(ILogger, _severity, getattr(ILogger.Severity, _severity))


class IProgressMonitor(metaclass=_Subclassable):
    __slots__ = ("_ready",)

    def __init__(self) -> None:
        self._ready = True

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None: ...

    def step_complete(self, phase_name: str, step: int) -> bool:
        return False  # the default of the bindings

    def phase_finish(self, phase_name: str) -> None: ...


class Bound:
    """Base class of objects that only other objects can create, and that accept no new attributes."""

    __slots__ = ()
    _flavour: Flavour

    def __init__(self) -> None:
        raise TypeError(f"{type(self).__name__}: No constructor defined!")


def new(kind: Any, **fields: Any) -> Any:
    made = object.__new__(kind)
    for name, value in fields.items():
        setattr(made, name, value)
    return made


class IHostMemory(ctypes.Structure):
    """Memory with the buffer protocol but, like NVIDIA's, without length and slices."""


def host_memory(content: bytes) -> Any:
    kind = type("IHostMemory", (IHostMemory,), {"_fields_": [("_bytes", ctypes.c_ubyte * len(content))]})
    return kind.from_buffer_copy(content)


def shape(sides: Any) -> tuple[int, ...]:
    """Return a shape's sides as integers; a float is a TypeError."""
    return tuple(map(operator.index, check_type(sides, (tuple, list))))
