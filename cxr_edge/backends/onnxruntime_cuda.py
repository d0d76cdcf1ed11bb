"""ONNX Runtime's CUDA provider: GPU inference for machines without TensorRT, on host or device memory.

An engine file is the ONNX file itself; the runtime optimises it while loading, which takes seconds. For device memory a
session is created on the caller's stream, with inputs and outputs bound to addresses and without synchronisation, so that
it can be captured in a CUDA graph. The provider is part of the package onnxruntime-gpu, which replaces onnxruntime.
"""

from __future__ import annotations

import functools
import importlib.util
import shutil
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr_edge.backends import cpu_info
from cxr_edge.backends.base import CompileOptions, GpuOptions, check_inputs
from cxr_edge.backends.onnxruntime import first_line, quiet_session_options, runtime, tensor_info, text_path
from cxr_edge.errors import BackendError, ContractError
from cxr_edge.gpu.cuda import CudaDevice, cuda_device, gpu_unavailable_reason

__all__ = ["OnnxRuntimeCudaBackend", "OnnxRuntimeCudaEngine"]

_PROVIDER = "CUDAExecutionProvider"
_MEMORY = "cuda"
_GPU = 0


class OnnxRuntimeCudaBackend:
    """Backend for ONNX Runtime with CUDA. Stateless."""

    name = "onnxruntime-cuda"
    suffix = ".onnx"
    precisions: tuple[str, ...] = ("fp32", "fp16")
    takes_gpu_options: bool = False

    def unavailable_because(self) -> str | None:
        """Return None, or what to install."""
        if importlib.util.find_spec("pycuda") is None:  # checked first: it is free, importing onnxruntime is not
            return gpu_unavailable_reason()
        if importlib.util.find_spec("onnxruntime") is None or _PROVIDER not in runtime().get_available_providers():
            return "ONNX Runtime has no CUDA provider here: pip install onnxruntime-gpu instead of onnxruntime"
        return gpu_unavailable_reason()

    def versions(self) -> dict[str, str]:
        """Return runtime version, GPU, compute capability, the driver's CUDA version and platform."""
        gpu = cuda_device().gpu.versions()
        return {"onnxruntime": str(runtime().__version__), **gpu, "platform": cpu_info.platform_name()}

    def portable(self, options: GpuOptions) -> tuple[str, ...]:
        """Return no key: an ONNX file depends on no GPU, but its measured parity may differ between GPUs."""
        return ()

    def device(self) -> CudaDevice:
        return cuda_device()

    def compile(self, onnx: Path, engine: Path, options: CompileOptions) -> None:
        """Copy `onnx` after a session on it could be created. Raises BackendError if it cannot."""
        _session(onnx, action="compile")
        shutil.copyfile(onnx, engine)

    def load(self, engine: Path, options: CompileOptions) -> OnnxRuntimeCudaEngine:
        """Load an engine file. Raises BackendError if the runtime cannot."""
        return OnnxRuntimeCudaEngine(engine)


class OnnxRuntimeCudaEngine:
    """One loaded network. Thread-safe: several threads may call `run` at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._session = _session(path, action="load")
        self.inputs = tuple(tensor_info(t) for t in self._session.get_inputs())
        self.outputs = tuple(tensor_info(t) for t in self._session.get_outputs())
        self._shapes: dict[int, dict[str, tuple[int, ...]]] = {}
        self._lock = threading.Lock()

    def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[np.float32]]:
        """Return all outputs by name. Raises ContractError for a wrong name, dtype or shape, BackendError on failure."""
        check_inputs(self.inputs, inputs)
        names = [t.name for t in self.outputs]
        try:
            return dict(zip(names, self._session.run(names, dict(inputs)), strict=True))
        except Exception as error:  # the runtime raises its own types, none of which share a public base
            raise BackendError(f"ONNX Runtime failed while it ran a network on the GPU: {first_line(error)}") from error

    def output_shapes(self, batch: int) -> dict[str, tuple[int, ...]]:
        """Return the shape of every output for that batch size, found by running zeros: files may leave sides open."""
        with self._lock:
            if batch not in self._shapes:
                zeros = {t.name: np.zeros((batch, *(d or 1 for d in t.shape[1:])), t.dtype) for t in self.inputs}
                self._shapes[batch] = {name: tuple(y.shape) for name, y in self.run(zeros).items()}
            return self._shapes[batch]

    def bind(self, addresses: Mapping[str, int], *, batch: int, stream: int) -> Callable[[], None]:
        """See `DeviceEngine.bind`. Every binding has its own session, and so its own weights and working memory."""
        names = {t.name for t in (*self.inputs, *self.outputs)}
        if set(addresses) != names:
            raise ContractError(f"the engine has the tensors {sorted(names)}, got addresses of {sorted(addresses)}")
        session = _session(self._path, action="load", stream=stream)
        binding = session.io_binding()
        shapes = self.output_shapes(batch)
        for t in self.inputs:
            shape = (batch, *t.shape[1:])
            binding.bind_input(t.name, _MEMORY, _GPU, np.dtype(t.dtype), shape, addresses[t.name])
        for t in self.outputs:
            binding.bind_output(t.name, _MEMORY, _GPU, np.dtype(t.dtype), shapes[t.name], addresses[t.name])
        options = runtime().RunOptions()
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")

        def enqueue() -> None:
            try:
                session.run_with_iobinding(binding, options)
            except Exception as error:  # as above
                raise BackendError(
                    f"ONNX Runtime failed while it ran a network on the GPU: {first_line(error)}"
                ) from error

        return enqueue


@functools.cache
def _load_libraries() -> None:
    """Load the CUDA and cuDNN libraries that pip installed; system libraries need no help. Messages go to stderr."""
    preload = getattr(runtime(), "preload_dlls", None)  # from 1.21 on
    if preload is not None:
        with redirect_stdout(sys.stderr):
            preload()


def _session(path: Path, *, action: str, stream: int | None = None) -> Any:
    """Create a session on the GPU.

    Shape arithmetic that the runtime keeps on the host is harmless. A layer that it runs there prevents graph capture,
    which the pipeline reports.
    """
    _load_libraries()
    options = {"device_id": str(_GPU), "arena_extend_strategy": "kSameAsRequested"}
    if stream is not None:
        options["user_compute_stream"] = str(stream)
    settings = quiet_session_options()
    try:
        with text_path(path) as name:
            session = runtime().InferenceSession(name, settings, providers=[(_PROVIDER, options)])
    except Exception as error:  # as above
        raise BackendError(f"ONNX Runtime could not {action} {path.name} for the GPU: {first_line(error)}") from error
    if _PROVIDER not in session.get_providers():  # where the provider's libraries are missing it is left out silently
        raise BackendError(
            f"ONNX Runtime could not {action} {path.name} for the GPU: its CUDA provider does not start here; check "
            f"that CUDA's and cuDNN's libraries are installed in the versions that it was built for"
        )
    return session
