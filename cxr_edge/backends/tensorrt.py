"""TensorRT: compiles an ONNX file into a plan for this GPU and runs plans on device or host memory.

Networks are strongly typed, so the precision is that of the ONNX file: TensorRT 10 needs a flag for this, TensorRT 11 has
no other mode. Tests without a GPU check that every name used here exists in NVIDIA's bindings of 10.3, 10.16 and 11.4
(tests/backends/test_tensorrt_api_only.py) and run the logic on a stand-in. docs/hardware-support.md lists real GPU runs.
"""

from __future__ import annotations

import functools
import importlib.util
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr_edge.backends import cpu_info, tensorrt_build, tensorrt_log
from cxr_edge.backends.base import CompileOptions, GpuOptions, TensorInfo, check_inputs
from cxr_edge.errors import BackendError, ContractError
from cxr_edge.gpu.cuda import CudaDevice, cuda_device, gpu_unavailable_reason
from cxr_edge.gpu.interface import Device

__all__ = ["TensorRtBackend", "TensorRtEngine"]

# By TensorRT's names. bfloat16, which has no NumPy type, is never an input or output of our networks.
_DTYPES = {"FLOAT": "float32", "HALF": "float16", "INT32": "int32", "INT64": "int64", "BOOL": "bool"}


class TensorRtBackend:
    """Backend for TensorRT. Stateless."""

    name = "tensorrt"
    suffix = ".plan"
    precisions: tuple[str, ...] = ("fp32", "fp16", "bf16", "int8")
    takes_gpu_options: bool = True

    def unavailable_because(self) -> str | None:
        """Return None, or what to install."""
        if importlib.util.find_spec("tensorrt") is None:
            return (
                "the package tensorrt is not installed: on a Jetson it comes with JetPack (docs/jetson.md), elsewhere "
                "pip install 'cxr-edge[tensorrt]'"
            )
        reason = gpu_unavailable_reason()
        if reason is not None:
            return reason
        try:
            _tensorrt()
        except BackendError as error:
            return str(error)
        return None

    def versions(self) -> dict[str, str]:
        """Return TensorRT version, GPU, compute capability, the driver's CUDA version and platform."""
        gpu = cuda_device().gpu.versions()
        return {"tensorrt": str(_tensorrt().__version__), **gpu, "platform": cpu_info.platform_name()}

    def portable(self, options: GpuOptions) -> tuple[str, ...]:
        """Return the keys that NVIDIA's documentation excludes for the configured compatibility."""
        keys: tuple[str, ...] = ("tensorrt",) if options.version_compatible else ()
        if options.hardware_compatibility == "same-compute-capability":
            keys += ("gpu",)
        if options.hardware_compatibility == "ampere-plus":
            keys += ("gpu", "compute_capability")
        return keys

    def device(self) -> CudaDevice:
        return cuda_device()

    def compile(self, onnx: Path, engine: Path, options: CompileOptions) -> None:
        """Build a plan from `onnx` and write it. Raises BackendError with TensorRT's own message if it cannot."""
        trt = _tensorrt()
        with self.device().current():
            engine.write_bytes(tensorrt_build.build_plan(trt, onnx, options))

    def load(self, engine: Path, options: CompileOptions) -> TensorRtEngine:
        """Load a plan. Raises BackendError if the file is not a plan for this GPU and version."""
        trt, device = _tensorrt(), self.device()
        with device.current():
            return TensorRtEngine(trt, engine, device, options.gpu)


class TensorRtEngine:
    """One loaded plan. Thread-safe: calls of `run` from several threads are serialised."""

    def __init__(self, trt: Any, path: Path, device: Device, options: GpuOptions) -> None:
        self._device = device
        self._log = tensorrt_log.Log.of(trt)
        self._runtime = tensorrt_log.construct(trt.Runtime, self._log, action="start its runtime")
        self._engine = _deserialize(self._runtime, path, self._log, options)
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        kinds = {name: self._engine.get_tensor_mode(name) for name in names}
        self.inputs = tuple(self._info(n) for n in names if kinds[n] == trt.TensorIOMode.INPUT)
        self.outputs = tuple(self._info(n) for n in names if kinds[n] == trt.TensorIOMode.OUTPUT)
        self._max_batch = self._largest_batch()
        self._shapes: dict[int, dict[str, tuple[int, ...]]] = {}  # of the outputs, by batch
        self._lock = threading.Lock()
        self._host: _HostRun | None = None

    def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[np.float32]]:
        """Return all outputs by name. A batch larger than the engine's maximum is split into chunks."""
        check_inputs(self.inputs, inputs)
        batch = len(next(iter(inputs.values())))
        with self._lock, self._device.current():
            if self._host is None:
                self._host = _HostRun(self, self._device, self._max_batch)
            chunks = [
                self._host.run({name: x[first : first + self._max_batch] for name, x in inputs.items()})
                for first in range(0, batch, self._max_batch)
            ]
        return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}

    def output_shapes(self, batch: int) -> dict[str, tuple[int, ...]]:
        """Return the shape of every output for that batch size. Raises BackendError above the engine's maximum."""
        if batch not in self._shapes:
            self._context(batch)
        return self._shapes[batch]

    def bind(self, addresses: Mapping[str, int], *, batch: int, stream: int) -> Callable[[], None]:
        """See `DeviceEngine.bind`. Every binding has its own execution context, and so its own working memory."""
        names = {t.name for t in (*self.inputs, *self.outputs)}
        if set(addresses) != names:
            raise ContractError(f"the engine has the tensors {sorted(names)}, got addresses of {sorted(addresses)}")
        context = self._context(batch)
        for name, address in addresses.items():
            if not context.set_tensor_address(name, address):
                raise self._log.error(f"TensorRT rejected the address of {name!r}")

        def enqueue() -> None:
            if not context.execute_async_v3(stream):
                raise self._log.error("TensorRT failed while it ran a network")

        return enqueue

    def _context(self, batch: int) -> Any:
        """Create an execution context for that batch size. It takes device memory, so the output shapes are cached."""
        context = self._engine.create_execution_context()
        if context is None:
            raise self._log.error("TensorRT could not create an execution context: is there GPU memory left?")
        for tensor in self.inputs:
            if not context.set_input_shape(tensor.name, (batch, *tensor.shape[1:])):
                raise self._log.error(f"the engine was built for batches of up to {self._max_batch}, got {batch}")
        self._shapes[batch] = {t.name: tuple(int(d) for d in context.get_tensor_shape(t.name)) for t in self.outputs}
        return context

    def _info(self, name: str) -> TensorInfo:
        shape = tuple(int(d) for d in self._engine.get_tensor_shape(name))
        dtype = self._engine.get_tensor_dtype(name).name
        inner = tuple(None if d < 0 else d for d in shape[1:])
        return TensorInfo(name=name, dtype=_DTYPES.get(dtype, dtype.lower()), shape=(None, *inner))

    def _largest_batch(self) -> int:
        name = self.inputs[0].name
        batch = int(self._engine.get_tensor_shape(name)[0])
        return batch if batch > 0 else int(self._engine.get_tensor_profile_shape(name, 0)[2][0])


class _HostRun:
    """Buffers and bindings for arrays in host memory; one binding is created per batch size and reused."""

    def __init__(self, engine: TensorRtEngine, device: Device, max_batch: int) -> None:
        self._engine, self._device = engine, device
        self._stream = device.stream()
        tensors = (*engine.inputs, *engine.outputs)
        shapes = {**engine.output_shapes(max_batch), **{t.name: (max_batch, *t.shape[1:]) for t in engine.inputs}}
        sizes = {t.name: _n_bytes(shapes[t.name], t.dtype) for t in tensors}
        self._buffers = {name: device.allocate(size) for name, size in sizes.items()}
        self._bound: dict[int, tuple[Callable[[], None], dict[str, npt.NDArray[Any]]]] = {}

    def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        enqueue, outputs = self._for_batch(len(next(iter(inputs.values()))))
        arrays = {name: np.ascontiguousarray(x) for name, x in inputs.items()}
        for name, array in arrays.items():
            self._device.upload(self._buffers[name].address, array, self._stream)
        enqueue()
        for name, array in outputs.items():
            self._device.download(array, self._buffers[name].address, self._stream)
        self._device.synchronize(self._stream)
        return {name: array.copy() for name, array in outputs.items()}

    def _for_batch(self, batch: int) -> tuple[Callable[[], None], dict[str, npt.NDArray[Any]]]:
        if batch not in self._bound:
            addresses = {name: buffer.address for name, buffer in self._buffers.items()}
            enqueue = self._engine.bind(addresses, batch=batch, stream=self._stream.handle)
            shapes = self._engine.output_shapes(batch)
            outputs = {t.name: np.empty(shapes[t.name], t.dtype) for t in self._engine.outputs}
            self._bound[batch] = enqueue, outputs
        return self._bound[batch]


def _n_bytes(shape: tuple[int | None, ...], dtype: str) -> int:
    return int(np.prod([d or 1 for d in shape])) * np.dtype(dtype).itemsize


def _deserialize(runtime: Any, path: Path, log: tensorrt_log.Log, options: GpuOptions) -> Any:
    # A version-compatible plan carries its own host code, which runs only if it is allowed to.
    runtime.engine_host_code_allowed = options.version_compatible
    if options.dla_core is not None:
        runtime.DLA_core = options.dla_core
    engine = runtime.deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        raise log.error(f"TensorRT could not load {path.name}")
    return engine


@functools.cache
def _tensorrt() -> Any:
    """Import and return NVIDIA's module. Raises BackendError if it or its libraries are not installed."""
    try:
        import tensorrt as trt
    except (ImportError, OSError) as error:  # a missing library is an ImportError without a module's name
        raise BackendError(f"TensorRT cannot be imported: {str(error).splitlines()[0]}") from error
    return trt
