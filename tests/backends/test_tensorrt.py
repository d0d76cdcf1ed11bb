"""Tests specific to the TensorRT backend, on the stand-in of each version: options, timing cache, progress, errors."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from cxr_edge.backends.base import CompileOptions, GpuOptions
from cxr_edge.backends.onnxruntime import OnnxRuntimeBackend
from cxr_edge.compiler.calibrate import measure_ranges
from cxr_edge.compiler.graph.int8 import SCHEMES, quantize
from cxr_edge.errors import BackendError, InputError
from tests.builders.toy_bundle import MEMBER_SPECS, member_model
from tests.doubles.backends import STAND_INS, stand_in
from tests.doubles.emulated_device import EmulatedDevice
from tests.tolerances import assert_close

SPEC = MEMBER_SPECS["plain"]
IMAGES = np.random.default_rng(0).standard_normal((5, *SPEC.tensor_shape)).astype(np.float32)

VERSIONS = [name for name in STAND_INS if name.startswith("tensorrt")]


@pytest.fixture(params=VERSIONS)
def backend(request, monkeypatch):
    return stand_in(request.param, monkeypatch, dla_cores=2)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    path = tmp_path_factory.mktemp("network") / "plain.onnx"
    onnx.save(member_model("plain", SPEC), path)
    return path


def build_and_load(backend, network, tmp_path, options=None, **gpu):
    options = options or CompileOptions(gpu=GpuOptions(**gpu))
    backend.compile(network, tmp_path / "engine.plan", options)
    return backend.load(tmp_path / "engine.plan", options)


@pytest.mark.parametrize(
    "gpu",
    [
        {},
        {"max_batch": 4},
        {"dla_core": 1},
        {"optimization_level": 5, "workspace_mib": 64},
        {"hardware_compatibility": "ampere-plus", "version_compatible": True},
    ],
    ids=lambda gpu: "-".join(gpu) or "defaults",
)
def test_every_option_gives_the_reference_output(backend, network, tmp_path, gpu, capfd):
    """With every option, a batch larger than the engine's maximum works, and nothing is printed."""
    expected = OnnxRuntimeBackend().load_reference(network, CompileOptions()).run({"image": IMAGES})
    actual = build_and_load(backend, network, tmp_path, **gpu).run({"image": IMAGES})
    for name, values in expected.items():
        assert_close(actual[name], values)
    assert capfd.readouterr() == ("", "")


def test_a_timing_cache_is_created_and_reused(backend, network, tmp_path):
    cache = tmp_path / "new" / "timing.cache"
    build_and_load(backend, network, tmp_path, timing_cache=cache)
    first = cache.read_bytes()
    build_and_load(backend, network, tmp_path, timing_cache=cache)
    assert cache.read_bytes() == first
    assert [p.name for p in cache.parent.iterdir()] == ["timing.cache"]


def test_an_invalid_timing_cache_is_replaced(backend, network, tmp_path):
    cache = tmp_path / "timing.cache"
    cache.write_bytes(b"invalid")
    build_and_load(backend, network, tmp_path, timing_cache=cache)
    assert cache.read_bytes() != b"invalid"


def test_progress_is_reported(backend, network, tmp_path, monkeypatch):
    monkeypatch.setattr("cxr_edge.backends.tensorrt_build._SECONDS_BETWEEN_LINES", 0.0)
    lines = []
    build_and_load(backend, network, tmp_path, CompileOptions(progress=lines.append))
    assert lines
    assert all(line.startswith("plain: ") and ", step " in line for line in lines)


def test_compatibility_that_a_version_lacks_is_rejected(monkeypatch, network, tmp_path):
    old = stand_in("tensorrt 10.3.0 stand-in", monkeypatch)
    with pytest.raises(
        BackendError, match=r"TensorRT 10\.3\.0 has no hardware compatibility 'same-compute-capability'"
    ):
        build_and_load(old, network, tmp_path, hardware_compatibility="same-compute-capability")
    new = stand_in("tensorrt 11.4.0.106 stand-in", monkeypatch)
    build_and_load(new, network, tmp_path, hardware_compatibility="same-compute-capability")


def test_a_missing_dla_core_is_rejected(backend, network, tmp_path):
    with pytest.raises(BackendError, match="this machine has 2 DLA cores, numbered from 0; there is no 2"):
        build_and_load(backend, network, tmp_path, dla_core=2)


def test_symmetric_int8_is_accepted_and_uint8_rejected_with_tensorrts_message(backend, network, tmp_path):
    ranges = measure_ranges(network, [IMAGES], source="test").tensors
    onnx.save(quantize(onnx.load(network), ranges, SCHEMES["int8"]), tmp_path / "int8.onnx")
    assert build_and_load(backend, tmp_path / "int8.onnx", tmp_path).run({"image": IMAGES[:1]})["logits"].shape == (
        1,
        4,
    )
    onnx.save(quantize(onnx.load(network), ranges, SCHEMES["uint8"]), tmp_path / "uint8.onnx")
    with pytest.raises(BackendError, match=r"TensorRT could not compile uint8\.onnx: .*\(node "):
        build_and_load(backend, tmp_path / "uint8.onnx", tmp_path)


def test_a_plan_of_another_version_is_rejected_with_tensorrts_message(monkeypatch, network, tmp_path):
    build_and_load(stand_in("tensorrt 10.3.0 stand-in", monkeypatch), network, tmp_path)
    with pytest.raises(BackendError, match=r"TensorRT could not load engine\.plan: (?!TensorRT gave no reason)"):
        stand_in("tensorrt 11.4.0.106 stand-in", monkeypatch).load(tmp_path / "engine.plan", CompileOptions())


def test_a_machine_without_gpu_is_reported(monkeypatch, network, tmp_path):
    backend = stand_in("tensorrt 11.4.0.106 stand-in", monkeypatch, gpu=False)
    with pytest.raises(BackendError, match=r"TensorRT could not start its builder: .*nullptr"):
        build_and_load(backend, network, tmp_path)


def test_a_batch_above_the_maximum_is_rejected(backend, network, tmp_path):
    engine = build_and_load(backend, network, tmp_path, max_batch=2)
    assert engine.output_shapes(2)["logits"] == (2, 4)
    with pytest.raises(BackendError, match="built for batches of up to 2, got 3"):
        engine.output_shapes(3)


def test_portable_keys_follow_the_configured_compatibility(backend):
    keys = backend.portable(GpuOptions(hardware_compatibility="ampere-plus", version_compatible=True))
    assert keys == ("tensorrt", "gpu", "compute_capability")
    assert backend.portable(GpuOptions(hardware_compatibility="same-compute-capability")) == ("gpu",)


def test_versions_name_the_gpu(monkeypatch):
    versions = stand_in("tensorrt 11.4.0.106 stand-in", monkeypatch, EmulatedDevice()).versions()
    assert versions["tensorrt"] == "11.4.0.106"
    assert (versions["gpu"], versions["compute_capability"], versions["driver"]) == ("emulated GPU", "0.0", "0.0")


@pytest.mark.parametrize(
    ("gpu", "message"),
    [
        ({"optimization_level": 6}, "optimization_level must be a whole number from 0 to 5, got 6"),
        ({"workspace_mib": 0}, "workspace_mib must be a whole number of 1 or more, got 0"),
        ({"max_batch": True}, "max_batch must be a whole number of 1 or more, got True"),
        ({"hardware_compatibility": "volta"}, "hardware_compatibility is one of none, .*, got 'volta'"),
        ({"dla_core": 0, "max_batch": 2}, "an engine for a DLA has max_batch 1"),
    ],
)
def test_invalid_options_are_rejected(gpu, message):
    with pytest.raises(InputError, match=message):
        GpuOptions(**gpu)
