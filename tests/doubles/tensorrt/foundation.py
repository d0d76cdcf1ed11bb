"""Common parts of the fake: versions, enumerations, loggers, and base classes that behave like pybind11's."""

from __future__ import annotations

import ctypes
import operator
import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

# Number of every member in 10.3, 10.16 and 11.4; None if it does not exist. Some differ, as the API test checks.
ENUMERATIONS: dict[str, dict[str, tuple[int | None, int | None, int | None]]] = {
    "BuilderFlag": {
        "FP16": (0, 0, None),
        "BF16": (17, 17, None),
        "INT8": (1, 1, None),
        "FP8": (15, 15, None),
        "INT4": (22, 22, None),
        "OBEY_PRECISION_CONSTRAINTS": (9, 9, None),
        "PREFER_PRECISION_CONSTRAINTS": (10, 10, None),
        "DEBUG": (2, 2, 2),
        "GPU_FALLBACK": (3, 3, 3),
        "REFIT": (4, 4, 4),
        "DISABLE_TIMING_CACHE": (5, 5, 5),
        "TF32": (6, 6, 6),
        "SPARSE_WEIGHTS": (7, 7, 7),
        "DIRECT_IO": (11, 11, 11),
        "VERSION_COMPATIBLE": (13, 13, 12),
        "EXCLUDE_LEAN_RUNTIME": (14, 14, 13),
        "ERROR_ON_TIMING_CACHE_MISS": (16, 16, 15),
        "DISABLE_COMPILATION_CACHE": (18, 18, 17),
        "STRIP_PLAN": (19, 19, 18),
        "STRICT_NANS": (None, 24, 23),
        "MONITOR_MEMORY": (None, 25, 24),
        "EDITABLE_TIMING_CACHE": (None, 27, 26),
    },
    "NetworkDefinitionCreationFlag": {"EXPLICIT_BATCH": (0, 0, None), "STRONGLY_TYPED": (1, 1, 0)},
    "HardwareCompatibilityLevel": {
        "NONE": (0, 0, 0),
        "AMPERE_PLUS": (1, 1, 1),
        "SAME_COMPUTE_CAPABILITY": (None, 2, 2),
    },
    "MemoryPoolType": {
        "WORKSPACE": (0, 0, 0),
        "DLA_MANAGED_SRAM": (1, 1, 1),
        "DLA_LOCAL_DRAM": (2, 2, 2),
        "DLA_GLOBAL_DRAM": (3, 3, 3),
        "TACTIC_DRAM": (4, 4, 4),
        "TACTIC_SHARED_MEMORY": (5, 5, 5),
    },
    "DeviceType": {"GPU": (0, 0, 0), "DLA": (1, 1, 1)},
    "EngineCapability": {"STANDARD": (0, 0, 0), "SAFETY": (1, 1, 1), "DLA_STANDALONE": (2, 2, 2)},
    "ProfilingVerbosity": {"LAYER_NAMES_ONLY": (0, 0, 0), "NONE": (1, 1, 1), "DETAILED": (2, 2, 2)},
    "TensorIOMode": {"NONE": (0, 0, 0), "INPUT": (1, 1, 1), "OUTPUT": (2, 2, 2)},
    "TensorLocation": {"DEVICE": (0, 0, 0), "HOST": (1, 1, 1)},
    "ExecutionContextAllocationStrategy": {
        "STATIC": (0, 0, 0),
        "ON_PROFILE_CHANGE": (1, 1, 1),
        "USER_MANAGED": (2, 2, 2),
    },
    "LayerInformationFormat": {"ONELINE": (0, 0, 0), "JSON": (1, 1, 1)},
    "ErrorCode": {
        "SUCCESS": (0, 0, 0),
        "INTERNAL_ERROR": (1, 1, 1),
        "MODEL_DESERIALIZE_FAILED": (3, 3, 3),
        "INVALID_NODE": (6, 6, 6),
        "UNSUPPORTED_NODE": (8, 8, 8),
    },
    "Severity": {
        "INTERNAL_ERROR": (0, 0, 0),
        "ERROR": (1, 1, 1),
        "WARNING": (2, 2, 2),
        "INFO": (3, 3, 3),
        "VERBOSE": (4, 4, 4),
    },
    "DataType": {
        "FLOAT": (0, 0, 0),
        "HALF": (1, 1, 1),
        "INT8": (2, 2, 2),
        "INT32": (3, 3, 3),
        "BOOL": (4, 4, 4),
        "UINT8": (5, 5, 5),
        "FP8": (6, 6, 6),
        "BF16": (7, 7, 7),
        "INT64": (8, 8, 8),
    },
}
NUMPY = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT8": np.int8,
    "INT32": np.int32,
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "INT64": np.int64,
}


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

    __slots__ = ("_number",)
    __members__: dict[str, Any]
    _numbers: dict[str, int]

    def __init__(self, value: int) -> None:
        self._number = operator.index(value)

    @property
    def name(self) -> str:
        return str(self).split(".")[1]

    @property
    def value(self) -> int:
        return self._number

    def __int__(self) -> int:
        return self._number

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and int(other) == self._number

    def __lt__(self, other: Any) -> bool:
        return self._number < int(check_type(other, type(self)))

    def __le__(self, other: Any) -> bool:
        return self._number <= int(check_type(other, type(self)))

    def __hash__(self) -> int:
        return hash(self._number)

    def __repr__(self) -> str:
        return f"<{self}: {self._number}>"

    def __str__(self) -> str:
        return f"{type(self).__name__}.{next(n for n, v in self._numbers.items() if v == self._number)}"


def add_enumerations(flavour: Flavour) -> None:
    """Add the enumerations to the module, with the members of its version."""
    for name, members in ENUMERATIONS.items():
        numbers = {n: columns[flavour.column] for n, columns in members.items()}
        setattr(flavour.trt, name, _enumeration(name, {n: v for n, v in numbers.items() if v is not None}))
    if flavour.column == 0:
        flavour.trt.ErrorCode.name = lambda self: str(self)  # a method there, of this enumeration alone
    flavour.trt.DataType.itemsize = property(lambda kind: np.dtype(NUMPY.get(kind.name, np.int8)).itemsize)


def _enumeration(name: str, numbers: dict[str, int]) -> type:
    made = type(name, (_Enumeration,), {"_numbers": numbers})
    made.__members__ = {n: made(number) for n, number in numbers.items()}
    for n, member in made.__members__.items():
        setattr(made, n, member)
    return made


def name_severities(trt: types.ModuleType) -> None:
    severity = trt.__dict__.pop("Severity")
    for kind in (trt.ILogger, trt.Logger):
        kind.Severity = severity
        for name, member in severity.__members__.items():
            setattr(kind, name, member)


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
    __slots__ = ("_least", "_ready")

    def __init__(self) -> None:
        self._ready = True

    def log(self, severity: Any, msg: str) -> None:
        raise RuntimeError('Tried to call pure virtual function "ILogger::log"')


class Logger:
    """Logger that prints to standard output, like NVIDIA's. The slot for the severity is in the base class."""

    __slots__ = ()

    def __init__(self, min_severity: Any = None) -> None:
        super().__init__()
        self._least = self.WARNING if min_severity is None else check_type(min_severity, self.Severity)

    @property
    def min_severity(self) -> Any:
        return self._least

    @min_severity.setter
    def min_severity(self, severity: Any) -> None:
        self._least = check_type(severity, self.Severity)

    def log(self, severity: Any, msg: str) -> None:
        if severity <= self._least:
            print(f"[TRT] [{severity.name[0]}] {msg}")


class IProgressMonitor(metaclass=_Subclassable):
    __slots__ = ("_ready",)

    def __init__(self) -> None:
        self._ready = True

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None: ...

    def step_complete(self, phase_name: str, step: int) -> bool:
        return False  # the default of the bindings

    def phase_finish(self, phase_name: str) -> None: ...


class IProfiler(metaclass=_Subclassable):
    __slots__ = ("_ready",)

    def __init__(self) -> None:
        self._ready = True

    def report_layer_time(self, layer_name: str, ms: float) -> None: ...


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

    @property
    def nbytes(self) -> int:
        return ctypes.sizeof(self)


def host_memory(flavour: Flavour, content: bytes) -> Any:
    kind = type("IHostMemory", (flavour.trt.IHostMemory,), {"_fields_": [("_bytes", ctypes.c_ubyte * len(content))]})
    return kind.from_buffer_copy(content)


def nptype(trt_type: Any) -> type:
    """Return NumPy's type for a DataType. Raises TypeError where NumPy has none."""
    if trt_type.name not in NUMPY:
        raise TypeError("Could not resolve TensorRT datatype to an equivalent numpy datatype.")
    return NUMPY[trt_type.name]


def volume(iterable: Iterable[int]) -> int:
    """Return the product of a shape's sides."""
    return int(np.prod(tuple(iterable), dtype=np.int64))


def init_libnvinfer_plugins(logger: ILogger, namespace: str) -> bool:
    """Return True: there are no plugins to register."""
    check_type(logger, ILogger)
    return True
