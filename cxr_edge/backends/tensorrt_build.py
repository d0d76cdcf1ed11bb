"""Build a TensorRT plan from an ONNX file: parse, configure, build; the timing cache is read before and written after.

The same code serves TensorRT 10 and 11: a feature that a version lacks is omitted or rejected with a reason.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cxr_edge.backends.base import CompileOptions, GpuOptions
from cxr_edge.backends.tensorrt_log import Log, construct
from cxr_edge.errors import BackendError
from cxr_edge.names import printable

__all__ = ["build_plan"]

_MIB = 1 << 20
_SECONDS_BETWEEN_LINES = 2.0
_LEVELS = {"same-compute-capability": "SAME_COMPUTE_CAPABILITY", "ampere-plus": "AMPERE_PLUS"}


def build_plan(trt: Any, onnx: Path, options: CompileOptions) -> bytes:
    """Return the plan of the network in `onnx` for the current device. Raises BackendError if it cannot be built."""
    log = Log.of(trt)
    log.errors.clear()
    builder = construct(trt.Builder, log, action="start its builder")
    builder.max_threads = options.threads
    # Strongly typed: each tensor has its type of the ONNX file. TensorRT 11 ignores the flag, since it has no other mode.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    config = builder.create_builder_config()
    _parse(trt, onnx, network, log)
    _configure(trt, builder, network, config, options.gpu, log)
    _use_timing_cache(config, options.gpu.timing_cache, log)
    if options.progress is not None:
        config.progress_monitor = _monitor(trt, onnx.stem, options.progress)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise log.error(f"TensorRT could not build {onnx.name}")
    if options.gpu.timing_cache is not None:
        _save_timing_cache(config, options.gpu.timing_cache)
    return bytes(plan)


def _parse(trt: Any, onnx: Path, network: Any, log: Log) -> None:
    parser = trt.OnnxParser(network, log.logger)
    # The parser would look for external weights relative to this path.
    if not parser.parse(onnx.read_bytes(), printable(onnx)):
        errors = [parser.get_error(i) for i in range(parser.num_errors)]
        reasons = "; ".join(f"{error.desc()} (node {error.node_name()!r})" for error in errors[:3])
        log.errors.clear()
        raise BackendError(f"TensorRT could not compile {onnx.name}: {reasons or 'TensorRT gave no reason'}")


def _configure(trt: Any, builder: Any, network: Any, config: Any, options: GpuOptions, log: Log) -> None:
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib * _MIB)
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.hardware_compatibility != "none":
        config.hardware_compatibility_level = _compatibility(trt, options)
    if options.dla_core is not None:
        _for_dla(trt, builder, network, config, options.dla_core)
    else:
        _add_profile(builder, network, config, options.max_batch, log)


def _compatibility(trt: Any, options: GpuOptions) -> Any:
    name = _LEVELS[options.hardware_compatibility]
    levels = trt.HardwareCompatibilityLevel
    if not hasattr(levels, name):
        raise BackendError(
            f"TensorRT {trt.__version__} has no hardware compatibility {options.hardware_compatibility!r}: omit "
            f"it, use ampere-plus, or install a later TensorRT"
        )
    return getattr(levels, name)


def _for_dla(trt: Any, builder: Any, network: Any, config: Any, core: int) -> None:
    """Configure the build for a DLA, which takes fixed shapes only; layers that it cannot run go to the GPU."""
    if core >= builder.num_DLA_cores:
        raise BackendError(f"this machine has {builder.num_DLA_cores} DLA cores, numbered from 0; there is no {core}")
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        tensor.shape = (1, *tuple(tensor.shape)[1:])
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = core
    config.set_flag(trt.BuilderFlag.GPU_FALLBACK)


def _add_profile(builder: Any, network: Any, config: Any, max_batch: int, log: Log) -> None:
    """Allow batches of 1 to max_batch, tuned for 1. Only the batch may be open; fixed shapes need no profile."""
    profile = builder.create_optimization_profile()
    open_inputs = 0
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        batch, *inner = (int(d) for d in tensor.shape)
        if any(d < 0 for d in inner):
            raise BackendError(f"the network's input {tensor.name!r} has open sides {inner}: export it with fixed ones")
        if batch < 0:
            profile.set_shape(tensor.name, (1, *inner), (1, *inner), (max_batch, *inner))
            open_inputs += 1
    if open_inputs and config.add_optimization_profile(profile) < 0:
        raise log.error("TensorRT rejected the optimisation profile")


def _use_timing_cache(config: Any, path: Path | None, log: Log) -> None:
    """Give the builder the kernel times of earlier builds. A cache of another GPU or version is replaced by a new one."""
    stored = path.read_bytes() if path is not None and path.is_file() else b""
    timing_cache = config.create_timing_cache(stored)
    if timing_cache is None or not config.set_timing_cache(timing_cache, False):
        config.set_timing_cache(config.create_timing_cache(b""), False)
    log.errors.clear()  # errors about a foreign cache do not explain a later failure


def _save_timing_cache(config: Any, path: Path) -> None:
    """Write the cache atomically, so that an interrupted build leaves the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as file:
        file.write(bytes(config.get_timing_cache().serialize()))
    os.replace(file.name, path)


def _monitor(trt: Any, name: str, report: Callable[[str], None]) -> Any:
    """Return a progress monitor that reports the current phase and step every few seconds."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._lock = threading.Lock()  # TensorRT calls from several threads
            self._steps: dict[str, int] = {}
            self._next_line = time.monotonic() + _SECONDS_BETWEEN_LINES

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with self._lock:
                self._steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            with self._lock:
                if time.monotonic() >= self._next_line:
                    self._next_line = time.monotonic() + _SECONDS_BETWEEN_LINES
                    report(f"{name}: {phase_name}, step {step + 1} of {self._steps.get(phase_name, 0)}")
            return True

        def phase_finish(self, phase_name: str) -> None:
            with self._lock:
                self._steps.pop(phase_name, None)

    return Monitor()
