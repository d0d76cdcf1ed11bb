"""A stand-in for NVIDIA's module `tensorrt` that runs networks on the CPU: `make("11.4.0")` gives the module.

For tests of the TensorRT backend where there is no GPU. Addresses are host addresses, ONNX Runtime computes; a plan holds the
ONNX file and the builder's settings, and is refused by another version or device as NVIDIA's are. What a version lacks is
absent from its module, and tests/backends/test_tensorrt_api_only.py compares every name and argument with NVIDIA's bindings. So
this proves how the backend calls TensorRT, and nothing about TensorRT: not its speed, its rounding or all that it refuses.
"""

from __future__ import annotations

import importlib.machinery
import types
from collections.abc import Callable

from tests.doubles.tensorrt import building, configuring, foundation, running
from tests.doubles.tensorrt.foundation import Flavour

__all__ = ["make"]

# Every class of the module and what it is made of, in this order; a name stands for a class made before.
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


def _at_once(stream: int, work: Callable[[], None]) -> None:
    work()


def make(
    version: str,
    *,
    compute_capability: str = "8.7",
    gpu: bool = True,
    dla_cores: int = 0,
    enqueue: Callable[[int, Callable[[], None]], None] = _at_once,
) -> types.ModuleType:
    """A module like `tensorrt` of that version, on a made-up device of that compute capability.

    gpu=False: Builder and Runtime raise TypeError, as NVIDIA's do where there is no device. enqueue: given the stream's
    handle and the work of every execute_async_v3, for tests that do it when the stream is synchronised.
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
