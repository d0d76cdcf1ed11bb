"""Runtime classes of the fake: engines from plans, and execution contexts that run them on host addresses."""

from __future__ import annotations

import ctypes
import json
import operator
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.doubles.tensorrt import foundation, plans
from tests.doubles.tensorrt.building import INetworkDefinition
from tests.doubles.tensorrt.foundation import Bound, check_type, new

_DEVICE_MEMORY = 1 << 20


class Runtime(Bound):
    __slots__ = ("DLA_core", "_logger", "engine_host_code_allowed", "max_threads")

    def __init__(self, logger: foundation.ILogger) -> None:
        self._logger = check_type(logger, foundation.ILogger)
        self.DLA_core, self.engine_host_code_allowed, self.max_threads = -1, False, 1
        self._flavour.need_gpu()

    @property
    def logger(self) -> foundation.ILogger:
        return self._logger

    @property
    def num_DLA_cores(self) -> int:  # noqa: N802
        return self._flavour.dla_cores

    def deserialize_cuda_engine(self, serialized_engine: Any) -> Any:
        """Return the engine, or None with a logged error for invalid plans and those of another version or device."""
        content = bytes(memoryview(serialized_engine))
        plan = plans.read(content, self._flavour, host_code_allowed=self.engine_host_code_allowed)
        if isinstance(plan, str):
            self._logger.log(self._flavour.trt.ILogger.ERROR, f"IRuntime::deserializeCudaEngine: {plan}")
            return None
        trt = self._flavour.trt
        network = new(trt.INetworkDefinition, name=plan.model.graph.name, _model=plan.model, _strongly_typed=True)
        session = plans.session(plan.onnx)
        return new(trt.ICudaEngine, _plan=plan, _network=network, _session=session, _logger=self._logger)


class ICudaEngine(Bound):
    __slots__ = ("_logger", "_network", "_plan", "_session")
    _network: INetworkDefinition

    @property
    def name(self) -> str:
        return self._network.name

    @property
    def num_io_tensors(self) -> int:
        return self._network.num_inputs + self._network.num_outputs

    @property
    def num_layers(self) -> int:
        return self._network.num_layers

    @property
    def num_optimization_profiles(self) -> int:
        return max(1, len(self._plan.profiles))

    @property
    def num_aux_streams(self) -> int:
        return 0

    @property
    def device_memory_size_v2(self) -> int:
        return _DEVICE_MEMORY

    @property
    def hardware_compatibility_level(self) -> Any:
        return self._flavour.trt.HardwareCompatibilityLevel(self._plan.settings["hardware_compatibility_level"])

    @property
    def profiling_verbosity(self) -> Any:
        return self._flavour.trt.ProfilingVerbosity(self._plan.settings["profiling_verbosity"])

    @property
    def engine_capability(self) -> Any:
        return self._flavour.trt.EngineCapability(self._plan.settings["engine_capability"])

    @property
    def refittable(self) -> bool:
        return "REFIT" in self._plan.flags

    def get_tensor_name(self, index: int) -> str:
        return list(self._tensors())[operator.index(index)]

    def get_tensor_mode(self, name: str) -> Any:
        tensor = self._tensors().get(check_type(name, str))
        modes = self._flavour.trt.TensorIOMode
        if tensor is None:
            return modes.NONE
        return modes.INPUT if tensor.is_network_input else modes.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        return self._tensors()[check_type(name, str)].dtype

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._tensors()[check_type(name, str)].shape

    def get_tensor_location(self, name: str) -> Any:
        return self._flavour.trt.TensorLocation.DEVICE if check_type(name, str) else None

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        shapes = self._plan.profiles[operator.index(profile_index)] if self._plan.profiles else {}
        fixed = [self.get_tensor_shape(name)] * 3
        return [tuple(s) for s in shapes.get(name, fixed)]

    def get_device_memory_size_for_profile_v2(self, profile_index: int) -> int:
        return _DEVICE_MEMORY if operator.index(profile_index) < self.num_optimization_profiles else 0

    def serialize(self) -> Any:
        return foundation.host_memory(self._flavour, self._plan.to_bytes())

    def create_engine_inspector(self) -> Any:
        return new(self._flavour.trt.EngineInspector, _engine=self)

    def create_execution_context(self, strategy: Any = None) -> Any:
        if strategy is not None:
            check_type(strategy, self._flavour.trt.ExecutionContextAllocationStrategy)
        static = {n: t.shape for n, t in self._tensors().items() if t.is_network_input and -1 not in t.shape}
        own = {"_shapes": static, "_addresses": {}, "_profile": 0, "_busy": threading.Lock()}
        settings = {"enqueue_emits_profile": True, "name": "", "nvtx_verbosity": self.profiling_verbosity}
        unset = {"_profiler": None, "_last": {}, "_aux_streams": []}
        return new(self._flavour.trt.IExecutionContext, _engine=self, **own, **settings, **unset)

    def _tensors(self) -> dict[str, Any]:
        network = self._network
        infos = [*network._inputs, *network._model.graph.output]
        return {t.name: t for t in network._tensors(infos)}

    def _error(self, text: str) -> bool:
        self._logger.log(self._flavour.trt.ILogger.ERROR, f"IExecutionContext: Error Code 3: API Usage Error ({text})")
        return False


class ICudaEngineBefore11:
    """Members that 11 no longer has."""

    __slots__ = ()
    _columns = (0, 1)

    @property
    def device_memory_size(self) -> int:
        return _DEVICE_MEMORY


class EngineInspector(Bound):
    __slots__ = ("_engine",)

    def get_engine_information(self, format: Any) -> str:
        """Return JSON of the layers (objects if the engine was built with DETAILED, else names), inputs and outputs.

        11 renamed the second list: docs.nvidia.com, "Migrating from TensorRT 10.x to 11.x", IEngineInspector JSON Output.
        """
        check_type(format, self._flavour.trt.LayerInformationFormat)
        layers = [json.loads(self.get_layer_information(i, format)) for i in range(self._engine.num_layers)]
        tensors = "I/O Tensors" if self._flavour.column == 2 else "Bindings"
        return json.dumps({"Layers": layers, tensors: list(self._engine._tensors())})

    def get_layer_information(self, layer_index: int, format: Any) -> str:
        check_type(format, self._flavour.trt.LayerInformationFormat)
        layer = self._engine._network.get_layer(layer_index)
        if self._engine.profiling_verbosity.name != "DETAILED":
            return json.dumps(layer.name)
        return json.dumps({"Name": layer.name, "LayerType": layer._node.op_type})


class IExecutionContext(Bound):
    __slots__ = (
        "_addresses",
        "_aux_streams",
        "_busy",
        "_engine",
        "_last",
        "_profile",
        "_profiler",
        "_shapes",
        "enqueue_emits_profile",
        "name",
        "nvtx_verbosity",
    )

    @property
    def engine(self) -> Any:
        return self._engine

    @property
    def active_optimization_profile(self) -> int:
        return self._profile

    @property
    def all_binding_shapes_specified(self) -> bool:
        return not self.infer_shapes()

    @property
    def profiler(self) -> Any:
        return self._profiler

    @profiler.setter
    def profiler(self, profiler: Any) -> None:
        self._profiler = check_type(profiler, foundation.IProfiler)

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        operator.index(stream_handle)
        if not 0 <= operator.index(profile_index) < self._engine.num_optimization_profiles:
            raise RuntimeError("Error in set optimization profile async.")
        self._profile = operator.index(profile_index)
        return True

    def set_aux_streams(self, aux_streams: Sequence[int]) -> None:
        self._aux_streams = [operator.index(s) for s in aux_streams]

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        """Set the shape of an input. Returns False with a logged error for a shape outside the profile."""
        new_shape = tuple(map(operator.index, check_type(shape, (tuple, list))))
        if self._mode(name) != "INPUT":
            return self._engine._error(f"Given invalid tensor name: {name}.")
        minimum, _, maximum = self._engine.get_tensor_profile_shape(name, self._profile)
        inside = all(a <= n <= b for a, n, b in zip(minimum, new_shape, maximum, strict=False))
        if len(new_shape) != len(minimum) or not inside:
            return self._engine._error(f"Static dimension mismatch or shape {new_shape} of {name} outside the profile")
        self._shapes[name] = new_shape
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        """Return a shape; that of an output has -1 while an input's shape is not set."""
        if name in self._shapes:
            return self._shapes[name]
        if self._mode(name) == "INPUT" or self.infer_shapes():
            return self._engine.get_tensor_shape(name)
        zeros = {n: np.zeros(s, self._dtype(n)) for n, s in self._shapes.items()}
        return self._engine._session.run([name], zeros)[0].shape

    def infer_shapes(self) -> list[str]:
        """Return the inputs whose shapes are not set."""
        names = [n for n, t in self._engine._tensors().items() if t.is_network_input]
        return [n for n in names if n not in self._shapes]

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if self._mode(name) == "NONE":
            return self._engine._error(f"Given invalid tensor name: {name}.")
        self._addresses[name] = operator.index(memory)
        return True

    def get_tensor_address(self, name: str) -> int:
        return self._addresses.get(check_type(name, str), 0)

    def execute_async_v3(self, stream_handle: int) -> bool:
        """Pass the run to the module's `enqueue`. Returns False with a logged error if shapes or addresses are missing."""
        for name in self._engine._tensors():
            if not self._addresses.get(name):
                return self._engine._error(
                    f"Address is not set for tensor {name}. Call setTensorAddress before enqueue."
                )
        if self.infer_shapes():
            return self._engine._error(f"The shapes of {self.infer_shapes()} are not set.")
        shapes, addresses = dict(self._shapes), dict(self._addresses)
        self._flavour.enqueue(operator.index(stream_handle), lambda: self._run(shapes, addresses))
        return True

    def report_to_profiler(self) -> bool:
        for name, ms in self._last.items() if self._profiler else ():
            self._profiler.report_layer_time(name, ms)
        return self._profiler is not None and bool(self._last)

    def _run(self, shapes: dict[str, tuple[int, ...]], addresses: dict[str, int]) -> None:
        if not self._busy.acquire(blocking=False):
            raise RuntimeError("two threads in one execution context: undefined behaviour in TensorRT")
        try:
            start = time.perf_counter()
            inputs = {n: _at(addresses[n], s, self._dtype(n)).copy() for n, s in shapes.items()}
            names = [o.name for o in self._engine._session.get_outputs()]
            for name, value in zip(names, self._engine._session.run(names, inputs), strict=True):
                _at(addresses[name], value.shape, value.dtype)[...] = value
            layers = [node.name for node in self._engine._network._model.graph.node]
            self._last = dict.fromkeys(layers, (time.perf_counter() - start) * 1e3 / max(1, len(layers)))
        finally:
            self._busy.release()
        if self.enqueue_emits_profile:
            self.report_to_profiler()

    def _mode(self, name: str) -> str:
        return self._engine.get_tensor_mode(name).name

    def _dtype(self, name: str) -> npt.DTypeLike:
        return foundation.nptype(self._engine.get_tensor_dtype(name))


def _at(address: int, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return the array at a host address, without copying."""
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    memory = (ctypes.c_ubyte * size).from_address(address)
    return np.frombuffer(memory, dtype=dtype).reshape(shape)
