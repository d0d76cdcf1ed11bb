"""ONNX Runtime on the CPU: compiles an ONNX file into an optimised ONNX file for this machine, and runs it.

`compile` performs all graph optimisations once (fusions, int8 kernels, memory layout) and stores the result as the engine
file; `load` skips them, which makes a cold start fast. The optimised graph holds operators and layouts chosen for this
processor, so it must not be used on another: `engines` rejects it there.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr_edge.backends import cpu_info, cpu_quota
from cxr_edge.backends.base import CompileOptions, Interruption, TensorInfo, check_inputs
from cxr_edge.errors import BackendError

__all__ = [
    "OnnxRuntimeBackend",
    "OnnxRuntimeEngine",
    "first_line",
    "quiet_session_options",
    "runtime",
    "tensor_info",
    "text_path",
]

_PROVIDERS = ["CPUExecutionProvider"]
_SEVERITY_FATAL = 4
_DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64"}
_TOO_NEW = re.compile(r"Unsupported model IR version: (\d+), max supported IR version: (\d+)")


class OnnxRuntimeEngine:
    """One loaded session. Thread-safe: several threads may call `run` at once."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.inputs = tuple(tensor_info(t) for t in session.get_inputs())
        self.outputs = tuple(tensor_info(t) for t in session.get_outputs())
        self._names = [t.name for t in self.outputs]

    def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[np.float32]]:
        """Return all outputs by name. Raises ContractError for a wrong name, dtype or shape, BackendError on failure."""
        return self._run(inputs, None)

    def run_until(
        self, inputs: Mapping[str, npt.NDArray[Any]], interruption: Interruption
    ) -> dict[str, npt.NDArray[np.float32]]:
        """As `run`; after the request it ends before its next operator, with a BackendError."""
        options = runtime().RunOptions()
        options.log_severity_level = _SEVERITY_FATAL
        interruption.on_request(lambda: setattr(options, "terminate", True))
        return self._run(inputs, options)

    def _run(self, inputs: Mapping[str, npt.NDArray[Any]], options: Any) -> dict[str, npt.NDArray[np.float32]]:
        check_inputs(self.inputs, inputs)
        try:
            values = self._session.run(self._names, dict(inputs), options)
        except Exception as error:  # the runtime raises its own types, none of which share a public base
            raise BackendError(f"ONNX Runtime failed while it ran a network: {first_line(error)}") from error
        return dict(zip(self._names, values, strict=True))


class OnnxRuntimeBackend:
    """Backend for ONNX Runtime, CPU only. Stateless."""

    name = "onnxruntime"
    suffix = ".onnx"
    precisions: tuple[str, ...] = ("fp32", "int8", "uint8")
    takes_gpu_options: bool = False

    def unavailable_because(self) -> str | None:
        """Return None, or what to install."""
        if importlib.util.find_spec("onnxruntime") is None:
            return "the package onnxruntime is not installed: pip install onnxruntime"
        return None

    def versions(self) -> dict[str, str]:
        """Return runtime version, processor, instruction sets and platform."""
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
        with text_path(engine, os.O_RDWR | os.O_CREAT) as name:
            settings.optimized_model_filepath = name
            _session(onnx, settings, action="compile")

    def load(self, engine: Path, options: CompileOptions) -> OnnxRuntimeEngine:
        """Load an engine file that `compile` wrote. Raises BackendError if the runtime cannot."""
        settings = _settings(options)
        settings.graph_optimization_level = runtime().GraphOptimizationLevel.ORT_DISABLE_ALL
        return OnnxRuntimeEngine(_session(engine, settings, action="load"))

    def load_reference(self, onnx: Path, options: CompileOptions) -> OnnxRuntimeEngine:
        """Load an ONNX file directly, without an engine file: the fp32 reference that engines are compared with."""
        settings = _settings(options)
        settings.graph_optimization_level = runtime().GraphOptimizationLevel.ORT_ENABLE_ALL
        return OnnxRuntimeEngine(_session(onnx, settings, action="load"))


def runtime() -> Any:
    """Import and return the package onnxruntime. Raises BackendError if it is not installed."""
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendError("ONNX Runtime is not installed here: pip install onnxruntime") from error
    return onnxruntime


@contextmanager
def text_path(path: Path, flags: int = os.O_RDONLY) -> Iterator[str]:
    """Yield a name of the file as text that can be encoded, which is all that the runtime takes.

    A name with bytes that are not UTF-8 is replaced by that of a descriptor of the file, opened with `flags`.
    """
    name = str(path)
    if name.encode("utf-8", "ignore").decode() == name:
        yield name
        return
    descriptor = os.open(path, flags, 0o666)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def quiet_session_options() -> Any:
    """Return session options under which the runtime prints nothing; errors still arrive as exceptions."""
    settings = runtime().SessionOptions()
    settings.log_severity_level = _SEVERITY_FATAL
    return settings


def _settings(options: CompileOptions) -> Any:
    settings = quiet_session_options()
    # A pool of the session's own: threads - 1, and the caller. The networks of an ensemble run one after the other, so that
    # the pools of the others sleep. A pool for all sessions (onnxruntime.set_global_thread_pool_sizes) would be the same for
    # every session of the process, the embedding program's too, and would keep spinning after each run.
    settings.intra_op_num_threads = min(options.threads, cpu_quota.thread_limit())
    settings.inter_op_num_threads = 1
    # Threads that spin between operators start the next one quickly. If they keep spinning after a run, they take the cores
    # from the next session of the ensemble, which then runs several times slower. So spinning stops when the run ends.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "1")
    settings.add_session_config_entry("session.force_spinning_stop", "1")
    return settings


def _session(path: Path, settings: Any, *, action: str) -> Any:
    try:
        with text_path(path) as name:
            return runtime().InferenceSession(name, settings, providers=_PROVIDERS)
    except Exception as error:  # the runtime raises its own types, none of which share a public base
        if too_new := _TOO_NEW.search(str(error)):
            raise BackendError(
                f"{path.name} has IR version {too_new[1]}, the installed ONNX Runtime {runtime().__version__} reads up to "
                f"{too_new[2]}: install a newer one (pip install --upgrade onnxruntime), or export again with ir_version "
                f"{too_new[2]} or older"
            ) from error
        raise BackendError(f"ONNX Runtime could not {action} {path.name}: {first_line(error)}") from error


def tensor_info(tensor: Any) -> TensorInfo:
    """Convert a session's input or output description to a TensorInfo."""
    shape = tuple(d if isinstance(d, int) else None for d in tensor.shape)
    return TensorInfo(name=tensor.name, dtype=_DTYPES.get(tensor.type, tensor.type), shape=shape)


def first_line(error: Exception) -> str:
    """Return the first line of the runtime's message, without the graph details that follow."""
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
