"""Builder classes of the fake: parser and network for an ONNX file, and the build of a plan from a configuration."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import onnx

from tests.doubles.tensorrt import configuring, foundation, plans
from tests.doubles.tensorrt.configuring import IBuilderConfig
from tests.doubles.tensorrt.foundation import Bound, check_type, new

_TYPED_BY_THE_NETWORK = {"FP16", "BF16", "INT8", "FP8", "INT4"}
_ONNX_TYPES = {
    onnx.TensorProto.FLOAT: "FLOAT",
    onnx.TensorProto.FLOAT16: "HALF",
    onnx.TensorProto.BFLOAT16: "BF16",
    onnx.TensorProto.INT8: "INT8",
    onnx.TensorProto.UINT8: "UINT8",
    onnx.TensorProto.INT32: "INT32",
    onnx.TensorProto.INT64: "INT64",
    onnx.TensorProto.BOOL: "BOOL",
}


class Builder(Bound):
    __slots__ = ("_logger", "max_threads")

    def __init__(self, logger: foundation.ILogger) -> None:
        self._logger = check_type(logger, foundation.ILogger)
        self.max_threads = 1
        self._flavour.need_gpu()

    @property
    def logger(self) -> foundation.ILogger:
        return self._logger

    @property
    def num_DLA_cores(self) -> int:  # noqa: N802
        return self._flavour.dla_cores

    @property
    def max_DLA_batch_size(self) -> int:  # noqa: N802
        return 4096 if self._flavour.dla_cores else 1

    def create_network(self, flags: int = 0) -> Any:
        trt = self._flavour.trt
        bit = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        strongly_typed = bool(operator.index(flags) & bit) or self._flavour.column == 2
        return new(trt.INetworkDefinition, name="", _model=None, _strongly_typed=strongly_typed)

    def create_builder_config(self) -> Any:
        trt = self._flavour.trt
        own = {"_values": configuring.defaults(trt), "_flags": set(), "_pools": {}, "_profiles": [], "_cache": None}
        return new(trt.IBuilderConfig, _logger=self._logger, **own)

    def create_optimization_profile(self) -> Any:
        return new(self._flavour.trt.IOptimizationProfile, _shapes={})

    def is_network_supported(self, network: Any, config: Any) -> bool:
        return self._objection(check_type(network, INetworkDefinition), check_type(config, IBuilderConfig)) is None

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
        return foundation.host_memory(self._flavour, self._plan(network, config).to_bytes())

    def _objection(self, network: Any, config: Any) -> str | None:
        """Return the builder's error message, worded like NVIDIA's, or None."""
        if network._model is None or not network.num_outputs:
            return "Network must have at least one output"
        if network._strongly_typed and _TYPED_BY_THE_NETWORK & {f.name for f in config._flags}:
            return "A strongly typed network takes its types from its tensors: precision flags are not allowed."
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
        numbers = {n: int(v) for n, v in config._values.items() if n != "progress_monitor"}
        return plans.Plan(
            onnx=network._model.SerializeToString(),
            version=self._flavour.version,
            compute_capability=self._flavour.compute_capability,
            profiles=[p._shapes for p in config._profiles],
            settings=numbers | {f"pool {pool.name}": size for pool, size in config._pools.items()},
            flags=sorted(f.name for f in config._flags),
        )


class BuilderBefore11:
    """Members that 11 no longer has."""

    __slots__ = ()
    _columns = (0, 1)

    @property
    def platform_has_fast_fp16(self) -> bool:
        return True

    @property
    def platform_has_fast_int8(self) -> bool:
        return True

    @property
    def platform_has_tf32(self) -> bool:
        return True


def _report_progress(network: Any, monitor: Any) -> bool:
    """Report two nested phases to the monitor. Returns False if the monitor cancelled the build."""
    if monitor is None:
        return True
    steps = max(1, network.num_layers)
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
    def dtype(self) -> Any:
        return getattr(self._flavour.trt.DataType, _ONNX_TYPES[self._info.type.tensor_type.elem_type])

    @property
    def is_network_input(self) -> bool:
        return self.name in {t.name for t in self._network._inputs}

    @property
    def is_network_output(self) -> bool:
        return not self.is_network_input


class ILayer(Bound):
    __slots__ = ("_node", "name")

    @property
    def num_inputs(self) -> int:
        return len(self._node.input)

    @property
    def num_outputs(self) -> int:
        return len(self._node.output)


class INetworkDefinition(Bound):
    __slots__ = ("_model", "_strongly_typed", "name")

    @property
    def num_inputs(self) -> int:
        return len(self._inputs)

    @property
    def num_outputs(self) -> int:
        return len(self._model.graph.output) if self._model else 0

    @property
    def num_layers(self) -> int:
        return len(self._model.graph.node) if self._model else 0

    @property
    def flags(self) -> int:
        return int(self._strongly_typed) << int(self._flavour.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)

    def get_flag(self, flag: Any) -> bool:
        return bool(self.flags >> int(check_type(flag, self._flavour.trt.NetworkDefinitionCreationFlag)) & 1)

    def get_input(self, index: int) -> Any:
        return self._tensors(self._inputs)[operator.index(index)]

    def get_output(self, index: int) -> Any:
        return self._tensors(self._model.graph.output)[operator.index(index)]

    def get_layer(self, index: int) -> Any:
        node = self._model.graph.node[operator.index(index)]
        return new(self._flavour.trt.ILayer, name=node.name, _node=node)

    @property
    def _inputs(self) -> list[onnx.ValueInfoProto]:
        if self._model is None:
            return []
        constants = {t.name for t in self._model.graph.initializer}
        return [t for t in self._model.graph.input if t.name not in constants]

    def _tensors(self, infos: Sequence[onnx.ValueInfoProto]) -> list[Any]:
        return [new(self._flavour.trt.ITensor, name=info.name, _info=info, _network=self) for info in infos]


class ParserError(Bound):
    """Parser error; all members are methods, like NVIDIA's: `error.desc()`."""

    __slots__ = ("_code", "_desc", "_index", "_node")

    def code(self) -> Any:
        return getattr(self._flavour.trt.ErrorCode, self._code)

    def desc(self) -> str:
        return self._desc

    def file(self) -> str:
        return "ModelImporter.cpp"

    def func(self) -> str:
        return "importModel"

    def line(self) -> int:
        return 1

    def node(self) -> int:
        return self._index

    def node_name(self) -> str:
        return self._node.name if self._node else ""

    def node_operator(self) -> str:
        return self._node.op_type if self._node else ""


class OnnxParser(Bound):
    __slots__ = ("_errors", "_logger", "_network")

    def __init__(self, network: INetworkDefinition, logger: foundation.ILogger) -> None:
        self._network = check_type(network, INetworkDefinition)
        self._logger = check_type(logger, foundation.ILogger)
        self._errors: list[Any] = []

    def parse(self, model: Any, path: str | None = None) -> bool:
        """Return False, with errors stored and logged, for an invalid file and for nodes that TensorRT rejects."""
        try:
            parsed = onnx.load_model_from_string(bytes(memoryview(model)))
            onnx.checker.check_model(parsed)
        except Exception:  # protobuf's decode errors and the checker's share no base
            return self._fail("MODEL_DESERIALIZE_FAILED", "Failed to parse the ONNX model from memory.")
        constants = {t.name: t for t in parsed.graph.initializer}
        for i, node in enumerate(parsed.graph.node):
            if node.domain not in ("", "ai.onnx"):
                self._fail("UNSUPPORTED_NODE", f"Plugin not found: no importer registered for {node.op_type}", i, node)
            elif "zeLinear" in node.op_type and _is_asymmetric(node, constants):
                desc = "Assertion failed: shiftIsAllZeros(zeroPoint): Non-zero zero point is not supported."
                self._fail("INVALID_NODE", desc, i, node)
        self._network._model = None if self._errors else parsed
        return not self._errors

    def parse_from_file(self, model: str) -> bool:
        with open(check_type(model, str), "rb") as file:
            return self.parse(file.read())

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> Any:
        return self._errors[operator.index(index)]

    def clear_errors(self) -> None:
        self._errors.clear()

    def _fail(self, code: str, desc: str, index: int = -1, node: onnx.NodeProto | None = None) -> bool:
        self._errors.append(
            new(self._network._flavour.trt.ParserError, _code=code, _desc=desc, _index=index, _node=node)
        )
        self._logger.log(self._flavour.trt.ILogger.ERROR, f"In node {index}: {code}: {desc}")
        return False


class OnnxParserFrom1016:
    """Members that 10.3 does not have."""

    __slots__ = ()
    _columns = (1, 2)

    def set_builder_config(self, builder_config: Any) -> bool:
        return bool(check_type(builder_config, IBuilderConfig))


def _is_asymmetric(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> bool:
    zero_point = constants.get(node.input[2]) if len(node.input) > 2 else None
    return zero_point is not None and bool(onnx.numpy_helper.to_array(zero_point).any())
