"""ONNX Runtime on the CPU: compiles an ONNX file into an optimised ONNX file of this machine, and runs it.

`compile` lets the runtime do all its graph optimisations once (fusions, int8 kernels, memory layout) and keeps the
result as the engine file; `load` then skips them, which is what makes a cold start quick. The optimised graph holds
operators and layouts chosen for this processor, so it must not travel: `engines` refuses it elsewhere.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr_edge.backends import cpu_info
from cxr_edge.backends.base import CompileOptions, TensorInfo, check_inputs
from cxr_edge.errors import BackendError

__all__ = ["OnnxRuntimeBackend", "OnnxRuntimeEngine", "quiet_settings", "runtime", "short", "tensor_info"]

_PROVIDERS = ["CPUExecutionProvider"]
_SEVERITY_FATAL = 4
_DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64"}
_TOO_NEW = re.compile(r"Unsupported model IR version: (\d+), max supported IR version: (\d+)")


class OnnxRuntimeEngine:
    """One loaded session. `run` may be called by several threads at once."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.inputs = tuple(tensor_info(t) for t in session.get_inputs())
        self.outputs = tuple(tensor_info(t) for t in session.get_outputs())
        self._names = [t.name for t in self.outputs]

    def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[np.float32]]:
        """All outputs by name. Raises ContractError for a wrong name, dtype or shape, BackendError if it fails."""
        check_inputs(self.inputs, inputs)
        try:
            values = self._session.run(self._names, dict(inputs))
        except Exception as error:  # the runtime raises its own types, none of which share a public base
            raise BackendError(f"ONNX Runtime failed while it ran a network: {short(error)}") from error
        return dict(zip(self._names, values, strict=True))


class OnnxRuntimeBackend:
    """The registry's entry for ONNX Runtime, CPU only. Holds no state."""

    name = "onnxruntime"
    suffix = ".onnx"
    precisions: tuple[str, ...] = ("fp32", "int8", "uint8")
    takes_gpu_options: bool = False

    def unavailable_because(self) -> str | None:
        """None, or what to install."""
        if importlib.util.find_spec("onnxruntime") is None:
            return "the package onnxruntime is not installed: pip install onnxruntime"
        return None

    def versions(self) -> dict[str, str]:
        """Runtime version, processor, its instruction sets, platform."""
        return {
            "onnxruntime": str(runtime().__version__),
            "processor": cpu_info.processor_name(),
            "instruction_sets": " ".join(cpu_info.instruction_sets()),
            "platform": cpu_info.platform_name(),
        }

    def compile(self, onnx: Path, engine: Path, options: CompileOptions) -> None:
        """Optimise `onnx` for this machine and write `engine`. Raises BackendError if the runtime cannot."""
        settings = _settings(options)
        settings.graph_optimization_level = runtime().GraphOptimizationLevel.ORT_ENABLE_ALL
        settings.optimized_model_filepath = str(engine)
        _session(onnx, settings, doing="compile")

    def load(self, engine: Path, options: CompileOptions) -> OnnxRuntimeEngine:
        """Load what `compile` wrote. Raises BackendError if the runtime cannot."""
        settings = _settings(options)
        settings.graph_optimization_level = runtime().GraphOptimizationLevel.ORT_DISABLE_ALL
        return OnnxRuntimeEngine(_session(engine, settings, doing="load"))

    def load_reference(self, onnx: Path, options: CompileOptions) -> OnnxRuntimeEngine:
        """Load a plain ONNX file with no engine file in between: the fp32 reference that others are compared with."""
        settings = _settings(options)
        settings.graph_optimization_level = runtime().GraphOptimizationLevel.ORT_ENABLE_ALL
        return OnnxRuntimeEngine(_session(onnx, settings, doing="load"))


def runtime() -> Any:
    """The package. Raises BackendError if it is not installed."""
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendError("ONNX Runtime is not installed here: pip install onnxruntime") from error
    return onnxruntime


def quiet_settings() -> Any:
    """Session options under which the runtime prints nothing: its errors come back as exceptions, which we word."""
    settings = runtime().SessionOptions()
    settings.log_severity_level = _SEVERITY_FATAL
    return settings


def _settings(options: CompileOptions) -> Any:
    settings = quiet_settings()
    settings.intra_op_num_threads = options.threads
    settings.inter_op_num_threads = 1
    # Threads that spin between operators are quick to start the next one; those that go on spinning after a run take the
    # cores from the next session of the ensemble, which then runs several times slower. So they stop with the run.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "1")
    settings.add_session_config_entry("session.force_spinning_stop", "1")
    return settings


def _session(path: Path, settings: Any, *, doing: str) -> Any:
    try:
        return runtime().InferenceSession(str(path), settings, providers=_PROVIDERS)
    except Exception as error:  # the runtime raises its own types, none of which share a public base
        if too_new := _TOO_NEW.search(str(error)):
            raise BackendError(
                f"{path.name} has IR version {too_new[1]}, the installed ONNX Runtime {runtime().__version__} reads up to "
                f"{too_new[2]}: install a newer one (pip install --upgrade onnxruntime), or export again with ir_version "
                f"{too_new[2]} or older"
            ) from error
        raise BackendError(f"ONNX Runtime could not {doing} {path.name}: {short(error)}") from error


def tensor_info(tensor: Any) -> TensorInfo:
    """A session's input or output in our words."""
    shape = tuple(d if isinstance(d, int) else None for d in tensor.shape)
    return TensorInfo(name=tensor.name, dtype=_DTYPES.get(tensor.type, tensor.type), shape=shape)


def short(error: Exception) -> str:
    """The first line of the runtime's message, without the tail of graph details."""
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
