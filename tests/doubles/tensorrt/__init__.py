"""Fake of NVIDIA's module `tensorrt` that runs networks on the CPU: `make("11.4.0")` returns the module.

For tests of the TensorRT backend without a GPU; it has the members that the backend uses, and no others. Addresses are host
addresses, and ONNX Runtime computes. A plan contains the ONNX file and the builder's settings, and is rejected by another
version or device, like NVIDIA's plans. tests/backends/test_tensorrt_api_only.py compares every name and argument with NVIDIA's
bindings. The fake tests how the backend calls TensorRT, not TensorRT itself: not its speed, its rounding or all its errors.
"""

from __future__ import annotations

import importlib.machinery
import types
from collections.abc import Callable

from tests.doubles.tensorrt import building, configuring, foundation, running
from tests.doubles.tensorrt.foundation import Flavour

__all__ = ["make"]

_CLASSES = (
    foundation.ILogger, foundation.IProgressMonitor, foundation.IHostMemory, building.Builder, building.INetworkDefinition,
    building.ITensor, building.OnnxParser, building.ParserError, configuring.IBuilderConfig, configuring.IOptimizationProfile,
    configuring.ITimingCache, running.Runtime, running.ICudaEngine, running.IExecutionContext,
)  # fmt: skip


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
    for name, numbers in foundation.ENUMERATIONS.items():
        setattr(trt, name, foundation.enumeration(name, numbers, flavour.column))
    for kind in _CLASSES:
        setattr(trt, kind.__name__, type(kind)(kind.__name__, (kind,), {"__slots__": (), "_flavour": flavour}))
    return trt
