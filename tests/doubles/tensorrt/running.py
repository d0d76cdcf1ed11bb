"""Runtime classes of the fake: engines from plans, and execution contexts that run them on host addresses."""

from __future__ import annotations

import ctypes
import operator
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.doubles.tensorrt import foundation, plans
from tests.doubles.tensorrt.building import INetworkDefinition
from tests.doubles.tensorrt.foundation import Bound, check_type, new


class Runtime(Bound):
    __slots__ = ("DLA_core", "_logger", "engine_host_code_allowed")

    def __init__(self, logger: foundation.ILogger) -> None:
        self._logger = check_type(logger, foundation.ILogger)
        self.DLA_core, self.engine_host_code_allowed = -1, False
        self._flavour.need_gpu()

    def deserialize_cuda_engine(self, serialized_engine: Any) -> Any:
        """Return the engine, or None with a logged error for invalid plans and those of another version or device."""
        content = bytes(memoryview(serialized_engine))
        plan = plans.read(content, self._flavour, host_code_allowed=self.engine_host_code_allowed)
        if isinstance(plan, str):
            self._logger.log(self._flavour.trt.ILogger.ERROR, f"IRuntime::deserializeCudaEngine: {plan}")
            return None
        network = new(self._flavour.trt.INetworkDefinition, _model=plan.model)
        fields = {"_plan": plan, "_network": network, "_session": plans.session(plan.onnx), "_logger": self._logger}
        return new(self._flavour.trt.ICudaEngine, **fields)


class ICudaEngine(Bound):
    __slots__ = ("_logger", "_network", "_plan", "_session")
    _network: INetworkDefinition

    @property
    def num_io_tensors(self) -> int:
        return len(self._tensors())

    def get_tensor_name(self, index: int) -> str:
        return list(self._tensors())[operator.index(index)]

    def get_tensor_mode(self, name: str) -> Any:
        modes = self._flavour.trt.TensorIOMode
        if check_type(name, str) not in self._tensors():
            return modes.NONE
        return modes.INPUT if name in {t.name for t in self._network._inputs} else modes.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        return self._tensors()[check_type(name, str)]._dtype

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._tensors()[check_type(name, str)].shape

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        shapes = self._plan.profiles[operator.index(profile_index)] if self._plan.profiles else {}
        fixed = [self.get_tensor_shape(name)] * 3
        return [tuple(s) for s in shapes.get(name, fixed)]

    def create_execution_context(self, strategy: Any = None) -> Any:
        inputs = {t.name: t.shape for t in self._network._tensors(self._network._inputs)}
        static = {name: shape for name, shape in inputs.items() if -1 not in shape}
        own = {"_shapes": static, "_addresses": {}, "_busy": threading.Lock()}
        return new(self._flavour.trt.IExecutionContext, _engine=self, **own)

    def _tensors(self) -> dict[str, Any]:
        infos = [*self._network._inputs, *self._network._model.graph.output]
        return {t.name: t for t in self._network._tensors(infos)}

    def _error(self, text: str) -> bool:
        self._logger.log(self._flavour.trt.ILogger.ERROR, f"IExecutionContext: Error Code 3: API Usage Error ({text})")
        return False


class IExecutionContext(Bound):
    __slots__ = ("_addresses", "_busy", "_engine", "_shapes")

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        """Set the shape of an input. Returns False with a logged error for a shape outside the profile."""
        new_shape = foundation.shape(shape)
        if self._mode(name) != "INPUT":
            return self._engine._error(f"Given invalid tensor name: {name}.")
        minimum, _, maximum = self._engine.get_tensor_profile_shape(name, 0)
        inside = all(a <= n <= b for a, n, b in zip(minimum, new_shape, maximum, strict=False))
        if len(new_shape) != len(minimum) or not inside:
            return self._engine._error(f"Static dimension mismatch or shape {new_shape} of {name} outside the profile")
        self._shapes[name] = new_shape
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        """Return a shape; that of an output has -1 while an input's shape is not set."""
        if name in self._shapes:
            return self._shapes[name]
        if self._mode(name) == "INPUT" or self._unset():
            return self._engine.get_tensor_shape(name)
        zeros = {n: np.zeros(s, self._dtype(n)) for n, s in self._shapes.items()}
        return self._engine._session.run([name], zeros)[0].shape

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if self._mode(name) == "NONE":
            return self._engine._error(f"Given invalid tensor name: {name}.")
        self._addresses[name] = operator.index(memory)
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        """Pass the run to the module's `enqueue`. Returns False with a logged error if shapes or addresses are missing."""
        for name in self._engine._tensors():
            if not self._addresses.get(name):
                return self._engine._error(
                    f"Address is not set for tensor {name}. Call setTensorAddress before enqueue."
                )
        if self._unset():
            return self._engine._error(f"The shapes of {self._unset()} are not set.")
        shapes, addresses = dict(self._shapes), dict(self._addresses)
        self._flavour.enqueue(operator.index(stream_handle), lambda: self._run(shapes, addresses))
        return True

    def _run(self, shapes: dict[str, tuple[int, ...]], addresses: dict[str, int]) -> None:
        if not self._busy.acquire(blocking=False):
            raise RuntimeError("two threads in one execution context: undefined behaviour in TensorRT")
        try:
            inputs = {n: _at(addresses[n], s, self._dtype(n)).copy() for n, s in shapes.items()}
            names = [o.name for o in self._engine._session.get_outputs()]
            for name, value in zip(names, self._engine._session.run(names, inputs), strict=True):
                _at(addresses[name], value.shape, value.dtype)[...] = value
        finally:
            self._busy.release()

    def _unset(self) -> list[str]:
        """Return the inputs whose shapes are not set."""
        return [t.name for t in self._engine._network._inputs if t.name not in self._shapes]

    def _mode(self, name: str) -> str:
        return self._engine.get_tensor_mode(name).name

    def _dtype(self, name: str) -> npt.DTypeLike:
        return foundation.NUMPY[self._engine.get_tensor_dtype(name).name]


def _at(address: int, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return the array at a host address, without copying."""
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    memory = (ctypes.c_ubyte * size).from_address(address)
    return np.frombuffer(memory, dtype=dtype).reshape(shape)
