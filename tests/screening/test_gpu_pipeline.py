"""Screening on an emulated GPU, captured and replayed, compared with the same screening on the host."""

from __future__ import annotations

import dataclasses
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from cxr_edge import engines
from cxr_edge.bundle import Bundle
from cxr_edge.decoding.decode import decode
from cxr_edge.errors import ContractError
from cxr_edge.records import Image, Roi
from cxr_edge.screening.gpu_pipeline import DevicePipeline, size_class
from cxr_edge.screening.modes import Modes
from cxr_edge.screening.screener import Screener
from cxr_edge.specs.combination import STRATEGIES
from tests.builders.toy_bundle import build_toy_bundle
from tests.doubles.emulated_device import EmulatedDevice, EmulatedEngine
from tests.tolerances import HEAT_MAP, PROBABILITY


def image_of(pixels, name="made") -> Image:
    return Image(
        pixels=pixels, source=name, sha256="0" * 64, format="PNG", stored_bits=8 * pixels.itemsize, flags=(),
    )  # fmt: skip


def lung_like(height, width, dtype, seed=0):
    """Dark lungs on a bright, noisy background, which the toy segmenter finds."""
    rng = np.random.default_rng(seed)
    top = np.iinfo(dtype).max
    pixels = rng.uniform(0.6, 0.95, (height, width))
    lungs = pixels[height // 5 : -height // 5, width // 8 : -width // 8]
    lungs[...] = rng.uniform(0.25, 0.35, lungs.shape)
    return (pixels * top).astype(dtype)


def on_device(bundle: Bundle, device: EmulatedDevice) -> engines.EngineSet:
    host = engines.reference(bundle)
    return dataclasses.replace(
        host,
        segmenter=EmulatedEngine(host.segmenter, device) if host.segmenter else None,
        members=tuple(EmulatedEngine(e, device) for e in host.members),
        device=device,
    )


def assert_same(actual, expected):
    """Compare two screenings, except for the times."""
    assert actual.roi == expected.roi
    assert actual.flags == expected.flags
    assert actual.decision == expected.decision
    np.testing.assert_allclose(actual.probabilities, expected.probabilities, atol=PROBABILITY)
    for a, b in zip(actual.members, expected.members, strict=True):
        np.testing.assert_allclose(a.probabilities, b.probabilities, atol=PROBABILITY)


@pytest.fixture(scope="module")
def screeners(toy_bundle):
    """Return the screener on the device, the screener on the host, and the device."""
    bundle, device = Bundle.open(toy_bundle), EmulatedDevice()
    return Screener(bundle, on_device(bundle, device)), Screener(bundle, engines.reference(bundle)), device


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(200, 160), (61, 97), (501, 333), (1, 1)])
def test_eager_runs_and_graphs_equal_the_host(screeners, shape, dtype):
    on_gpu, on_host, _ = screeners
    image = image_of(lung_like(*shape, dtype))
    for _ in range(2):  # the first of its size class may run eagerly, the second uses the graph
        assert_same(on_gpu.screen(image, heatmap=True), on_host.screen(image, heatmap=True))


def test_the_images_of_the_bundle(screeners, toy_bundle):
    on_gpu, on_host, _ = screeners
    bundle = Bundle.open(toy_bundle)
    for known in bundle.manifest.known_answers:
        image = decode(bundle.file(known.file))
        actual, expected = on_gpu.screen(image, heatmap=True), on_host.screen(image, heatmap=True)
        assert_same(actual, expected)
        np.testing.assert_allclose(actual.heatmap, expected.heatmap, atol=HEAT_MAP)


def test_boxes_are_detected_and_rejected_on_the_device(screeners):
    on_gpu, _, _ = screeners
    detected = on_gpu.screen(image_of(lung_like(300, 300, np.uint8)))
    assert detected.roi.as_tuple() != (0, 0, 300, 300)
    empty = on_gpu.screen(image_of(np.zeros((300, 300), np.uint8)))
    assert empty.roi.as_tuple() == (0, 0, 300, 300)
    assert [f.code for f in empty.flags if f.code == "lung_box_failed"] == ["lung_box_failed"]
    assert on_gpu.screen(image_of(lung_like(300, 300, np.uint8))).roi == detected.roi  # no state of the image before


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy(tmp_path, strategy):
    bundle = build_toy_bundle(tmp_path, strategy=strategy, known_answers=False)
    image = image_of(lung_like(150, 170, np.uint16))
    expected = Screener(bundle, engines.reference(bundle)).screen(image)
    assert_same(Screener(bundle, on_device(bundle, EmulatedDevice(seed=3))).screen(image), expected)


@pytest.mark.parametrize("members", [("plain",), ("residual", "depthwise")])
def test_without_a_segmenter_and_without_maps(tmp_path, members):
    bundle = build_toy_bundle(tmp_path, members=members, segmenter=False, cam=False, known_answers=False)
    image = image_of(lung_like(90, 120, np.uint8))
    actual = Screener(bundle, on_device(bundle, EmulatedDevice())).screen(image, heatmap=True)
    assert_same(actual, Screener(bundle, engines.reference(bundle)).screen(image))
    assert actual.heatmap is None
    assert actual.roi.as_tuple() == (0, 0, 120, 90)


def test_one_launch_per_image_of_a_known_size_class(toy_bundle):
    bundle, device = Bundle.open(toy_bundle), EmulatedDevice()
    screener = Screener(bundle, on_device(bundle, device))
    screener.screen(image_of(lung_like(400, 400, np.uint8)))
    graph, allocations = device.graphs[-1], device.allocations
    before = graph.launches
    for height in (400, 399, 401, 395):  # all of one class
        screener.screen(image_of(lung_like(height, 400, np.uint8)))
    assert graph.launches == before + 4
    assert device.allocations == allocations
    assert screener.describe().endswith("; one CUDA graph per image, on emulated GPU")


def test_a_larger_image_needs_new_memory_and_new_graphs(screeners):
    on_gpu, on_host, device = screeners
    for seed, side in enumerate(
        (180, 190, 1200, 185, 1195, 180, 1190)
    ):  # different images, so that stale memory is detected
        image = image_of(lung_like(side, side + seed, np.uint16, seed=seed))
        assert_same(on_gpu.screen(image), on_host.screen(image))
    assert device.graphs[-1].launches > 0


def test_without_capture_it_runs_on_streams_and_reports_it(toy_bundle):
    bundle, device = Bundle.open(toy_bundle), EmulatedDevice(refuses_capture=True)
    screener = Screener(bundle, on_device(bundle, device))
    image = image_of(lung_like(220, 200, np.uint8))
    for _ in range(3):
        assert_same(screener.screen(image), Screener(bundle, engines.reference(bundle)).screen(image))
    assert not device.graphs
    assert screener.describe().endswith(
        "; plain CUDA streams (no graph: the capture failed: operation not permitted), on emulated GPU"
    )


@pytest.mark.parametrize(
    ("breaks", "reason"),
    [
        ("on launch", r"launching the graph failed: out of memory"),
        ("silently", r"it returned \[.*\], expected \[.*\]"),
    ],
)
def test_a_graph_that_fails_or_differs_is_not_used(toy_bundle, breaks, reason):
    bundle, device = Bundle.open(toy_bundle), EmulatedDevice(breaks_graphs=breaks)
    screener = Screener(bundle, on_device(bundle, device))
    launches = [g.launches for g in device.graphs]
    image = image_of(lung_like(220, 200, np.uint8))
    for _ in range(3):
        assert_same(screener.screen(image), Screener(bundle, engines.reference(bundle)).screen(image))
    assert [g.launches for g in device.graphs] == launches
    assert re.search(rf"; plain CUDA streams \(no graph: {reason}\), on emulated GPU$", screener.describe())


@pytest.mark.parametrize(
    ("fail", "reason"),
    [
        ("loudly", "no kernel image is available for execution on the device"),
        ("silently", r"a kernel returned the box .*, expected .*"),
    ],
)
def test_if_the_kernels_fail_the_host_pipeline_is_used(toy_bundle, fail, reason):
    bundle, device = Bundle.open(toy_bundle), EmulatedDevice(kernels_fail=fail)
    screener = Screener(bundle, on_device(bundle, device))
    image = image_of(lung_like(220, 200, np.uint8))
    assert_same(screener.screen(image), Screener(bundle, engines.reference(bundle)).screen(image))
    mode = rf"; preprocessing on the host, since the core's kernels do not run: {reason}$"
    assert re.search(mode, screener.describe())


def test_stage_times_add_up_to_the_total(screeners):
    times = screeners[0].screen(image_of(lung_like(100, 100, np.uint8)), decode_ms=2.0).times
    stages = [getattr(times, f.name) for f in dataclasses.fields(times)]
    assert times.decode_ms == 2.0
    assert times.total_ms == pytest.approx(sum(stages))
    assert times.lungs_ms > 0  # by the emulated clock
    assert times.download_ms > 0


def test_threads_take_turns(screeners):
    on_gpu, on_host, _ = screeners
    images = [image_of(lung_like(120 + 40 * i, 150, np.uint8, seed=i)) for i in range(6)]
    with ThreadPoolExecutor(4) as pool:
        screenings = list(pool.map(on_gpu.screen, images * 3))
    for screening, image in zip(screenings, images * 3, strict=True):
        assert_same(screening, on_host.screen(image))


def test_logits_that_do_not_fit_the_labels_are_rejected(toy_bundle):
    bundle, device = Bundle.open(toy_bundle), EmulatedDevice()
    engine_set = on_device(bundle, device)
    labels = bundle.manifest.labels[:3]
    manifest = dataclasses.replace(
        bundle.manifest, labels=labels, decision=dataclasses.replace(bundle.manifest.decision, thresholds={}),
        known_answers=(),
    )  # fmt: skip
    with pytest.raises(ContractError, match=r"plain: expected logits of shape \(1, 3\), got \(1, 4\)"):
        DevicePipeline(manifest, engine_set.segmenter, engine_set.members, device, Modes(manifest, engine_set))


@pytest.mark.parametrize("n_bytes", [1, 65536, 65537, 100_000, 1 << 20, (1 << 20) + 1, 18_000_256, 2**31 - 7])
def test_size_classes_waste_at_most_an_eighth(n_bytes):
    size = size_class(n_bytes)
    assert n_bytes <= size <= max(n_bytes * 9 / 8, 65536)
    assert size_class(size) == size


def test_a_power_of_two_has_eight_classes():
    assert len({size_class(n) for n in range((1 << 20) + 1, (1 << 21) + 1, 4099)}) == 8


class TestTheEmulator:
    """Errors that the emulated device must detect for the tests above to be meaningful."""

    def test_two_streams_that_access_the_same_memory_without_waiting(self):
        device = EmulatedDevice()
        a, b, memory = device.stream(), device.stream(), device.allocate(64)
        device.upload(memory.address, np.zeros(64, np.uint8), a)
        with pytest.raises(AssertionError, match="neither waits"):
            device.download(np.zeros(64, np.uint8), memory.address, b)

    def test_two_streams_with_a_wait(self):
        device = EmulatedDevice()
        a, b, memory, event = device.stream(), device.stream(), device.allocate(64), device.event()
        device.upload(memory.address, np.ones(64, np.uint8), a)
        device.record(event, a)
        device.wait(b, event)
        out = np.zeros(64, np.uint8)
        device.download(out, memory.address, b)
        assert out.all()

    def test_a_stream_that_is_not_joined(self):
        device = EmulatedDevice()
        a, b, memory, fork = device.stream(), device.stream(), device.allocate(64), device.event()

        def work():
            device.record(fork, a)
            device.wait(b, fork)
            device.upload(memory.address, np.zeros(64, np.uint8), b)

        with pytest.raises(AssertionError, match="was not joined"):
            device.capture(a, work)

    def test_a_stream_that_never_forked(self):
        device = EmulatedDevice()
        a, b, memory = device.stream(), device.stream(), device.allocate(64)
        with pytest.raises(AssertionError, match="outside the capture"):
            device.capture(a, lambda: device.upload(memory.address, np.zeros(64, np.uint8), b))

    def test_nothing_runs_during_a_capture(self):
        device = EmulatedDevice()
        stream, memory = device.stream(), device.allocate(64)
        graph = device.capture(stream, lambda: device.upload(memory.address, np.ones(64, np.uint8), stream))
        assert not (memory.bytes == 1).any()
        graph.launch(stream)
        assert (memory.bytes == 1).all()


def test_a_crop_that_contradicts_the_kernels_status_is_an_error(screeners, monkeypatch):
    """A fault of the kernel or of a driver must not give a screening."""
    elsewhere = lambda *_, **__: (Roi(x0=0, y0=0, x1=1, y1=1), None)  # noqa: E731
    monkeypatch.setattr("cxr_edge.screening.gpu_pipeline.roi_from_result", elsewhere)
    with pytest.raises(ContractError, match=r"the GPU cropped to the box \[\d+, .*\], expected Roi"):
        screeners[0].screen(image_of(lung_like(200, 160, np.uint8)))
