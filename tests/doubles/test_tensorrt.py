"""Tests of the fake TensorRT: it rejects the same inputs as NVIDIA's. tests/backends compare what it computes."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from tests.builders.toy_bundle import MEMBER_SPECS, member_model
from tests.doubles import tensorrt as fake_tensorrt

SPEC = MEMBER_SPECS["plain"]
MODEL = member_model("plain", SPEC).SerializeToString()
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


def parse(trt, content, logger):
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    return builder, network, parser, parser.parse(content)


def configure(builder, batch=4):
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    profile.set_shape("image", *[(n, *SPEC.tensor_shape) for n in (1, 1, batch)])
    assert config.add_optimization_profile(profile) == 0
    return config


def build(trt, logger, **settings):
    builder, network, _, _ = parse(trt, MODEL, logger)
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


def test_a_plan_has_the_buffer_protocol_and_no_length(trt, tmp_path):
    plan = build(trt, quiet_logger(trt))
    (tmp_path / "engine").write_bytes(plan)
    content = (tmp_path / "engine").read_bytes()
    assert content == bytes(plan)
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
            kind(quiet_logger(without))


def test_an_invalid_network_is_rejected(trt):
    logger = quiet_logger(trt)
    _, _, parser, parsed = parse(trt, b"no network" * 40, logger)
    assert not parsed
    assert parser.num_errors == 1
    assert "Failed to parse" in parser.get_error(0).desc()


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
    builder, network, _, _ = parse(trt, MODEL, logger)
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
    builder, network, _, _ = parse(trt, MODEL, logger)
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


def test_objects_behave_like_those_of_the_bindings(trt):
    logger = quiet_logger(trt)
    builder = trt.Builder(logger)
    config = builder.create_builder_config()
    with pytest.raises(AttributeError):
        config.max_workspace_size = 1
    with pytest.raises(TypeError):
        config.hardware_compatibility_level = "ampere"
    with pytest.raises(TypeError):
        1 << trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    with pytest.raises(TypeError, match="No constructor defined"):
        trt.IBuilderConfig()
    with pytest.raises(TypeError, match="must be called when overriding"):
        type("Log", (trt.ILogger,), {"__init__": lambda self: None})()
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    assert builder.build_serialized_network(network, config) is None
    assert logger.lines == ["ERROR: Network must have at least one output"]


def test_a_weakly_typed_network_is_not_computed():
    trt = fake_tensorrt.make(VERSIONS[0])
    with pytest.raises(AssertionError, match="not strongly typed"):
        trt.Builder(quiet_logger(trt)).create_network(0)
