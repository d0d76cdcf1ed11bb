"""GPU backends for tests without a GPU: our backend code on stand-ins of NVIDIA's and Microsoft's runtimes.

`stand_in` takes a name and pytest's monkeypatch and returns the backend, running on the emulated device. A passing test
shows how the backend uses the documented behaviour of the runtime; it shows nothing about the runtime itself.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping

from cxr_edge.backends import onnxruntime_cuda, tensorrt
from cxr_edge.backends.base import Backend
from cxr_edge.backends.onnxruntime_cuda import OnnxRuntimeCudaBackend, OnnxRuntimeCudaEngine
from tests.doubles import tensorrt as fake_tensorrt
from tests.doubles.emulated_device import EmulatedDevice

__all__ = ["STAND_INS", "stand_in"]

STAND_INS = {
    "tensorrt 10.3.0 stand-in": "10.3.0",
    "tensorrt 10.16.1.11 stand-in": "10.16.1.11",
    "tensorrt 11.4.0.106 stand-in": "11.4.0.106",
    "onnxruntime-cuda stand-in": None,
}


def stand_in(name: str, monkeypatch, device: EmulatedDevice | None = None, **tensorrt_options) -> Backend:
    """Return the backend of that name. tensorrt_options: passed to `fake_tensorrt.make`."""
    device = device or EmulatedDevice()
    version = STAND_INS[name]
    if version is None:
        return _onnxruntime(monkeypatch, device)
    module = fake_tensorrt.make(version, enqueue=_enqueue_on(device), **tensorrt_options)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setattr(tensorrt, "_tensorrt", lambda: module)
    _use(monkeypatch, tensorrt, device)
    return tensorrt.TensorRtBackend()


def _enqueue_on(device: EmulatedDevice) -> Callable[[int, Callable[[], None]], None]:
    return lambda stream, work: device.do(work, device.streams[stream], reads=[], writes=[])


def _use(monkeypatch, module, device: EmulatedDevice) -> None:
    monkeypatch.setattr(module, "cuda_device", lambda: device)
    monkeypatch.setattr(module, "gpu_unavailable_reason", lambda: None)


def _onnxruntime(monkeypatch, device: EmulatedDevice) -> Backend:
    """Return the CUDA backend running on the CPU provider, which accepts the same address bindings for host memory."""
    _use(monkeypatch, onnxruntime_cuda, device)
    monkeypatch.setattr(onnxruntime_cuda, "_PROVIDER", "CPUExecutionProvider")
    monkeypatch.setattr(onnxruntime_cuda, "_MEMORY", "cpu")
    bind = OnnxRuntimeCudaEngine.bind

    def bind_later(self, addresses: Mapping[str, int], *, batch: int, stream: int) -> Callable[[], None]:
        enqueue = bind(self, addresses, batch=batch, stream=stream)
        return lambda: _enqueue_on(device)(stream, enqueue)

    monkeypatch.setattr(OnnxRuntimeCudaEngine, "bind", bind_later)
    return OnnxRuntimeCudaBackend()
