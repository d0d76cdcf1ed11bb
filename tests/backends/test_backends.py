"""What every backend promises, run on each one that is registered; those that cannot run here skip and say why.

The GPU backends run on stand-ins besides, which shows that their own code keeps the promises (see `stand_ins`).
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
    """`network` written in `precision`, as `build` would."""
    if precision == "fp32":
        return onnx.load(network)
    if precision in ("fp16", "bf16"):
        return to_half(onnx.load(network), precision)
    return quantize(onnx.load(network), measure_ranges(network, [images], source="test").tensors, SCHEMES[precision])


def test_it_meets_the_protocol(backend, engine):
    assert isinstance(backend, Backend)
    assert isinstance(engine, Engine)
    assert backend.name in backends.BACKENDS
    assert set(backend.precisions) <= set(OF_PRECISION)


def test_it_proves_itself(backend):
    assert self_test.prove(backend) is None


def test_its_versions_are_text_and_stay_the_same(backend):
    versions = backend.versions()
    assert versions == backend.versions()
    assert len(versions) >= 2
    assert all(isinstance(k, str) and isinstance(v, str) for k, v in versions.items())


def test_an_engine_knows_its_inputs_and_outputs(engine):
    assert engine.inputs == (TensorInfo(name="image", dtype="float32", shape=(None, *SPEC.tensor_shape)),)
    assert {t.name: t.dtype for t in engine.outputs} == {"logits": "float32", "cam": "float32"}


@pytest.mark.parametrize("precision", OF_PRECISION)
def test_every_precision_is_as_near_to_the_reference_as_it_may(backend, precision, network, images, tmp_path):
    if precision not in backend.precisions:
        pytest.skip(f"{backend.name} is given no {precision}")
    onnx.save(precision_of(network, precision, images), tmp_path / "written.onnx")
    backend.compile(tmp_path / "written.onnx", tmp_path / f"engine{backend.suffix}", CompileOptions())
    engine = backend.load(tmp_path / f"engine{backend.suffix}", CompileOptions())
    wanted = OnnxRuntimeBackend().load_reference(network, CompileOptions()).run({"image": images[:1]})
    got = engine.run({"image": images[:1]})
    assert set(got) == {"logits", "cam"}
    assert all(v.dtype == np.float32 for v in got.values())
    assert_close(got["cam"], wanted["cam"], OF_PRECISION[precision])


def test_a_batch_gives_what_its_images_give(engine, images):
    together = engine.run({"image": images})["cam"]
    alone = np.concatenate([engine.run({"image": images[i : i + 1]})["cam"] for i in range(len(images))])
    assert_close(together, alone)


def test_an_input_need_not_be_contiguous(engine, images):
    strided = np.repeat(images[:1], 2, axis=3)[..., ::2]
    assert_close(engine.run({"image": strided})["logits"], engine.run({"image": images[:1]})["logits"])


def test_a_runtime_older_than_the_networks_ir_version_says_so(network, tmp_path):
    model = onnx.load(network)
    model.ir_version = 99
    onnx.save(model, tmp_path / "new.onnx")
    with pytest.raises(BackendError, match=r"new\.onnx has IR version 99, .* reads up to \d+: .*upgrade onnxruntime"):
        OnnxRuntimeBackend().load_reference(tmp_path / "new.onnx", CompileOptions())


@pytest.mark.parametrize("threads", [1, 2])
def test_threads(backend, network, images, threads, tmp_path):
    options = CompileOptions(threads=threads)
    backend.compile(network, tmp_path / f"engine{backend.suffix}", options)
    got = backend.load(tmp_path / f"engine{backend.suffix}", options).run({"image": images[:1]})
    wanted = OnnxRuntimeBackend().load_reference(network, CompileOptions()).run({"image": images[:1]})
    assert_close(got["cam"], wanted["cam"])


def test_several_threads_may_run_one_engine(engine, images):
    wanted = [engine.run({"image": images[i : i + 1]})["logits"] for i in range(5)]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda i: engine.run({"image": images[i % 5 : i % 5 + 1]})["logits"], range(40)))
    assert all(np.array_equal(g, wanted[i % 5]) for i, g in enumerate(got))


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
def test_wrong_inputs_are_refused(engine, images, change, message):
    with pytest.raises(ContractError, match=message):
        engine.run(change(images))


@pytest.fixture
def bound(backend, engine, images):
    """(the engine, its device, a function that gives it an image on the device and returns the outputs)."""
    if not isinstance(backend, DeviceBackend):
        pytest.skip(f"{backend.name} works on host memory only")
    device = backend.device()
    with device.current():
        yield engine, device, lambda image: on_device_memory(device, engine, image)


def on_device_memory(device, engine, image):
    stream, shapes = device.stream(), engine.output_shapes(len(image))
    results = {name: np.empty(shape, np.float32) for name, shape in shapes.items()}
    buffers = {name: device.allocate(x.nbytes) for name, x in {"image": image, **results}.items()}
    addresses = {name: buffer.address for name, buffer in buffers.items()}
    enqueue = engine.bind(addresses, batch=len(image), stream=stream.handle)
    for _ in range(2):  # a binding serves many inferences
        device.upload(addresses["image"], image, stream)
        enqueue()
        for name, result in results.items():
            device.download(result, addresses[name], stream)
        device.synchronize(stream)
    return results


def test_on_device_memory_it_gives_the_same(bound, images):
    engine, _, infer = bound
    assert isinstance(engine, DeviceEngine)
    wanted = engine.run({"image": images[:1]})
    got = infer(images[:1])
    assert {name: y.shape for name, y in got.items()} == engine.output_shapes(1)
    for name in ("logits", "cam"):
        assert_close(got[name], wanted[name])


def test_it_can_be_captured_and_run_again_on_other_images(bound, images):
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


def test_addresses_of_other_tensors_are_refused(bound):
    engine, device, _ = bound
    with pytest.raises(ContractError, match=r"has the tensors .* got addresses of \['picture'\]"):
        engine.bind({"picture": 256}, batch=1, stream=device.stream().handle)


def test_a_device_backend_says_what_its_engines_do_not_depend_on(backend):
    if isinstance(backend, DeviceBackend):
        assert set(backend.portable(GpuOptions())) == set()
        assert set(backend.portable(GpuOptions(version_compatible=True))) <= set(backend.versions())


def test_rubbish_cannot_be_compiled_or_loaded(backend, tmp_path, capfd):
    rubbish = tmp_path / f"rubbish{backend.suffix}"
    rubbish.write_bytes(b"no network" * 40)
    with pytest.raises(BackendError, match="could not compile rubbish"):
        backend.compile(rubbish, tmp_path / "engine", CompileOptions())
    with pytest.raises(BackendError, match="could not load rubbish"):
        backend.load(rubbish, CompileOptions())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("threads", [0, -1, 1.5, True])
def test_options_need_a_thread(threads):
    with pytest.raises(InputError, match="whole number of 1 or more"):
        CompileOptions(threads=threads)


class Absent(OnnxRuntimeBackend):
    name = "absent"

    def unavailable_because(self):
        return "the package absent is not installed: pip install absent"


class Lying(OnnxRuntimeBackend):
    """Installed, loads, and computes nonsense, as a runtime on an unfit driver may."""

    name = "lying"

    def load(self, engine, options):
        class Nonsense:
            def run(self, inputs):
                return {"y": inputs["x"] * 0}

        return Nonsense()


def test_auto_takes_the_first_that_has_just_worked(monkeypatch):
    registry = {"absent": Absent, "lying": Lying, "onnxruntime": OnnxRuntimeBackend}
    monkeypatch.setattr(backends, "BACKENDS", registry)
    assert backends.choose("auto", among=list(registry)).name == "onnxruntime"


def test_auto_says_why_each_one_failed(monkeypatch):
    monkeypatch.setattr(backends, "BACKENDS", {"absent": Absent, "lying": Lying})
    with pytest.raises(BackendError, match=r"absent: .* pip install absent; lying: a tiny network gave \[0.0, -0.0\]"):
        backends.choose("auto", among=["absent", "lying"])
    with pytest.raises(BackendError, match="absent: the package absent is not installed"):
        backends.choose("absent")


def test_an_unknown_backend():
    with pytest.raises(
        BackendError, match=r"no backend is called 'abacus': choose from auto, tensorrt, .*, onnxruntime"
    ):
        backends.choose("abacus")
