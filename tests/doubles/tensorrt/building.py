"""Builder classes of the fake: parser and network for an ONNX file, and the build of a plan from a configuration."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import onnx

from tests.doubles.tensorrt import configuring, plans
from tests.doubles.tensorrt.configuring import IBuilderConfig
from tests.doubles.tensorrt.foundation import Bound, ILogger, check_type, host_memory, new

_ONNX_TYPES = {
    onnx.TensorProto.FLOAT: "FLOAT",
    onnx.TensorProto.FLOAT16: "HALF",
    onnx.TensorProto.INT32: "INT32",
    onnx.TensorProto.INT64: "INT64",
    onnx.TensorProto.BOOL: "BOOL",
}


class Builder(Bound):
    __slots__ = ("_logger", "max_threads")

    def __init__(self, logger: ILogger) -> None:
        self._logger = check_type(logger, ILogger)
        self.max_threads = 1
        self._flavour.need_gpu()

    @property
    def num_DLA_cores(self) -> int:  # noqa: N802
        return self._flavour.dla_cores

    def create_network(self, flags: int = 0) -> Any:
        """Return an empty network. The fake computes strongly typed ones only, so it demands the flag where there are others."""
        trt = self._flavour.trt
        bit = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        assert operator.index(flags) & bit or self._flavour.column == 2, "the network is not strongly typed"
        return new(trt.INetworkDefinition, _model=None)

    def create_builder_config(self) -> Any:
        trt = self._flavour.trt
        own = {"_values": configuring.defaults(trt), "_flags": set(), "_pools": {}, "_profiles": [], "_cache": None}
        return new(trt.IBuilderConfig, _logger=self._logger, **own)

    def create_optimization_profile(self) -> Any:
        return new(self._flavour.trt.IOptimizationProfile, _shapes={})

    def build_serialized_network(self, network: Any, config: Any) -> Any:
        """Return the plan, or None after a logged error or a cancellation by the progress monitor."""
        objection = self._objection(check_type(network, INetworkDefinition), check_type(config, IBuilderConfig))
        if objection is None and not _report_progress(network, config.progress_monitor):
            objection = "IBuilder::buildSerializedNetwork: the progress monitor cancelled the build."
        if objection is not None:
            self._logger.log(self._flavour.trt.ILogger.ERROR, objection)
            return None
        if config._cache is not None:
            config._cache._entries |= {f"{node.op_type} {len(node.input)}" for node in network._model.graph.node}
        return host_memory(self._plan(network, config).to_bytes())

    def _objection(self, network: Any, config: Any) -> str | None:
        """Return the builder's error message, worded like NVIDIA's, or None."""
        if network._model is None:
            return "Network must have at least one output"
        if config.default_device_type.name == "DLA" and not self._flavour.dla_cores:
            return "The default device type is DLA, but the device has no DLA cores."
        dynamic = [t for t in network._tensors(network._inputs) if -1 in t.shape]
        if dynamic and not config._profiles:
            return "Network has dynamic or shape inputs, but no optimization profile has been defined."
        mismatched = [t.name for t in dynamic for p in config._profiles if not p._fits(t)]
        if mismatched:
            return f"The optimization profile does not fit the network's inputs {mismatched}"
        try:
            plans.session(network._model.SerializeToString())
        except Exception as error:  # ONNX Runtime raises its own types, none of which share a public base
            return f"Could not find any implementation: {error}"
        return None

    def _plan(self, network: Any, config: Any) -> plans.Plan:
        return plans.Plan(
            onnx=network._model.SerializeToString(),
            version=self._flavour.version,
            compute_capability=self._flavour.compute_capability,
            profiles=[p._shapes for p in config._profiles],
            hardware_compatibility=config.hardware_compatibility_level.name,
            version_compatible="VERSION_COMPATIBLE" in {f.name for f in config._flags},
        )


def _report_progress(network: Any, monitor: Any) -> bool:
    """Report two nested phases to the monitor. Returns False if the monitor cancelled the build."""
    if monitor is None:
        return True
    steps = max(1, len(network._model.graph.node))
    monitor.phase_start("Building Engine", None, 1)
    monitor.phase_start("Tactic Selection", "Building Engine", steps)
    proceed = all(monitor.step_complete("Tactic Selection", i) for i in range(steps))
    monitor.phase_finish("Tactic Selection")
    proceed = proceed and bool(monitor.step_complete("Building Engine", 0))
    monitor.phase_finish("Building Engine")
    return proceed


class ITensor(Bound):
    __slots__ = ("_info", "_network", "name")

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(d.dim_value if d.HasField("dim_value") else -1 for d in self._info.type.tensor_type.shape.dim)

    @shape.setter
    def shape(self, shape: Sequence[int]) -> None:
        """Set the shape of an input. A dynamic side becomes fixed wherever it has the same name, like in TensorRT."""
        sides = self._info.type.tensor_type.shape.dim
        fixed = {s.dim_param: operator.index(n) for s, n in zip(sides, shape, strict=True) if s.dim_param and n >= 0}
        graph = self._network._model.graph
        for info in (*graph.input, *graph.output):
            for side in info.type.tensor_type.shape.dim:
                if side.dim_param in fixed:
                    side.dim_value = fixed[side.dim_param]

    @property
    def _dtype(self) -> Any:
        return getattr(self._flavour.trt.DataType, _ONNX_TYPES[self._info.type.tensor_type.elem_type])


class INetworkDefinition(Bound):
    __slots__ = ("_model",)

    @property
    def num_inputs(self) -> int:
        return len(self._inputs)

    def get_input(self, index: int) -> Any:
        return self._tensors(self._inputs)[operator.index(index)]

    @property
    def _inputs(self) -> list[onnx.ValueInfoProto]:
        constants = {t.name for t in self._model.graph.initializer}
        return [t for t in self._model.graph.input if t.name not in constants]

    def _tensors(self, infos: Sequence[onnx.ValueInfoProto]) -> list[Any]:
        return [new(self._flavour.trt.ITensor, name=info.name, _info=info, _network=self) for info in infos]


class ParserError(Bound):
    """Parser error; all members are methods, like NVIDIA's: `error.desc()`."""

    __slots__ = ("_desc", "_node_name")

    def desc(self) -> str:
        return self._desc

    def node_name(self) -> str:
        return self._node_name


class OnnxParser(Bound):
    __slots__ = ("_errors", "_logger", "_network")

    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        self._network = check_type(network, INetworkDefinition)
        self._logger = check_type(logger, ILogger)
        self._errors: list[Any] = []

    def parse(self, model: Any, path: str | None = None) -> bool:
        """Return False, with errors stored and logged, for an invalid file and for nodes that TensorRT rejects."""
        try:
            parsed = onnx.load_model_from_string(bytes(memoryview(model)))
            onnx.checker.check_model(parsed)
        except Exception:  # protobuf's decode errors and the checker's share no base
            return self._fail("Failed to parse the ONNX model from memory.")
        constants = {t.name: t for t in parsed.graph.initializer}
        for node in parsed.graph.node:
            if node.domain not in ("", "ai.onnx"):
                self._fail(f"Plugin not found: no importer registered for {node.op_type}", node.name)
            elif "zeLinear" in node.op_type and _is_asymmetric(node, constants):
                desc = "Assertion failed: shiftIsAllZeros(zeroPoint): Non-zero zero point is not supported."
                self._fail(desc, node.name)
        self._network._model = None if self._errors else parsed
        return not self._errors

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> Any:
        return self._errors[operator.index(index)]

    def _fail(self, desc: str, node_name: str = "") -> bool:
        self._errors.append(new(self._flavour.trt.ParserError, _desc=desc, _node_name=node_name))
        self._logger.log(self._flavour.trt.ILogger.ERROR, f"In node {node_name}: {desc}")
        return False


def _is_asymmetric(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> bool:
    zero_point = constants.get(node.input[2]) if len(node.input) > 2 else None
    return zero_point is not None and bool(onnx.numpy_helper.to_array(zero_point).any())
