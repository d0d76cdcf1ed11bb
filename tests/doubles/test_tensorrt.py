"""Tests of the fake TensorRT: it computes like ONNX Runtime and rejects the same inputs as NVIDIA's."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from cxr_edge.backends.base import CompileOptions
from cxr_edge.backends.onnxruntime import OnnxRuntimeBackend
from tests.builders.toy_bundle import MEMBER_SPECS, member_model
from tests.doubles import tensorrt as fake_tensorrt
from tests.tolerances import assert_close

SPEC = MEMBER_SPECS["plain"]
VERSIONS = ["10.3.0", "10.16.1.11", "11.4.0.106"]


def quiet_logger(trt):
    class Log(trt.ILogger):
        def __init__(self):
            trt.ILogger.__init__(self)
            self.lines = []

        def log(self, severity, msg):
            self.lines.append(f"{severity.name}: {msg}")

    return Log()


def monitor_of(trt, steps):
    """Return a progress monitor that records its calls and cancels after `steps` steps."""

    class Monitor(trt.IProgressMonitor):
        def __init__(self):
            super().__init__()
            self.calls = []

        def phase_start(self, phase_name, parent_phase, num_steps):
            self.calls.append(("start", phase_name, parent_phase, num_steps))

        def step_complete(self, phase_name, step):
            self.calls.append(("step", phase_name, step))
            return sum(c[0] == "step" for c in self.calls) < steps

        def phase_finish(self, phase_name):
            self.calls.append(("finish", phase_name))

    return Monitor()


def parse(trt, model, logger, *, typed=True):
    builder = trt.Builder(logger)
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED) if typed else 0
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, logger)
    return builder, network, parser, parser.parse(model.SerializeToString())


def configure(builder, batch=4):
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    profile.set_shape("image", *[(n, *SPEC.tensor_shape) for n in (1, 1, batch)])
    assert config.add_optimization_profile(profile) == 0
    return config


def build(trt, logger, **settings):
    builder, network, _, _ = parse(trt, member_model("plain", SPEC), logger)
    config = configure(builder)
    for name, value in settings.items():
        setattr(config, name, value)
    return builder.build_serialized_network(network, config)


def execute(context, image, **outputs):
    context.set_input_shape("image", image.shape)
    for name, array in {"image": image, **outputs}.items():
        assert context.set_tensor_address(name, array.ctypes.data)
    return context.execute_async_v3(17)


@pytest.fixture(params=VERSIONS)
def trt(request):
    return fake_tensorrt.make(request.param)


def test_outputs_are_those_of_onnx_runtime(trt, tmp_path):
    logger = quiet_logger(trt)
    plan = build(trt, logger)
    engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
    modes = {n: engine.get_tensor_mode(n).name for n in map(engine.get_tensor_name, range(engine.num_io_tensors))}
    assert modes == {"image": "INPUT", "logits": "OUTPUT", "cam": "OUTPUT"}
    assert engine.get_tensor_shape("image") == (-1, *SPEC.tensor_shape)
    assert engine.get_tensor_profile_shape("image", 0)[2] == (4, *SPEC.tensor_shape)
    context = engine.create_execution_context()
    image = np.random.default_rng(0).standard_normal((3, *SPEC.tensor_shape)).astype(np.float32)
    assert context.infer_shapes() == ["image"]
    assert context.set_input_shape("image", image.shape)
    arrays = {n: np.zeros(context.get_tensor_shape(n), np.float32) for n in ("logits", "cam")}
    assert execute(context, image, **arrays)
    onnx.save(member_model("plain", SPEC), tmp_path / "plain.onnx")
    expected = OnnxRuntimeBackend().load_reference(tmp_path / "plain.onnx", CompileOptions()).run({"image": image})
    for name, values in arrays.items():
        assert_close(values, expected[name])
    assert logger.lines == []


def test_a_plan_has_the_buffer_protocol_and_no_length(trt, tmp_path):
    plan = build(trt, quiet_logger(trt))
    (tmp_path / "engine").write_bytes(plan)
    content = (tmp_path / "engine").read_bytes()
    assert content == bytes(plan)
    assert plan.nbytes == len(content)
    assert hashlib.sha256(plan).digest() == hashlib.sha256(content).digest()
    with pytest.raises(TypeError):
        len(plan)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"invalid", "Magic tag does not match"), (b"ftrt" + b"x" * 40, "cannot be read"), (b"", "Magic tag")],
)
def test_an_invalid_plan_is_rejected(trt, content, message):
    logger = quiet_logger(trt)
    assert trt.Runtime(logger).deserialize_cuda_engine(content) is None
    assert message in logger.lines[0]


def test_a_truncated_plan_is_rejected(trt):
    logger = quiet_logger(trt)
    assert trt.Runtime(logger).deserialize_cuda_engine(bytes(build(trt, logger))[:-100]) is None
    assert "cannot be read" in logger.lines[0]


@pytest.mark.parametrize(
    ("version", "capability", "message"),
    [
        ("11.3.0", "8.7", "expecting library version 11.3.0 got 11.4.0.106, please rebuild"),
        ("11.4.0.106", "12.0", "expecting compute 12.0 got compute 8.7, please rebuild"),
    ],
)
def test_a_plan_of_another_version_or_device_is_rejected(version, capability, message):
    built_by, elsewhere = fake_tensorrt.make(VERSIONS[2]), fake_tensorrt.make(version, compute_capability=capability)
    logger = quiet_logger(elsewhere)
    plan = build(built_by, quiet_logger(built_by))
    assert elsewhere.Runtime(logger).deserialize_cuda_engine(plan) is None
    assert message in logger.lines[0]


def test_a_plan_for_ampere_plus_loads_on_another_device():
    built_by = fake_tensorrt.make(VERSIONS[2])
    elsewhere = fake_tensorrt.make(VERSIONS[2], compute_capability="12.0")
    level = built_by.HardwareCompatibilityLevel.AMPERE_PLUS
    plan = build(built_by, quiet_logger(built_by), hardware_compatibility_level=level)
    assert elsewhere.Runtime(quiet_logger(elsewhere)).deserialize_cuda_engine(plan) is not None


def test_builder_and_runtime_need_a_device(trt):
    without = fake_tensorrt.make(trt.__version__, gpu=False)
    for kind in (without.Builder, without.Runtime):
        with pytest.raises(TypeError, match="factory function returned nullptr"):
            kind(without.Logger())


def test_an_invalid_network_is_rejected(trt):
    logger = quiet_logger(trt)
    network = trt.Builder(logger).create_network(0)
    parser = trt.OnnxParser(network, logger)
    assert not parser.parse(b"no network" * 40)
    assert parser.num_errors == 1
    assert parser.get_error(0).code() == trt.ErrorCode.MODEL_DESERIALIZE_FAILED
    assert "Failed to parse" in parser.get_error(0).desc()


def test_asymmetric_quantization_is_rejected(trt):
    x, y = (helper.make_tensor_value_info(n, t, [2]) for n, t in (("x", TensorProto.FLOAT), ("y", TensorProto.UINT8)))
    constants = [numpy_helper.from_array(np.float32(0.1), "scale"), numpy_helper.from_array(np.uint8(128), "zero")]
    node = helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["y"], name="quantize")
    graph = helper.make_graph([node], "q", [x], [y], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    _, _, parser, parsed = parse(trt, model, quiet_logger(trt))
    assert not parsed
    assert (parser.get_error(0).node(), parser.get_error(0).node_name()) == (0, "quantize")
    assert "Non-zero zero point" in parser.get_error(0).desc()


def test_a_monitor_gets_the_phases_and_can_cancel(trt):
    logger, patient, hasty = quiet_logger(trt), monitor_of(trt, 1000), monitor_of(trt, 2)
    assert build(trt, logger, progress_monitor=patient) is not None
    assert [c[0] for c in patient.calls if c[0] != "step"] == ["start", "start", "finish", "finish"]
    assert patient.calls[1][2] == patient.calls[0][1]
    assert build(trt, logger, progress_monitor=hasty) is None
    assert "cancelled" in logger.lines[-1]
    assert [c[0] for c in hasty.calls][-2:] == ["finish", "finish"]


def test_a_dynamic_network_needs_a_profile(trt):
    logger = quiet_logger(trt)
    builder, network, _, _ = parse(trt, member_model("plain", SPEC), logger)
    assert builder.build_serialized_network(network, builder.create_builder_config()) is None
    assert "no optimization profile has been defined" in logger.lines[-1]


def test_shapes_outside_the_profile_and_missing_addresses_are_rejected(trt):
    logger = quiet_logger(trt)
    context = trt.Runtime(logger).deserialize_cuda_engine(build(trt, logger)).create_execution_context()
    assert not context.set_input_shape("image", (5, *SPEC.tensor_shape))
    assert not context.set_input_shape("logits", (1, 4))
    assert not context.set_tensor_address("picture", 1)
    assert not context.execute_async_v3(0)
    assert "Address is not set for tensor image" in logger.lines[-1]


def test_work_can_be_deferred():
    waiting = []
    trt = fake_tensorrt.make(VERSIONS[0], enqueue=lambda stream, work: waiting.append((stream, work)))
    logger = quiet_logger(trt)
    context = trt.Runtime(logger).deserialize_cuda_engine(build(trt, logger)).create_execution_context()
    image = np.ones((1, *SPEC.tensor_shape), np.float32)
    logits, cam = np.zeros((1, 4), np.float32), np.zeros((1, 4, *_cam_side(context, image)), np.float32)
    assert execute(context, image, logits=logits, cam=cam)
    assert not logits.any()
    assert [stream for stream, _ in waiting] == [17]
    waiting[0][1]()
    assert logits.any()


def _cam_side(context, image):
    context.set_input_shape("image", image.shape)
    return context.get_tensor_shape("cam")[2:]


def test_a_timing_cache_is_filled_and_checked(trt):
    logger = quiet_logger(trt)
    builder, network, _, _ = parse(trt, member_model("plain", SPEC), logger)
    config = configure(builder)
    timing_cache = config.create_timing_cache(b"")
    assert config.set_timing_cache(timing_cache, ignore_mismatch=False)
    empty = bytes(timing_cache.serialize())
    assert builder.build_serialized_network(network, config) is not None
    full = bytes(config.get_timing_cache().serialize())
    assert len(full) > len(empty)
    other = configure(fake_tensorrt.make("9.9.9").Builder(quiet_logger(fake_tensorrt.make("9.9.9"))))
    assert not other.set_timing_cache(other.create_timing_cache(full), ignore_mismatch=True)
    assert config.create_timing_cache(b"invalid") is None
    assert "cannot be read" in logger.lines[-1]


def test_members_that_a_version_lacks_are_absent():
    old, new = fake_tensorrt.make(VERSIONS[0]), fake_tensorrt.make(VERSIONS[2])
    assert old.BuilderFlag.FP16.name == "FP16"
    assert not hasattr(new.BuilderFlag, "FP16")
    assert hasattr(old.ICudaEngine, "device_memory_size")
    assert not hasattr(new.ICudaEngine, "device_memory_size")
    assert not hasattr(old.HardwareCompatibilityLevel, "SAME_COMPUTE_CAPABILITY")


def test_precision_flags_are_rejected_for_strongly_typed_networks():
    trt = fake_tensorrt.make(VERSIONS[0])
    logger = quiet_logger(trt)
    for typed in (True, False):
        builder, network, _, _ = parse(trt, member_model("plain", SPEC), logger, typed=typed)
        config = configure(builder)
        config.set_flag(trt.BuilderFlag.FP16)
        assert (builder.build_serialized_network(network, config) is None) == typed


def test_objects_behave_like_those_of_the_bindings(trt, capsys):
    builder = trt.Builder(trt.Logger())
    config = builder.create_builder_config()
    with pytest.raises(AttributeError):
        config.max_workspace_size = 1
    with pytest.raises(TypeError):
        config.hardware_compatibility_level = "ampere"
    with pytest.raises(TypeError):
        1 << trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    with pytest.raises(TypeError, match="No constructor defined"):
        trt.IBuilderConfig()
    assert isinstance(trt.Logger(), trt.ILogger)
    assert builder.build_serialized_network(builder.create_network(0), config) is None
    assert "[E] Network must have at least one output" in capsys.readouterr().out


def test_layers_can_be_inspected_and_timed(trt):
    class Times(trt.IProfiler):
        def __init__(self):
            super().__init__()
            self.ms = {}

        def report_layer_time(self, layer_name, ms):
            self.ms[layer_name] = ms

    logger = quiet_logger(trt)
    plan = build(trt, logger, profiling_verbosity=trt.ProfilingVerbosity.DETAILED)
    engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
    information = json.loads(engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON))
    assert information["Layers"][0]["LayerType"] == "Conv"
    context = engine.create_execution_context()
    context.profiler = Times()
    image = np.ones((1, *SPEC.tensor_shape), np.float32)
    outputs = {"logits": np.zeros((1, 4), np.float32), "cam": np.zeros((1, 4, *_cam_side(context, image)), np.float32)}
    assert execute(context, image, **outputs)
    assert set(context.profiler.ms) == {layer["Name"] for layer in information["Layers"]}
