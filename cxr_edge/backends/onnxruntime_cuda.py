"""ONNX Runtime's CUDA provider: the GPU way of machines without TensorRT, on host or device memory.

An engine file is the ONNX file itself; the runtime optimises it when it loads, in seconds. On device memory a session is
made for the caller's stream, with inputs and outputs bound to addresses and without synchronising, so that it can be
captured. The provider is in the package onnxruntime-gpu, which takes the place of onnxruntime.
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
from cxr_edge.backends.onnxruntime import quiet_settings, runtime, short, tensor_info
from cxr_edge.errors import BackendError, ContractError
from cxr_edge.gpu.cuda import CudaDevice, cuda_device, missing

__all__ = ["OnnxRuntimeCudaBackend", "OnnxRuntimeCudaEngine"]

_PROVIDER = "CUDAExecutionProvider"
_MEMORY = "cuda"
_GPU = 0


class OnnxRuntimeCudaBackend:
    """The registry's entry for ONNX Runtime with CUDA. Holds no state."""

    name = "onnxruntime-cuda"
    suffix = ".onnx"
    precisions: tuple[str, ...] = ("fp32", "fp16")
    takes_gpu_options: bool = False

    def unavailable_because(self) -> str | None:
        """None, or what to install."""
        if importlib.util.find_spec("pycuda") is None:  # asked first: it costs nothing, importing onnxruntime does
            return missing()
        if importlib.util.find_spec("onnxruntime") is None or _PROVIDER not in runtime().get_available_providers():
            return "ONNX Runtime has no CUDA provider here: pip install onnxruntime-gpu in the place of onnxruntime"
        return missing()

    def versions(self) -> dict[str, str]:
        """Runtime, GPU, compute capability, the driver's CUDA version, platform."""
        gpu = cuda_device().gpu.versions()
        return {"onnxruntime": str(runtime().__version__), **gpu, "platform": cpu_info.platform_name()}

    def portable(self, options: GpuOptions) -> tuple[str, ...]:
        """An ONNX file depends on no GPU; what the gate found on one may differ on another, so no key is left out."""
        return ()

    def device(self) -> CudaDevice:
        return cuda_device()

    def compile(self, onnx: Path, engine: Path, options: CompileOptions) -> None:
        """Copy `onnx`, once the provider has taken all of it. Raises BackendError if it cannot."""
        _session(onnx, doing="compile")
        shutil.copyfile(onnx, engine)

    def load(self, engine: Path, options: CompileOptions) -> OnnxRuntimeCudaEngine:
        """Load an engine file. Raises BackendError if the runtime cannot."""
        return OnnxRuntimeCudaEngine(engine)


class OnnxRuntimeCudaEngine:
    """One network. `run` may be called by several threads at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._session = _session(path, doing="load")
        self.inputs = tuple(tensor_info(t) for t in self._session.get_inputs())
        self.outputs = tuple(tensor_info(t) for t in self._session.get_outputs())
        self._shapes: dict[int, dict[str, tuple[int, ...]]] = {}
        self._lock = threading.Lock()

    def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[np.float32]]:
        """All outputs by name. Raises ContractError for a wrong name, dtype or shape, BackendError if it fails."""
        check_inputs(self.inputs, inputs)
        names = [t.name for t in self.outputs]
        try:
            return dict(zip(names, self._session.run(names, dict(inputs)), strict=True))
        except Exception as error:  # the runtime raises its own types, none of which share a public base
            raise BackendError(f"ONNX Runtime failed while it ran a network on the GPU: {short(error)}") from error

    def output_shapes(self, batch: int) -> dict[str, tuple[int, ...]]:
        """The shape of every output for that batch, seen on an inference of zeros: files may leave sides open."""
        with self._lock:
            if batch not in self._shapes:
                zeros = {t.name: np.zeros((batch, *(d or 1 for d in t.shape[1:])), t.dtype) for t in self.inputs}
                self._shapes[batch] = {name: tuple(y.shape) for name, y in self.run(zeros).items()}
            return self._shapes[batch]

    def bind(self, addresses: Mapping[str, int], *, batch: int, stream: int) -> Callable[[], None]:
        """See `DeviceEngine.bind`. Every binding has a session, and so weights and working memory, of its own."""
        names = {t.name for t in (*self.inputs, *self.outputs)}
        if set(addresses) != names:
            raise ContractError(f"the engine has the tensors {sorted(names)}, got addresses of {sorted(addresses)}")
        session = _session(self._path, doing="load", stream=stream)
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
                raise BackendError(f"ONNX Runtime failed while it ran a network on the GPU: {short(error)}") from error

        return enqueue


@functools.cache
def _load_libraries() -> None:
    """CUDA's and cuDNN's libraries where pip put them; the system's are found without. Its remarks are no results."""
    preload = getattr(runtime(), "preload_dlls", None)  # from 1.21 on
    if preload is not None:
        with redirect_stdout(sys.stderr):
            preload()


def _session(path: Path, *, doing: str, stream: int | None = None) -> Any:
    """A session on the GPU. Shape arithmetic that the runtime keeps on the host does no harm; a layer that it runs there
    cannot be captured, which the pipeline then says.
    """
    _load_libraries()
    options = {"device_id": str(_GPU), "arena_extend_strategy": "kSameAsRequested"}
    if stream is not None:
        options["user_compute_stream"] = str(stream)
    settings = quiet_settings()
    try:
        session = runtime().InferenceSession(str(path), settings, providers=[(_PROVIDER, options)])
    except Exception as error:  # as above
        raise BackendError(f"ONNX Runtime could not {doing} {path.name} for the GPU: {short(error)}") from error
    if _PROVIDER not in session.get_providers():  # where the provider's libraries are missing it is left out silently
        raise BackendError(
            f"ONNX Runtime could not {doing} {path.name} for the GPU: its CUDA provider does not start here; look "
            f"whether CUDA's and cuDNN's libraries are installed in the versions that it was built for"
        )
    return session
