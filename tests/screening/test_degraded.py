"""Screening without some members: each in turn and two at once, by a missing file, by NaN weights, and by a delayed engine."""

from __future__ import annotations

import dataclasses
import itertools
import json
import pickle
import shutil
import time

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from cxr_edge import engines
from cxr_edge.backends import onnxruntime as backend
from cxr_edge.bundle import Bundle, write_bundle
from cxr_edge.compiler.build_bundle import build
from cxr_edge.decoding.decode import decode
from cxr_edge.digests import sha256_file
from cxr_edge.engines import reference
from cxr_edge.errors import BackendError, EngineError, InputError
from cxr_edge.ops.combine import Combiner, member_logits
from cxr_edge.records import Failure, Screening
from cxr_edge.screening.screener import Screener
from cxr_edge.specs.budget import ErrorBudget, LabelLimits
from tests.builders.toy_bundle import MEMBER_SPECS, build_toy_bundle, toy_modes, toy_refused_image
from tests.doubles.emulated_device import EmulatedDevice, EmulatedEngine
from tests.tolerances import PROBABILITY

NAMES = tuple(MEMBER_SPECS)
LOST = [set(lost) for n in (1, 2) for lost in itertools.combinations(NAMES, n)]
LOST_NAMES = [" and ".join(name for name in NAMES if name in lost) for lost in LOST]
DEADLINE_MS = 120
SLACK_MS = 160  # of a busy machine, still less than a delayed engine takes; docs/degraded.md has what was measured


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Return the folder of a bundle with degraded modes and built engines."""
    bundle = build_toy_bundle(tmp_path_factory.mktemp("degraded") / "toy", degraded=True, checker=True)
    build(bundle, engines.BuildSettings(precision="fp32"))
    return bundle.root


@pytest.fixture
def bundle(root, tmp_path):
    """Return a bundle whose engines the test may damage."""
    return Bundle.open(shutil.copytree(root, tmp_path / "toy"))


@pytest.fixture(scope="module")
def image(root):
    bundle = Bundle.open(root)
    return decode(bundle.file(bundle.manifest.known_answers[0].file))


@pytest.fixture(scope="module")
def whole(root, image):
    """Return the screening by all members."""
    screening = Screener(Bundle.open(root), engines.load(Bundle.open(root))).screen(image)
    assert screening.degraded is None
    assert "degraded" not in screening.as_json()
    return screening


def engine_file(bundle, name):
    return bundle.root / "engines" / "onnxruntime" / f"{name}.fp32.onnx"


def give_nan(bundle, name):
    """Replace the weights of a built engine by NaN; its side-car follows, as if it had been built so."""
    path = engine_file(bundle, name)
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            values = np.full_like(numpy_helper.to_array(tensor), np.nan)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, path)
    car = path.with_suffix(".json")
    car.write_text(json.dumps({**json.loads(car.read_text()), "engine_sha256": sha256_file(path)}))


class Delayed:
    """An engine that does not end before it is told to, or, if `deaf`, not before its time."""

    def __init__(self, engine, *, seconds=0.3, deaf=False):
        self.inputs, self.outputs, self._engine, self._seconds = engine.inputs, engine.outputs, engine, seconds
        self._deaf, self.runs = deaf, 0

    def run(self, inputs):
        time.sleep(self._seconds)
        return self._engine.run(inputs)

    def run_until(self, inputs, interruption):
        self.runs += 1
        told = []
        interruption.on_request(lambda: told.append(True))
        end = time.perf_counter() + self._seconds
        while time.perf_counter() < end and (self._deaf or not told):
            time.sleep(0.002)
        return self._engine.run(inputs)


class NanEngine(Delayed):
    """An engine with one output that is not finite."""

    def run(self, inputs):
        outputs = self._engine.run(inputs)
        name = self.outputs[0].name
        values = outputs[name].copy()
        values.flat[0] = np.nan
        return {**outputs, name: values}


def with_engines(bundle, change, names):
    """Return the reference engines, those of these members changed."""
    found = reference(bundle)
    members = zip(NAMES, found.members, strict=True)
    return dataclasses.replace(found, members=tuple(change(e) if n in names else e for n, e in members))


def assert_answered_without(screening, lost, bundle, whole, reason):
    """Assert that exactly the others answered, by the calibration of their mode."""
    rest = tuple(n for n in NAMES if n not in lost)
    mode = next(m for m in bundle.manifest.degraded if m.members == rest)
    state = screening.degraded
    assert (state.answered, state.missing) == (rest, tuple(n for n in NAMES if n in lost))
    assert all(reason in d.reason for d in state.dropped)
    assert [m.member for m in screening.members] == list(rest)
    rows = [k for k, n in enumerate(NAMES) if n in rest]
    scores = np.array([[m.probabilities for m in whole.members]])
    logits = member_logits(scores, bundle.manifest.combination)[:, rows]
    expected, _ = Combiner(mode.combination, labels=len(screening.labels)).run(np.ascontiguousarray(logits))
    np.testing.assert_allclose(screening.probabilities, expected[0], atol=PROBABILITY)
    assert np.isfinite(screening.probabilities).all()
    (flag,) = [f for f in screening.flags if f.code == "degraded"]
    assert flag.message == state.describe()
    assert f"macro-F1 {mode.figures.macro_f1:.3f} (0.900)" in flag.message
    assert f"covid-19 sensitivity {mode.figures.sensitivity.value:.3f} (0.900)" in flag.message
    assert (state.cost["macro_f1"], state.cost["macro_f1_of_all"]) == (mode.figures.macro_f1, 0.9)


@pytest.mark.parametrize("lost", LOST, ids=LOST_NAMES)
def test_members_whose_engine_file_is_missing(bundle, image, whole, lost):
    for name in lost:
        engine_file(bundle, name).unlink()
    loaded = engines.load(bundle)
    assert loaded.describe().endswith("; degraded: without " + ", ".join(n for n in NAMES if n in lost))
    screener = Screener(bundle, loaded)
    assert screener.degraded.missing == tuple(n for n in NAMES if n in lost)
    assert_answered_without(screener.screen(image), lost, bundle, whole, "is incomplete (No such file or directory)")
    with pytest.raises(EngineError, match=r"is incomplete \(No such file or directory\): build them with"):
        engines.load(bundle, whole=True)


@pytest.mark.parametrize("lost", LOST, ids=LOST_NAMES)
def test_members_with_nan_weights(bundle, image, whole, lost):
    for name in lost:
        give_nan(bundle, name)
    screener = Screener(bundle, engines.load(bundle))
    assert screener.degraded is None
    assert_answered_without(screener.screen(image), lost, bundle, whole, "its output is not finite")


@pytest.mark.parametrize("deaf", [False, True], ids=["told to end", "deaf"])
@pytest.mark.parametrize("lost", LOST, ids=LOST_NAMES)
def test_members_that_miss_the_deadline(root, image, whole, lost, deaf):
    bundle = Bundle.open(root)
    loaded = with_engines(bundle, lambda e: Delayed(e, deaf=deaf), lost)
    screener = Screener(bundle, loaded, deadline_ms=DEADLINE_MS)
    start = time.perf_counter()
    screening = screener.screen(image)
    taken_ms = 1e3 * (time.perf_counter() - start)
    assert_answered_without(screening, lost, bundle, whole, "it had not ended at the deadline")
    assert taken_ms < DEADLINE_MS + SLACK_MS
    assert screening.times.total_ms < DEADLINE_MS + SLACK_MS


def test_all_members_in_time_are_the_whole_ensemble(root, image, whole):
    screening = Screener(Bundle.open(root), engines.load(Bundle.open(root)), deadline_ms=10_000).screen(image)
    assert screening.degraded is None
    assert (screening.probabilities, screening.flags) == (whole.probabilities, whole.flags)


def test_a_slow_network_of_onnx_runtime_ends_when_told(bundle, image, whole):
    """A network of many small products, two seconds long; its run ends between two of them."""
    path = engine_file(bundle, "plain")
    model = onnx.load(path)
    graph = model.graph
    graph.initializer.append(numpy_helper.from_array(np.eye(700, dtype=np.float32), "eye"))
    names = ["eye", *(f"slow_{i}" for i in range(400))]
    graph.node.extend(
        onnx.helper.make_node("MatMul", [before, "eye"], [after]) for before, after in itertools.pairwise(names)
    )
    graph.output.append(onnx.helper.make_tensor_value_info("cam_slow", onnx.TensorProto.FLOAT, [700, 700]))
    graph.node.append(onnx.helper.make_node("Identity", [names[-1]], ["cam_slow"]))
    onnx.save(model, path)
    engine = backend.OnnxRuntimeBackend().load(path, backend.CompileOptions(threads=1))
    loaded = with_engines(bundle, lambda _: engine, {"plain"})
    screener = Screener(bundle, loaded, deadline_ms=DEADLINE_MS)
    assert_answered_without(screener.screen(image), {"plain"}, bundle, whole, "it had not ended at the deadline")
    time.sleep(0.1)
    state = screener.screen(image).degraded
    assert state.dropped[0].reason == "it had not ended at the deadline"  # and not: an earlier run has not ended


def test_a_member_that_never_ends_is_not_run_again_beside_itself(root, image):
    bundle = Bundle.open(root)
    loaded = with_engines(bundle, lambda e: Delayed(e, seconds=0.25, deaf=True), {"plain"})
    screener = Screener(bundle, loaded, deadline_ms=60)
    reasons = [screener.screen(image).degraded.dropped[0].reason for _ in range(3)]
    assert reasons == ["it had not ended at the deadline", *["its run for an earlier image has not ended yet"] * 2]
    assert loaded.members[0].runs == 1


@pytest.mark.parametrize("change", [NanEngine, lambda e: Delayed(e)], ids=["NaN", "late"])
def test_without_any_member_the_file_fails(root, image, change):
    bundle = Bundle.open(root)
    deadline = None if change is NanEngine else 60
    screener = Screener(bundle, with_engines(bundle, change, NAMES), deadline_ms=deadline)
    known = bundle.file(bundle.manifest.known_answers[0].file)
    outcome = screener.screen_file(known).outcome
    assert isinstance(outcome, Failure)
    assert outcome.reason.startswith("no member of the ensemble gave a result: plain (it")
    assert "build its engines again" in outcome.reason


def test_a_bundle_without_modes_fails_where_it_answered_nan_before(toy_bundle, image):
    bundle = Bundle.open(toy_bundle)
    screener = Screener(bundle, with_engines(bundle, NanEngine, {"residual"}))
    with pytest.raises(
        BackendError, match=r"^without residual \(its output is not finite\) the ensemble cannot answer"
    ):
        screener.screen(image)


def test_a_bundle_without_modes_refuses_a_missing_engine_as_before(bundle):
    plain = write_bundle(bundle.root, dataclasses.replace(bundle.manifest, degraded=()))
    build(plain, engines.BuildSettings(precision="fp32"))
    engine_file(plain, "plain").unlink()
    with pytest.raises(EngineError, match="is incomplete"):
        engines.load(plain)


def test_whole_screeners_do_not_go_on_without_a_member(root, image):
    bundle = Bundle.open(root)
    screener = Screener(bundle, with_engines(bundle, NanEngine, {"plain"}), whole=True)
    with pytest.raises(BackendError, match="without plain"):
        screener.screen(image)


def test_a_member_that_fails_is_left_out(root, image, whole):
    class Failing(Delayed):
        def run(self, inputs):
            raise BackendError("out of memory")

    bundle = Bundle.open(root)
    screening = Screener(bundle, with_engines(bundle, Failing, {"plain"})).screen(image)
    assert_answered_without(screening, {"plain"}, bundle, whole, "it failed: out of memory")


def test_an_altered_engine_is_named_as_such(bundle, image, whole):
    with engine_file(bundle, "plain").open("ab") as file:
        file.write(b"x")
    screening = Screener(bundle, engines.load(bundle)).screen(image)
    assert_answered_without(
        screening, {"plain"}, bundle, whole, "its engine plain.fp32.onnx was altered: expected SHA-256"
    )


def test_an_engine_that_the_runtime_refuses(bundle, image, whole):
    path = engine_file(bundle, "plain")
    path.write_bytes(b"no network")
    car = path.with_suffix(".json")
    car.write_text(json.dumps({**json.loads(car.read_text()), "engine_sha256": sha256_file(path)}))
    screening = Screener(bundle, engines.load(bundle)).screen(image)
    assert_answered_without(screening, {"plain"}, bundle, whole, "ONNX Runtime could not load plain.fp32.onnx")


def test_loading_and_running_may_each_cost_a_member(bundle, image, whole):
    engine_file(bundle, "plain").unlink()
    give_nan(bundle, "residual")
    screening = Screener(bundle, engines.load(bundle)).screen(image)
    assert screening.degraded.answered == ("depthwise",)
    reasons = {d.member: d.reason for d in screening.degraded.dropped}
    assert reasons["plain"].startswith("its engine plain.fp32.onnx")
    assert reasons["residual"] == "its output is not finite"


@pytest.mark.parametrize("broken", ["segmenter", "another bundle", "build.json"])
def test_what_stays_an_error(bundle, broken):
    if broken == "segmenter":
        engine_file(bundle, "segmenter").unlink()
    elif broken == "build.json":
        (bundle.root / "engines" / "onnxruntime" / "build.json").unlink()
    else:
        bundle = write_bundle(bundle.root, dataclasses.replace(bundle.manifest, version="2"))
    with pytest.raises(EngineError, match="build-engine"):
        engines.load(bundle)


def test_a_segmenter_without_finite_output_means_the_whole_image(root, image):
    bundle = Bundle.open(root)
    found = reference(bundle)
    screener = Screener(bundle, dataclasses.replace(found, segmenter=NanEngine(found.segmenter)))
    screening = screener.screen(image)
    assert screening.roi.as_tuple() == (0, 0, image.width_px, image.height_px)
    (flag,) = [f for f in screening.flags if f.code == "lung_box_failed"]
    assert "the segmenter's mask is not finite" in flag.message
    assert screening.degraded is None


def test_a_late_segmenter_means_the_whole_image(root, image):
    bundle = Bundle.open(root)
    found = reference(bundle)
    screener = Screener(bundle, dataclasses.replace(found, segmenter=Delayed(found.segmenter)), deadline_ms=DEADLINE_MS)
    screening = screener.screen(image)
    assert screening.roi.as_tuple() == (0, 0, image.width_px, image.height_px)
    (flag,) = [f for f in screening.flags if f.code == "lung_box_failed"]
    assert "had not ended after half of the time" in flag.message
    assert screening.degraded is None


def test_an_image_that_cannot_be_checked_is_not_answered(root, image):
    bundle = Bundle.open(root)
    screener = Screener(bundle, reference(bundle))
    screener._checker._engine = NanEngine(screener._checker._engine)
    with pytest.raises(BackendError, match="the checker's scores are not finite"):
        screener.screen(image)
    timed = Screener(bundle, reference(bundle), deadline_ms=60)
    timed._checker._engine = Delayed(timed._checker._engine)
    with pytest.raises(BackendError, match="no answer within the deadline of 60 ms: the image could not be checked"):
        timed.screen(image)


def test_a_refused_image_has_the_flag_too(root, image):
    bundle = Bundle.open(root)
    screener = Screener(bundle, with_engines(bundle, NanEngine, {"plain"}))
    refused = dataclasses.replace(image, pixels=toy_refused_image("photo"))
    screening = screener.screen(refused)
    assert (screening.outcome, screening.reason.code) == ("refused", "photo")
    assert "degraded" in [f.code for f in screening.flags]


def test_decoding_counts(root, image):
    screener = Screener(Bundle.open(root), reference(Bundle.open(root)), deadline_ms=50)
    with pytest.raises(BackendError, match=r"within the deadline of 50 ms: decoding took 60.0 ms; give a longer one"):
        screener.screen(image, decode_ms=60)


def test_preprocessing_that_takes_the_whole_time_is_a_late_failure(root, image):
    screener = Screener(Bundle.open(root), reference(Bundle.open(root)), deadline_ms=40)
    pipeline = screener._pipeline
    preprocess = pipeline._preprocessor

    class Slow:
        def run(self, *args):
            time.sleep(0.06)
            return preprocess.run(*args)

    pipeline._preprocessor = Slow()
    with pytest.raises(
        BackendError, match=r"deadline of 40 ms: decoding took 1.0 ms, finding the lungs .* preprocessing"
    ):
        screener.screen(image, decode_ms=1)


@pytest.mark.parametrize("deadline", [0, -1, True, "5", float("inf")])
def test_a_deadline_is_a_number_of_milliseconds(root, deadline):
    bundle = Bundle.open(root)
    with pytest.raises(InputError, match="deadline_ms is a number of milliseconds above 0"):
        Screener(bundle, reference(bundle), deadline_ms=deadline)


def test_the_heat_map_is_of_the_members_that_answered(root, image):
    bundle = Bundle.open(root)
    whole = Screener(bundle, reference(bundle)).screen(image, heatmap=True).heatmap
    screening = Screener(bundle, with_engines(bundle, NanEngine, {"plain"})).screen(image, heatmap=True)
    assert np.isfinite(screening.heatmap).all()
    assert not np.allclose(screening.heatmap, whole)


def test_a_degraded_screener_is_the_same_in_another_process(bundle, image):
    engine_file(bundle, "plain").unlink()
    screener = Screener(bundle, engines.load(bundle), deadline_ms=5_000)
    again = pickle.loads(pickle.dumps(screener))
    assert (again.describe(), again._options) == (screener.describe(), screener._options)
    assert again.screen(image).probabilities == screener.screen(image).probabilities
    text = pickle.dumps(screener)
    engine_file(bundle, "residual").unlink()
    with pytest.raises(EngineError, match="the engines have changed since the Screener was pickled"):
        pickle.loads(text)


def test_the_budget_of_the_mode_decides(bundle, image):
    """All members answer everything; without the first nothing is answered."""
    labels = bundle.manifest.labels
    everything = LabelLimits(set_from=0.0, answer_from=0.0, cases=9, answered=9, wrong=0)
    nothing = LabelLimits(set_from=0.0, answer_from=None, cases=9, answered=0, wrong=0)
    promise = {"max_wrong": 0.2, "confidence": 0.9, "coverage": 0.9, "fitted_on": "x"}
    manifest = dataclasses.replace(
        bundle.manifest, budget=ErrorBudget(**promise, labels=dict.fromkeys(labels, everything)), degraded=()
    )
    modes = toy_modes(manifest)
    silent = ErrorBudget(**promise, labels=dict.fromkeys(labels, nothing))
    modes = tuple(dataclasses.replace(m, budget=m.budget if "plain" in m.members else silent) for m in modes)
    changed = write_bundle(bundle.root, dataclasses.replace(manifest, degraded=modes))
    assert Screener(changed, reference(changed)).screen(image).outcome == "answered"
    screening = Screener(changed, with_engines(changed, NanEngine, {"plain"})).screen(image)
    assert (screening.outcome, screening.reason.code) == ("abstained", "never_answered")
    assert screening.degraded.cost["answered"] == pytest.approx(2 / 3)


def test_findings_without_a_member(tmp_path):
    bundle = build_toy_bundle(tmp_path / "findings", degraded=True, multi_label=True)
    image = decode(bundle.file(bundle.manifest.known_answers[0].file))
    screening = Screener(bundle, with_engines(bundle, NanEngine, {"plain"})).screen(image)
    assert screening.degraded.answered == ("depthwise", "residual")
    assert screening.degraded.thresholds == {"effusion": 0.5, "nodule": 0.5, "opacity": 0.4}
    assert "sensitivity" not in screening.degraded.cost


def on_device(engine_set, device):
    return dataclasses.replace(
        engine_set,
        segmenter=EmulatedEngine(engine_set.segmenter, device),
        members=tuple(EmulatedEngine(e, device) for e in engine_set.members),
        device=device,
    )


@pytest.mark.parametrize("lost", LOST, ids=LOST_NAMES)
def test_nan_on_a_gpu_is_combined_again_by_the_host(root, image, whole, lost):
    bundle = Bundle.open(root)
    screener = Screener(bundle, on_device(with_engines(bundle, NanEngine, lost), EmulatedDevice()))
    assert "CUDA graph" in screener.describe()
    for _ in range(2):
        assert_answered_without(screener.screen(image), lost, bundle, whole, "its output is not finite")


def test_a_gpu_with_a_member_that_could_not_be_loaded(bundle, image, whole):
    engine_file(bundle, "depthwise").unlink()
    screener = Screener(bundle, on_device(engines.load(bundle), EmulatedDevice()))
    assert "CUDA graph" in screener.describe()
    assert_answered_without(screener.screen(image), {"depthwise"}, bundle, whole, "is incomplete")


def test_a_deadline_is_refused_on_a_gpu(root):
    bundle = Bundle.open(root)
    with pytest.raises(InputError, match="a deadline needs engines that run on the host"):
        Screener(bundle, on_device(reference(bundle), EmulatedDevice()), deadline_ms=50)


def test_a_deadline_holds_for_every_file_of_a_folder(root):
    bundle = Bundle.open(root)
    loaded = with_engines(bundle, lambda e: Delayed(e, seconds=0.2), {"residual"})
    screener = Screener(bundle, loaded, deadline_ms=60)
    files = [bundle.file(a.file) for a in bundle.manifest.known_answers]
    found = [screener.screen_file(f).outcome for f in files]
    assert all(isinstance(s, Screening) and s.degraded.missing == ("residual",) for s in found)
