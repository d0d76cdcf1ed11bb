"""Contract tests of the Backend protocol, for every registered backend; those that cannot run here skip with a reason.

The GPU backends also run on stand-ins of their runtimes, which tests our own code (see tests/doubles/backends.py).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest

from cxr_edge import backends
from cxr_edge.backends import self_test
from cxr_edge.backends.base import (
    Backend,
    CompileOptions,
    DeviceBackend,
    DeviceEngine,
    Engine,
    GpuOptions,
    TensorInfo,
)
from cxr_edge.backends.onnxruntime import OnnxRuntimeBackend
from cxr_edge.compiler.calibrate import measure_ranges
from cxr_edge.compiler.graph.half import to_half
from cxr_edge.compiler.graph.int8 import SCHEMES, quantize
from cxr_edge.errors import BackendError, ContractError, InputError
from tests.builders.toy_bundle import MEMBER_SPECS, member_model
from tests.doubles.backends import STAND_INS, stand_in
from tests.tolerances import OF_PRECISION, assert_close

SPEC = MEMBER_SPECS["plain"]


@pytest.fixture(params=[*backends.BACKENDS, *STAND_INS])
def backend(request, monkeypatch) -> Backend:
    if request.param in STAND_INS:
        return stand_in(request.param, monkeypatch)
    found = backends.get(request.param)
    reason = found.unavailable_because()
    if reason is not None:
        pytest.skip(f"{request.param}: {reason}")
    return found


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return rng.standard_normal((5, *SPEC.tensor_shape)).astype(np.float32)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    path = tmp_path_factory.mktemp("network") / "plain.onnx"
    onnx.save(member_model("plain", SPEC), path)
    return path


@pytest.fixture
def engine(backend, network, tmp_path) -> Engine:
    backend.compile(network, tmp_path / f"engine{backend.suffix}", CompileOptions())
    return backend.load(tmp_path / f"engine{backend.suffix}", CompileOptions())


def precision_of(network, precision, images):
    """Return `network` converted to `precision`, as the compiler does it."""
    if precision == "fp32":
        return onnx.load(network)
    if precision in ("fp16", "bf16"):
        return to_half(onnx.load(network), precision)
    return quantize(onnx.load(network), measure_ranges(network, [images], source="test").tensors, SCHEMES[precision])


def test_backend_and_engine_implement_the_protocols(backend, engine):
    assert isinstance(backend, Backend)
    assert isinstance(engine, Engine)
    assert backend.name in backends.BACKENDS
    assert set(backend.precisions) <= set(OF_PRECISION)


def test_the_self_test_passes(backend):
    assert self_test.run_self_test(backend) is None


@pytest.fixture
def no_temporary_folder(monkeypatch):
    """A device with a read-only root file system."""

    def refuse(**_):
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(self_test.tempfile, "TemporaryDirectory", refuse)


def test_a_saved_self_test_needs_no_temporary_folder(backend, tmp_path, request):
    self_test.save_self_test_engine(backend, tmp_path)
    request.getfixturevalue("no_temporary_folder")
    assert self_test.run_self_test(backend, tmp_path) is None


def test_a_self_test_without_a_temporary_folder_names_the_remedy(backend, tmp_path, no_temporary_folder):
    reason = self_test.run_self_test(backend, tmp_path)
    assert reason is not None
    assert "set TMPDIR to one that can be written, or build the engines with `cxr-edge build-engine`" in reason


def test_versions_are_text_and_stable(backend):
    versions = backend.versions()
    assert versions == backend.versions()
    assert len(versions) >= 2
    assert all(isinstance(k, str) and isinstance(v, str) for k, v in versions.items())


def test_an_engine_describes_its_inputs_and_outputs(engine):
    assert engine.inputs == (TensorInfo(name="image", dtype="float32", shape=(None, *SPEC.tensor_shape)),)
    assert {t.name: t.dtype for t in engine.outputs} == {"logits": "float32", "cam": "float32"}


@pytest.mark.parametrize("precision", OF_PRECISION)
def test_every_precision_is_within_its_tolerance_of_the_reference(backend, precision, network, images, tmp_path):
    if precision not in backend.precisions:
        pytest.skip(f"{backend.name} does not support {precision}")
    onnx.save(precision_of(network, precision, images), tmp_path / "converted.onnx")
    backend.compile(tmp_path / "converted.onnx", tmp_path / f"engine{backend.suffix}", CompileOptions())
    engine = backend.load(tmp_path / f"engine{backend.suffix}", CompileOptions())
    expected = OnnxRuntimeBackend().load_reference(network, CompileOptions()).run({"image": images[:1]})
    actual = engine.run({"image": images[:1]})
    assert set(actual) == {"logits", "cam"}
    assert all(v.dtype == np.float32 for v in actual.values())
    assert_close(actual["cam"], expected["cam"], OF_PRECISION[precision])


def test_a_batch_gives_the_same_outputs_as_single_images(engine, images):
    batched = engine.run({"image": images})["cam"]
    single = np.concatenate([engine.run({"image": images[i : i + 1]})["cam"] for i in range(len(images))])
    assert_close(batched, single)


def test_an_input_may_be_non_contiguous(engine, images):
    strided = np.repeat(images[:1], 2, axis=3)[..., ::2]
    assert_close(engine.run({"image": strided})["logits"], engine.run({"image": images[:1]})["logits"])


def test_a_runtime_older_than_the_networks_ir_version_is_reported(network, tmp_path):
    model = onnx.load(network)
    model.ir_version = 99
    onnx.save(model, tmp_path / "new.onnx")
    with pytest.raises(BackendError, match=r"new\.onnx has IR version 99, .* reads up to \d+: .*upgrade onnxruntime"):
        OnnxRuntimeBackend().load_reference(tmp_path / "new.onnx", CompileOptions())


@pytest.mark.parametrize("threads", [1, 2])
def test_any_number_of_threads_gives_the_reference_output(backend, network, images, threads, tmp_path):
    options = CompileOptions(threads=threads)
    backend.compile(network, tmp_path / f"engine{backend.suffix}", options)
    actual = backend.load(tmp_path / f"engine{backend.suffix}", options).run({"image": images[:1]})
    expected = OnnxRuntimeBackend().load_reference(network, CompileOptions()).run({"image": images[:1]})
    assert_close(actual["cam"], expected["cam"])


def test_several_threads_may_run_one_engine(engine, images):
    expected = [engine.run({"image": images[i : i + 1]})["logits"] for i in range(5)]
    with ThreadPoolExecutor(4) as pool:
        actual = list(pool.map(lambda i: engine.run({"image": images[i % 5 : i % 5 + 1]})["logits"], range(40)))
    assert all(np.array_equal(a, expected[i % 5]) for i, a in enumerate(actual))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: {"picture": x}, r"takes the inputs \['image'\], got \['picture'\]"),
        (lambda x: {}, r"takes the inputs \['image'\], got \[\]"),
        (lambda x: {"image": x, "more": x}, r"got \['image', 'more'\]"),
        (lambda x: {"image": x.astype(np.float64)}, r"is float32 \(N, 1, 48, 48\), got float64 \(5, 1, 48, 48\)"),
        (lambda x: {"image": x[:, :, :-1]}, r"got float32 \(5, 1, 47, 48\)"),
        (lambda x: {"image": x[0]}, r"got float32 \(1, 48, 48\)"),
        (lambda x: {"image": x[:0]}, r"got float32 \(0, 1, 48, 48\)"),
    ],
)
def test_invalid_inputs_are_rejected(engine, images, change, message):
    with pytest.raises(ContractError, match=message):
        engine.run(change(images))


@pytest.fixture
def bound(backend, engine, images):
    """Yield the engine, its device, and a function that runs an image in device memory and returns the outputs."""
    if not isinstance(backend, DeviceBackend):
        pytest.skip(f"{backend.name} runs on host memory only")
    device = backend.device()
    with device.current():
        yield engine, device, lambda image: run_on_device(device, engine, image)


def run_on_device(device, engine, image):
    stream, shapes = device.stream(), engine.output_shapes(len(image))
    results = {name: np.empty(shape, np.float32) for name, shape in shapes.items()}
    buffers = {name: device.allocate(x.nbytes) for name, x in {"image": image, **results}.items()}
    addresses = {name: buffer.address for name, buffer in buffers.items()}
    enqueue = engine.bind(addresses, batch=len(image), stream=stream.handle)
    for _ in range(2):  # one binding is used for many inferences
        device.upload(addresses["image"], image, stream)
        enqueue()
        for name, result in results.items():
            device.download(result, addresses[name], stream)
        device.synchronize(stream)
    return results


def test_device_memory_gives_the_same_outputs_as_host_memory(bound, images):
    engine, _, infer = bound
    assert isinstance(engine, DeviceEngine)
    expected = engine.run({"image": images[:1]})
    actual = infer(images[:1])
    assert {name: y.shape for name, y in actual.items()} == engine.output_shapes(1)
    for name in ("logits", "cam"):
        assert_close(actual[name], expected[name])


def test_a_captured_inference_can_be_replayed_on_other_images(bound, images):
    engine, device, _ = bound
    stream, shapes = device.stream(), engine.output_shapes(1)
    image, cam = np.ascontiguousarray(images[:1]), np.zeros(shapes["cam"], np.float32)
    buffers = {"image": device.allocate(image.nbytes), "cam": device.allocate(cam.nbytes)}
    buffers["logits"] = device.allocate(4 * int(np.prod(shapes["logits"])))
    enqueue = engine.bind({n: b.address for n, b in buffers.items()}, batch=1, stream=stream.handle)
    enqueue()
    device.synchronize(stream)
    graph = device.capture(stream, enqueue)
    for i in range(3):
        device.upload(buffers["image"].address, np.ascontiguousarray(images[i : i + 1]), stream)
        graph.launch(stream)
        device.download(cam, buffers["cam"].address, stream)
        device.synchronize(stream)
        assert_close(cam, engine.run({"image": images[i : i + 1]})["cam"])


def test_addresses_of_unknown_tensors_are_rejected(bound):
    engine, device, _ = bound
    with pytest.raises(ContractError, match=r"has the tensors .* got addresses of \['picture'\]"):
        engine.bind({"picture": 256}, batch=1, stream=device.stream().handle)


def test_a_device_backend_lists_the_versions_its_engines_do_not_depend_on(backend):
    if isinstance(backend, DeviceBackend):
        assert set(backend.portable(GpuOptions())) == set()
        assert set(backend.portable(GpuOptions(version_compatible=True))) <= set(backend.versions())


def test_an_invalid_file_can_neither_be_compiled_nor_loaded(backend, tmp_path, capfd):
    invalid = tmp_path / f"invalid{backend.suffix}"
    invalid.write_bytes(b"no network" * 40)
    with pytest.raises(BackendError, match="could not compile invalid"):
        backend.compile(invalid, tmp_path / "engine", CompileOptions())
    with pytest.raises(BackendError, match="could not load invalid"):
        backend.load(invalid, CompileOptions())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("threads", [0, -1, 1.5, True])
def test_options_need_at_least_one_thread(threads):
    with pytest.raises(InputError, match="whole number of 1 or more"):
        CompileOptions(threads=threads)


class MissingBackend(OnnxRuntimeBackend):
    name = "missing"

    def unavailable_because(self):
        return "the package missing is not installed: pip install missing"


class WrongBackend(OnnxRuntimeBackend):
    """Is installed, loads, and computes wrong outputs, as a runtime on an unsupported driver may."""

    name = "wrong"

    def load(self, engine, options):
        class WrongEngine:
            def run(self, inputs):
                return {"y": inputs["x"] * 0}

        return WrongEngine()


def test_auto_selects_the_first_backend_that_passes_its_self_test(monkeypatch):
    registry = {"missing": MissingBackend, "wrong": WrongBackend, "onnxruntime": OnnxRuntimeBackend}
    monkeypatch.setattr(backends, "BACKENDS", registry)
    assert backends.choose("auto", among=list(registry)).name == "onnxruntime"


def test_auto_reports_the_reason_of_every_failed_backend(monkeypatch):
    monkeypatch.setattr(backends, "BACKENDS", {"missing": MissingBackend, "wrong": WrongBackend})
    expected = r"missing: .* pip install missing; wrong: the self-test gave \[0.0, -0.0\], expected \[-1.0, 2.0\]"
    with pytest.raises(BackendError, match=expected):
        backends.choose("auto", among=["missing", "wrong"])
    with pytest.raises(BackendError, match="missing: the package missing is not installed"):
        backends.choose("missing")


def test_an_unknown_backend_name_is_rejected():
    with pytest.raises(
        BackendError, match=r"no backend is called 'abacus': choose from auto, tensorrt, .*, onnxruntime"
    ):
        backends.choose("abacus")
