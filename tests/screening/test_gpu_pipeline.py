"""A whole screening on an emulated GPU, captured and played back, against the same screening on the host."""

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
from cxr_edge.records import Image
from cxr_edge.screening.gpu_pipeline import DevicePipeline, size_class
from cxr_edge.screening.screener import Screener
from tests.builders.toy_bundle import build_toy_bundle
from tests.doubles.emulated_device import EmulatedDevice, EmulatedEngine
from tests.tolerances import HEAT_MAP, PROBABILITY

STRATEGIES = ("voting", "average", "weighted-average", "stacking", "flannel")


def image_of(pixels, name="made") -> Image:
    return Image(
        pixels=pixels, source=name, sha256="0" * 64, format="PNG", stored_bits=8 * pixels.itemsize, flags=(),
    )  # fmt: skip


def lung_like(height, width, dtype, seed=0):
    """Dark lungs on a bright, noisy ground, which the toy segmenter sees."""
    rng = np.random.default_rng(seed)
    top = np.iinfo(dtype).max
    picture = rng.uniform(0.6, 0.95, (height, width))
    inner = picture[height // 5 : -height // 5, width // 8 : -width // 8]
    inner[...] = rng.uniform(0.25, 0.35, inner.shape)
    return (picture * top).astype(dtype)


def on_device(bundle: Bundle, device: EmulatedDevice) -> engines.EngineSet:
    host = engines.reference(bundle)
    return dataclasses.replace(
        host,
        segmenter=EmulatedEngine(host.segmenter, device) if host.segmenter else None,
        members=tuple(EmulatedEngine(e, device) for e in host.members),
        device=device,
    )


def same(ours, theirs):
    """The same screening, but for the times."""
    assert ours.roi == theirs.roi
    assert ours.flags == theirs.flags
    assert ours.decision == theirs.decision
    np.testing.assert_allclose(ours.probabilities, theirs.probabilities, atol=PROBABILITY)
    for a, b in zip(ours.members, theirs.members, strict=True):
        np.testing.assert_allclose(a.probabilities, b.probabilities, atol=PROBABILITY)


@pytest.fixture(scope="module")
def screeners(toy_bundle):
    """(on the device, on the host, the device)."""
    bundle, device = Bundle.open(toy_bundle), EmulatedDevice()
    return Screener(bundle, on_device(bundle, device)), Screener(bundle, engines.reference(bundle)), device


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(200, 160), (61, 97), (501, 333), (1, 1)])
def test_it_screens_as_the_host_does_plainly_and_by_graph(screeners, shape, dtype):
    ours, theirs, _ = screeners
    image = image_of(lung_like(*shape, dtype))
    for _ in range(2):  # the first of its size class may run plainly, the second is the graph
        same(ours.screen(image, heatmap=True), theirs.screen(image, heatmap=True))


def test_the_bundles_own_images(screeners, toy_bundle):
    ours, theirs, _ = screeners
    bundle = Bundle.open(toy_bundle)
    for answer in bundle.manifest.known_answers:
        image = decode(bundle.file(answer.file))
        got, wanted = ours.screen(image, heatmap=True), theirs.screen(image, heatmap=True)
        same(got, wanted)
        np.testing.assert_allclose(got.heatmap, wanted.heatmap, atol=HEAT_MAP)


def test_boxes_are_found_and_refused_on_the_device(screeners):
    ours, _, _ = screeners
    found = ours.screen(image_of(lung_like(300, 300, np.uint8)))
    assert found.roi.as_tuple() != (0, 0, 300, 300)
    empty = ours.screen(image_of(np.zeros((300, 300), np.uint8)))
    assert empty.roi.as_tuple() == (0, 0, 300, 300)
    assert [f.code for f in empty.flags if f.code == "lung_box_failed"] == ["lung_box_failed"]
    assert ours.screen(image_of(lung_like(300, 300, np.uint8))).roi == found.roi  # nothing stays of the image before


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy(tmp_path, strategy):
    bundle = build_toy_bundle(tmp_path, strategy=strategy, known_answers=False)
    image = image_of(lung_like(150, 170, np.uint16))
    theirs = Screener(bundle, engines.reference(bundle)).screen(image)
    same(Screener(bundle, on_device(bundle, EmulatedDevice(seed=3))).screen(image), theirs)


@pytest.mark.parametrize("members", [("plain",), ("residual", "depthwise")])
def test_without_a_segmenter_and_without_maps(tmp_path, members):
    bundle = build_toy_bundle(tmp_path, members=members, segmenter=False, cam=False, known_answers=False)
    image = image_of(lung_like(90, 120, np.uint8))
    ours = Screener(bundle, on_device(bundle, EmulatedDevice())).screen(image, heatmap=True)
    same(ours, Screener(bundle, engines.reference(bundle)).screen(image))
    assert ours.heatmap is None
    assert ours.roi.as_tuple() == (0, 0, 120, 90)


def test_one_launch_an_image_once_its_size_class_is_known(toy_bundle):
    bundle, device = Bundle.open(toy_bundle), EmulatedDevice()
    screener = Screener(bundle, on_device(bundle, device))
    screener.screen(image_of(lung_like(400, 400, np.uint8)))
    graph, allocations = device.graphs[-1], device.allocations
    before = graph.launches
    for height in (400, 399, 401, 395):  # all of one class
        screener.screen(image_of(lung_like(height, 400, np.uint8)))
    assert graph.launches == before + 4
    assert device.allocations == allocations
    assert screener.describe().endswith("; one CUDA graph an image, on emulated GPU")


def test_a_larger_image_makes_new_memory_and_new_graphs(screeners):
    ours, theirs, device = screeners
    for seed, side in enumerate((180, 190, 1200, 185, 1195, 180, 1190)):  # each is another image: old memory shows
        image = image_of(lung_like(side, side + seed, np.uint16, seed=seed))
        same(ours.screen(image), theirs.screen(image))
    assert device.graphs[-1].launches > 0


def test_where_capture_is_refused_it_runs_on_streams_and_says_so(toy_bundle):
    bundle, device = Bundle.open(toy_bundle), EmulatedDevice(refuses_capture=True)
    screener = Screener(bundle, on_device(bundle, device))
    image = image_of(lung_like(220, 200, np.uint8))
    for _ in range(3):
        same(screener.screen(image), Screener(bundle, engines.reference(bundle)).screen(image))
    assert not device.graphs
    assert screener.describe().endswith(
        "; plain CUDA streams (no graph: the capture failed: operation not permitted), on emulated GPU"
    )


@pytest.mark.parametrize(
    ("breaks", "reason"),
    [
        ("on launch", r"launching the graph failed: out of memory"),
        ("silently", r"it answered \[.*\] for \[.*\]"),
    ],
)
def test_a_graph_that_fails_or_answers_otherwise_is_not_used(toy_bundle, breaks, reason):
    bundle, device = Bundle.open(toy_bundle), EmulatedDevice(breaks_graphs=breaks)
    screener = Screener(bundle, on_device(bundle, device))
    launches = [g.launches for g in device.graphs]
    image = image_of(lung_like(220, 200, np.uint8))
    for _ in range(3):
        same(screener.screen(image), Screener(bundle, engines.reference(bundle)).screen(image))
    assert [g.launches for g in device.graphs] == launches
    assert re.search(rf"; plain CUDA streams \(no graph: {reason}\), on emulated GPU$", screener.describe())


@pytest.mark.parametrize(
    ("fail", "reason"),
    [
        ("loudly", "no kernel image is available for execution on the device"),
        ("silently", r"a kernel found the box .* where .* is right"),
    ],
)
def test_where_the_cores_kernels_fail_engines_run_from_the_host(toy_bundle, fail, reason):
    bundle, device = Bundle.open(toy_bundle), EmulatedDevice(kernels_fail=fail)
    screener = Screener(bundle, on_device(bundle, device))
    image = image_of(lung_like(220, 200, np.uint8))
    same(screener.screen(image), Screener(bundle, engines.reference(bundle)).screen(image))
    how = rf"; preprocessing on the host, since the core's kernels do not run: {reason}$"
    assert re.search(how, screener.describe())


def test_the_stages_are_timed_and_add_up(screeners):
    times = screeners[0].screen(image_of(lung_like(100, 100, np.uint8)), decode_ms=2.0).times
    stages = [getattr(times, f.name) for f in dataclasses.fields(times)]
    assert times.decode_ms == 2.0
    assert times.total_ms == pytest.approx(sum(stages))
    assert times.lungs_ms > 0  # by the emulated clock
    assert times.download_ms > 0


def test_threads_take_turns(screeners):
    ours, theirs, _ = screeners
    images = [image_of(lung_like(120 + 40 * i, 150, np.uint8, seed=i)) for i in range(6)]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(ours.screen, images * 3))
    for screening, image in zip(got, images * 3, strict=True):
        same(screening, theirs.screen(image))


def test_logits_that_do_not_fit_the_labels_are_refused(toy_bundle):
    bundle, device = Bundle.open(toy_bundle), EmulatedDevice()
    found = on_device(bundle, device)
    labels = bundle.manifest.labels[:3]
    manifest = dataclasses.replace(
        bundle.manifest, labels=labels, decision=dataclasses.replace(bundle.manifest.decision, thresholds={}),
        known_answers=(),
    )  # fmt: skip
    with pytest.raises(ContractError, match=r"plain: expected logits of shape \(1, 3\), the engine gives \(1, 4\)"):
        DevicePipeline(manifest, found.segmenter, found.members, device)


@pytest.mark.parametrize("n_bytes", [1, 65536, 65537, 100_000, 1 << 20, (1 << 20) + 1, 18_000_256, 2**31 - 7])
def test_size_classes_waste_at_most_an_eighth(n_bytes):
    size = size_class(n_bytes)
    assert n_bytes <= size <= max(n_bytes * 9 / 8, 65536)
    assert size_class(size) == size


def test_an_octave_has_eight_classes():
    assert len({size_class(n) for n in range((1 << 20) + 1, (1 << 21) + 1, 4099)}) == 8


class TestTheEmulator:
    """What the emulated device must notice, so that the tests above mean something."""

    def test_two_streams_that_write_the_same_memory_without_waiting(self):
        device = EmulatedDevice()
        a, b, memory = device.stream(), device.stream(), device.allocate(64)
        device.upload(memory.address, np.zeros(64, np.uint8), a)
        with pytest.raises(AssertionError, match="neither waits"):
            device.download(np.zeros(64, np.uint8), memory.address, b)

    def test_waiting_makes_it_right(self):
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

    def test_nothing_runs_while_it_is_captured(self):
        device = EmulatedDevice()
        stream, memory = device.stream(), device.allocate(64)
        graph = device.capture(stream, lambda: device.upload(memory.address, np.ones(64, np.uint8), stream))
        assert not (memory.bytes == 1).any()
        graph.launch(stream)
        assert (memory.bytes == 1).all()
