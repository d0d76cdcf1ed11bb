"""Fake of NVIDIA's module `tensorrt` that runs networks on the CPU: `make("11.4.0")` returns the module.

For tests of the TensorRT backend without a GPU. Addresses are host addresses, and ONNX Runtime computes. A plan contains the
ONNX file and the builder's settings, and is rejected by another version or device, like NVIDIA's plans. Members that a version
lacks are absent from its module; tests/backends/test_tensorrt_api_only.py compares every name and argument with NVIDIA's
bindings. The fake tests how the backend calls TensorRT, not TensorRT itself: not its speed, its rounding or all its errors.
"""

from __future__ import annotations

import importlib.machinery
import types
from collections.abc import Callable

from tests.doubles.tensorrt import building, configuring, foundation, running
from tests.doubles.tensorrt.foundation import Flavour

__all__ = ["make"]

# Every class of the module with its base classes, in order of creation; a string is the name of an earlier class.
_CLASSES: dict[str, tuple[type | str, ...]] = {
    "ILogger": (foundation.ILogger,),
    "Logger": (foundation.Logger, "ILogger"),
    "IProgressMonitor": (foundation.IProgressMonitor,),
    "IProfiler": (foundation.IProfiler,),
    "IHostMemory": (foundation.IHostMemory,),
    "Builder": (building.Builder, building.BuilderBefore11),
    "INetworkDefinition": (building.INetworkDefinition,),
    "ITensor": (building.ITensor,),
    "ILayer": (building.ILayer,),
    "OnnxParser": (building.OnnxParser, building.OnnxParserFrom1016),
    "ParserError": (building.ParserError,),
    "IBuilderConfig": (configuring.IBuilderConfig, configuring.IBuilderConfigFrom1016),
    "IOptimizationProfile": (configuring.IOptimizationProfile,),
    "ITimingCache": (configuring.ITimingCache,),
    "Runtime": (running.Runtime,),
    "ICudaEngine": (running.ICudaEngine, running.ICudaEngineBefore11),
    "IExecutionContext": (running.IExecutionContext,),
    "EngineInspector": (running.EngineInspector,),
}
_TYPE_NAMES = {"float32": "FLOAT", "float16": "HALF", "bfloat16": "BF16"} | {
    n: n.upper() for n in ("int8", "int32", "int64", "uint8", "bool", "fp8")
}


def _run_immediately(stream: int, work: Callable[[], None]) -> None:
    work()


def make(
    version: str,
    *,
    compute_capability: str = "8.7",
    gpu: bool = True,
    dla_cores: int = 0,
    enqueue: Callable[[int, Callable[[], None]], None] = _run_immediately,
) -> types.ModuleType:
    """Return a module like `tensorrt` of that version, on an imaginary device.

    compute_capability: of the device.
    gpu: False makes Builder and Runtime raise TypeError, like NVIDIA's without a device.
    dla_cores: number of DLA cores of the device.
    enqueue: gets the stream's handle and the work of every execute_async_v3, for tests that defer it to a synchronisation.
    """
    flavour = Flavour(
        version=version, compute_capability=compute_capability, gpu=gpu, dla_cores=dla_cores, enqueue=enqueue
    )
    trt = flavour.trt
    trt.__version__, trt.__spec__ = version, importlib.machinery.ModuleSpec("tensorrt", None)
    foundation.add_enumerations(flavour)
    for name, parts in _CLASSES.items():
        bases = [getattr(trt, part) if isinstance(part, str) else part for part in parts]
        bases = [b for b in bases if flavour.column in getattr(b, "_columns", (0, 1, 2))]
        setattr(trt, name, type(bases[0])(name, tuple(bases), {"__slots__": (), "_flavour": flavour}))
    foundation.name_severities(trt)
    for alias, name in _TYPE_NAMES.items():
        setattr(trt, alias, getattr(trt.DataType, name))
    trt.nptype, trt.volume = foundation.nptype, foundation.volume
    trt.init_libnvinfer_plugins = foundation.init_libnvinfer_plugins
    return trt
