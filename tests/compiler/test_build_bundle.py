"""Complete builds of toy bundles: files written, candidates rejected without a trace, ranges reused."""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil

import cv2
import numpy as np
import onnx
import pytest
import simplejpeg

from cxr_edge import backends, engines
from cxr_edge.backends.self_test import SELF_TEST_STEM
from cxr_edge.bundle import Bundle, write_bundle
from cxr_edge.compiler import build_bundle, candidates, comparison, ensemble, trial
from cxr_edge.compiler.build_bundle import build
from cxr_edge.compiler.decoded_files import add_decoded_files
from cxr_edge.compiler.parity import ParityResult
from cxr_edge.compiler.sensitivity import rank_layers
from cxr_edge.compiler.timing import Timing
from cxr_edge.decoding.decode import decode
from cxr_edge.engines import MEASURED_FILE, BuildSettings, Measured
from cxr_edge.errors import BackendError, ContractError, InputError
from cxr_edge.screening.screener import Screener
from tests.builders import toy_bundle as toy_bundle_module
from tests.builders.toy_bundle import build_toy_bundle, member_model, toy_images
from tests.compiler.networks import HalfOnCpu, deep, headed

_DECODE_JPEG = simplejpeg.decode_jpeg

# Toy networks have little redundancy, so int8 costs them more than real ones.
GENEROUS = 0.5

pytestmark = pytest.mark.usefixtures("exact_int8")


@pytest.fixture(scope="module")
def ranged(tmp_path_factory):
    """A toy bundle that carries activation ranges. Shared: builds go to other folders."""
    return build_toy_bundle(tmp_path_factory.mktemp("ranged") / "toy", activation_ranges=True)


@pytest.fixture
def quick(monkeypatch):
    """Replace timing: the engine named first in the given order is the fastest, and so on."""

    def set_order(order):
        def timings(loaded, inputs):
            return {
                name: Timing(p50_ms=1.0 + (order.index(name) if name in order else 50), p99_ms=99.0, runs=1)
                for name in loaded
            }

        monkeypatch.setattr(trial, "time_engines", timings)

    return set_order


@pytest.fixture
def xrays(toy_bundle, tmp_path):
    """A calibration folder: the toy images, two of them in folders named like labels."""
    folder = tmp_path / "xrays"
    for name, label in (("known-smooth", "normal"), ("known-coarse", "viral"), ("known-fine", "normal")):
        (folder / label).mkdir(parents=True, exist_ok=True)
        shutil.copy(toy_bundle / f"{name}.png", folder / label)
    return folder


@pytest.fixture
def half_on_cpu(monkeypatch):
    """The registry with one runtime that computes in half."""
    monkeypatch.setattr(backends, "BACKENDS", {"half-on-cpu": HalfOnCpu})


def files(folder):
    """Return the paths of the files that a build wrote, without those of the self-tests."""
    paths = (p for p in folder.rglob("*") if p.is_file() and p.stem != SELF_TEST_STEM and p.name != MEASURED_FILE)
    return sorted(p.relative_to(folder).as_posix() for p in paths)


def test_the_fastest_of_each_network_is_selected(ranged, tmp_path, quick):
    quick(["uint8", "int8", "fp32"])
    report = build(ranged, BuildSettings(max_loss=GENEROUS), tmp_path)
    assert report.complete
    assert report.precisions == dict.fromkeys(("segmenter", "plain", "depthwise", "residual"), "uint8")
    assert files(tmp_path) == sorted(
        ["onnxruntime/build.json"] + [f"onnxruntime/{p}.uint8.{e}" for p in report.precisions for e in ("onnx", "json")]
    )
    statuses = {(r.part, r.precision): r.status for r in report.rows}
    assert statuses["plain", "fp32"] == "passed"
    assert {p for _, p in statuses} == {"fp32", "uint8", "uint8-fp32-stem", "int8"}
    assert report.ensemble is not None
    assert report.ensemble.images == 3


def test_what_new_engines_give_and_take_is_stored(ranged, tmp_path):
    build(ranged, BuildSettings(precision="fp32"), tmp_path, threads=2)
    measured = Measured.read(tmp_path / "onnxruntime" / MEASURED_FILE)
    assert (measured.bundle_sha256, measured.threads, measured.gate_set) == (ranged.digest, 2, ())
    expected = [answer.probabilities for answer in ranged.manifest.known_answers]
    assert np.abs(np.array(measured.known_answers) - expected).max() < 1e-3
    assert measured.screenings == 15
    assert 0 < measured.screening_ms < 10_000


def test_a_machine_that_decodes_differently_is_refused(toy_bundle_copy, tmp_path, monkeypatch):
    bundle = add_decoded_files(Bundle.open(toy_bundle_copy))
    build(bundle, BuildSettings(precision="fp32"), tmp_path)
    monkeypatch.setattr(simplejpeg, "decode_jpeg", one_grey_level_more)
    message = (
        r"this machine does not decode files as training did: decoded/jpeg-baseline.jpg gives other pixels here: "
        r"uint8 64x80 with SHA-256 .{12}\.\.\. by the manifest, .* here; decoded by simplejpeg [0-9.]+\. .*"
        r"pip install --force-reinstall simplejpeg"
    )
    with pytest.raises(ContractError, match=message):
        build(bundle, BuildSettings(precision="fp32"), tmp_path)


def one_grey_level_more(*arguments, **options):
    samples = _DECODE_JPEG(*arguments, **options)
    return np.where(samples < 255, samples + 1, samples)


def test_build_json_holds_the_report(ranged, tmp_path):
    report = build(ranged, BuildSettings(precision="fp32"), tmp_path)
    stored = json.loads((tmp_path / "onnxruntime" / "build.json").read_text())
    assert stored["schema"] == "cxr-edge-build/3"
    assert stored["bundle_sha256"] == ranged.digest
    assert stored["report"] == json.loads(json.dumps(report.as_json()))
    assert stored["report"]["images"] == "3 synthetic known-answer images of the bundle"


def test_the_engines_compute_the_reference_outputs(ranged, tmp_path):
    build(ranged, BuildSettings(precision="fp32"), tmp_path, threads=2)
    image = decode(ranged.file(ranged.manifest.known_answers[0].file))
    loaded = engines.load(ranged, tmp_path, threads=2)
    expected = Screener(ranged, engines.reference(ranged)).screen(image)
    actual = Screener(ranged, loaded).screen(image)
    assert actual.probabilities == pytest.approx(expected.probabilities, abs=1e-4)
    assert actual.roi == expected.roi


@pytest.mark.parametrize(("precision", "tried"), [("fp32", {"fp32"}), ("int8", {"uint8", "uint8-fp32-stem", "int8"})])
def test_a_configured_precision_is_the_only_one_tried(ranged, tmp_path, precision, tried):
    settings = BuildSettings(precision=precision, max_loss=GENEROUS)
    assert {r.precision for r in build(ranged, settings, tmp_path).rows} == tried


def test_a_broken_candidate_is_rejected_and_an_old_engine_of_its_name_removed(ranged, tmp_path, monkeypatch, quick):
    quick(["uint8", "fp32"])
    build(ranged, BuildSettings(max_loss=GENEROUS), tmp_path)
    assert "onnxruntime/plain.uint8.onnx" in files(tmp_path)

    def bad_scale(model, ranges, scheme, **rest):
        return real(model, {name: (low * 0.01, high * 0.01) for name, (low, high) in ranges.items()}, scheme, **rest)

    real = candidates.quantize
    monkeypatch.setattr(candidates, "quantize", bad_scale)
    report = build(ranged, BuildSettings(max_loss=0.01), tmp_path)
    assert set(report.precisions.values()) == {"fp32"}
    rejected = [r for r in report.rows if r.precision == "uint8"]
    assert {r.status for r in rejected} == {"rejected"}
    assert all((r.reason and "is required" in r.reason) or "is allowed" in r.reason for r in rejected)
    assert not [f for f in files(tmp_path) if "int8" in f]
    assert "plain uint8" in "\n".join(report.lines())


def with_probabilities(name, spec, *, cam=True, labels=4):
    """Return a toy member whose logits become probabilities by a softmax in parts, which no node's name gives away."""
    model = member_model(name, spec, cam=cam, labels=labels)
    next(n for n in model.graph.node if n.output[0] == "logits").output[0] = "before"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1]), "last_axis"))
    nodes = [("Exp", ["before"], "e"), ("ReduceSum", ["e", "last_axis"], "sum"), ("Div", ["e", "sum"], "logits")]
    model.graph.node.extend(onnx.helper.make_node(op, inputs, [output]) for op, inputs, output in nodes)
    return model


def test_a_member_that_gives_probabilities_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(toy_bundle_module, "member_model", with_probabilities)
    monkeypatch.setattr(toy_bundle_module, "_told_apart", lambda *_, **__: None)
    bundle = build_toy_bundle(tmp_path / "toy")
    with pytest.raises(ContractError, match=r"plain: its output is declared as softmax-logits, .* without its softmax"):
        build(bundle, BuildSettings(precision="fp32"), tmp_path / "out")


def ruined_in_int8(name, spec, *, cam=True, labels=4):
    """Return a member whose int8 engine has constant outputs, and that decides all images alike."""
    model = headed(labels, hot=3000.0)
    for i in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[i].dim_value = spec.crop_px
    onnx.helper.set_model_props(model, {"cxr_edge.preprocess_digest": spec.digest()})
    return model


def test_a_member_with_constant_outputs_is_refused_although_all_decisions_agree(tmp_path, monkeypatch):
    monkeypatch.setattr(toy_bundle_module, "member_model", ruined_in_int8)
    monkeypatch.setattr(toy_bundle_module, "_told_apart", lambda *_, **__: None)
    bundle = build_toy_bundle(
        tmp_path / "toy", members=["plain"], segmenter=False, cam=False, activation_ranges=True, thresholds={}
    )
    report = build(bundle, BuildSettings(max_loss=1.0), tmp_path / "out")
    assert report.precisions == {"plain": "fp32"}
    ruined = next(r for r in report.rows if r.precision == "uint8")
    assert ruined.parity.agreement == 1.0
    assert "of its variation over the images" in ruined.reason


def test_the_report_has_the_kind_of_every_output(ranged, tmp_path):
    report = build(ranged, BuildSettings(precision="fp32"), tmp_path)
    assert [(o.part, o.kinds) for o in report.outputs] == [
        ("segmenter", ("mask",)),
        *((name, ("softmax-logits",)) for name in ("plain", "depthwise", "residual")),
    ]
    assert any("plain softmax-logits (declared by the bundle)" in line for line in report.lines())


def test_without_any_good_candidate_there_is_no_engine(ranged, tmp_path, monkeypatch):
    build(ranged, engines_dir=tmp_path)
    monkeypatch.setattr(
        comparison, "compare_member", lambda *_: ParityResult(images=1, agreement=0.0, reasons=("it is bad",))
    )
    report = build(ranged, engines_dir=tmp_path)
    assert not report.complete
    assert report.ensemble is None
    assert report.lines()[-1] == "NO ENGINE for depthwise, plain, residual."
    assert not [f for f in files(tmp_path) if "plain" in f]
    assert not (tmp_path / "onnxruntime" / MEASURED_FILE).exists()
    with pytest.raises(BackendError, match=r"ended without an engine for plain, depthwise, residual"):
        engines.load(ranged, tmp_path)


def test_the_ensemble_falls_back_where_it_costs_least(ranged, tmp_path, monkeypatch, quick):
    quick(["uint8", "fp32"])
    compared = []

    def compare(before, after, same, truth, limits):
        compared.append(after)
        return ParityResult(images=3, agreement=1.0, reasons=("too much together",) if len(compared) == 1 else ())

    monkeypatch.setattr(ensemble, "compare_ensemble", compare)
    report = build(ranged, BuildSettings(max_loss=GENEROUS), tmp_path)
    assert sorted(report.precisions.values()) == ["fp32", "uint8", "uint8", "uint8"]
    changed = next(p for p, precision in report.precisions.items() if precision == "fp32")
    row = next(r for r in report.rows if (r.part, r.precision) == (changed, "uint8"))
    assert (row.status, row.reason) == ("rejected", "the engines together did not pass with it")
    assert report.complete


def test_an_ensemble_that_never_passes_leaves_no_engine(ranged, tmp_path, monkeypatch):
    bad = ParityResult(images=3, agreement=0.0, reasons=("decision agreement 0.000",))
    monkeypatch.setattr(ensemble, "compare_ensemble", lambda *_: bad)
    report = build(ranged, engines_dir=tmp_path)
    assert not report.complete
    assert files(tmp_path) == ["onnxruntime/build.json"]
    assert "REJECTED: decision agreement 0.000" in "\n".join(report.lines())


def test_without_ranges_int8_is_skipped_and_the_report_has_the_remedy(toy_bundle, tmp_path):
    report = build(Bundle.open(toy_bundle), engines_dir=tmp_path)
    assert set(report.precisions.values()) == {"fp32"}
    assert {r.status for r in report.rows if r.precision != "fp32"} == {"skipped"}
    assert "give X-rays with --calibration DIR" in "\n".join(report.lines())


def test_calibration_images_are_measured_once(toy_bundle, tmp_path, xrays, monkeypatch):
    arguments = (Bundle.open(toy_bundle), BuildSettings(calibration=xrays, max_loss=GENEROUS), tmp_path / "out")
    calls = []
    real = build_bundle.measure_ranges
    monkeypatch.setattr(build_bundle, "measure_ranges", lambda *a, **k: calls.append(a[0].stem) or real(*a, **k))
    first = build(*arguments)
    assert sorted(calls) == ["depthwise", "plain", "residual", "segmenter"]
    assert "ranges/plain.json" in files(tmp_path / "out")
    second = build(*arguments)
    assert len(calls) == 4
    assert any("used again" in note for note in second.notes)
    assert not any("used again" in note for note in first.notes)
    (xrays / "normal" / "known-fine.png").unlink()
    build(*arguments)
    assert len(calls) == 8
    (tmp_path / "out" / "ranges" / "plain.json").write_text("{")
    build(*arguments)
    assert len(calls) == 9


def test_folders_named_like_labels_give_the_true_labels(toy_bundle, tmp_path, xrays):
    settings = BuildSettings(calibration=xrays, precision="fp32")
    arguments = (Bundle.open(toy_bundle), settings, tmp_path / "out")
    report = build(*arguments)
    assert {r.parity.auc_against for r in report.rows if r.part != "segmenter"} == {"true labels"}
    assert report.images == f"3 in {xrays}"
    (xrays / "stray.txt").write_text("no X-ray")
    report = build(*arguments)
    assert any("not readable X-rays: 1" in note for note in report.notes)
    shutil.copy(xrays / "viral" / "known-coarse.png", xrays)
    report = build(*arguments)
    assert "true labels" not in {r.parity.auc_against for r in report.rows}


def test_the_image_limit_spreads_over_the_folder(toy_bundle, tmp_path, xrays):
    settings = BuildSettings(calibration=xrays, precision="fp32", images=2)
    assert build(Bundle.open(toy_bundle), settings, tmp_path).images == f"2 of 3 files in {xrays}"


def test_a_machine_that_does_not_reproduce_the_known_answers_is_refused(toy_bundle_copy, tmp_path):
    bundle = Bundle.open(toy_bundle_copy)
    first, *rest = bundle.manifest.known_answers
    p = np.roll(first.probabilities, 1)
    other = dataclasses.replace(first, probabilities=tuple(float(v) for v in p))
    bundle = write_bundle(bundle.root, dataclasses.replace(bundle.manifest, known_answers=(other, *rest)))
    with pytest.raises(ContractError, match=r"does not compute what training did: for known-smooth.png"):
        build(bundle, engines_dir=tmp_path)


def test_without_known_answers_images_are_required(tmp_path, xrays):
    bundle = build_toy_bundle(tmp_path / "toy", known_answers=False)
    with pytest.raises(InputError, match=r"no known answers .* --calibration DIR"):
        build(bundle)
    assert build(bundle, BuildSettings(calibration=xrays, precision="fp32")).complete


def test_a_bundle_without_a_segmenter(tmp_path):
    bundle = build_toy_bundle(tmp_path / "toy", segmenter=False)
    assert build(bundle, BuildSettings(precision="fp32")).complete
    assert engines.load(bundle).segmenter is None


def test_an_engines_folder_that_cannot_be_written(toy_bundle, tmp_path):
    (tmp_path / "engines").write_text("a file is in the way, as a read-only disk would be")
    with pytest.raises(BackendError, match=r"cannot be written into .*engines.* give a folder .* --engines DIR"):
        build(Bundle.open(toy_bundle), engines_dir=tmp_path / "engines")


@pytest.mark.parametrize("content", [None, b"no X-ray"])
def test_a_calibration_folder_without_x_rays(toy_bundle, tmp_path, content):
    folder = tmp_path / "xrays"
    folder.mkdir()
    if content:
        (folder / "a.png").write_bytes(content)
    with pytest.raises(InputError, match="is empty" if content is None else "none of the 1 files"):
        build(Bundle.open(toy_bundle), BuildSettings(calibration=folder), tmp_path / "out")


def test_an_interrupted_build_leaves_no_file(toy_bundle, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(build_bundle, "run_trial", stop)
    with pytest.raises(KeyboardInterrupt):
        build(Bundle.open(toy_bundle), engines_dir=tmp_path)
    assert files(tmp_path) == []


def test_a_runtime_with_half_precision_tries_it(ranged, tmp_path, half_on_cpu, quick):
    quick(["fp16", "bf16"])
    # Generous: the toy's mean shift in bf16 is 0.0206 with ONNX Runtime 1.18 (0.0066 with 1.32), the gate's limit 0.020.
    settings = BuildSettings(max_loss=GENEROUS)
    report = build(ranged, settings, tmp_path, backend="half-on-cpu")
    assert set(report.precisions.values()) == {"fp16"}
    assert "half-on-cpu/plain.fp16.onnx" in files(tmp_path)
    rows = {(r.part, r.precision): r for r in report.rows}
    assert rows["plain", "bf16"].status == "passed"
    assert 0 < rows["plain", "fp16"].parity.max_shift < rows["plain", "bf16"].parity.max_shift < 0.05
    image = decode(ranged.file(ranged.manifest.known_answers[0].file))
    expected = Screener(ranged, engines.reference(ranged)).screen(image)
    actual = Screener(ranged, engines.load(ranged, tmp_path, backend="half-on-cpu")).screen(image)
    assert actual.probabilities == pytest.approx(expected.probabilities, abs=0.02)


def test_an_unsupported_precision_is_an_error(ranged, tmp_path):
    with pytest.raises(BackendError, match=r"onnxruntime has no fp16 here, only fp32, int8: give --precision"):
        build(ranged, BuildSettings(precision="fp16"), tmp_path)
    assert files(tmp_path) == []


def failing_member(how):
    """Return a replacement for a toy member, whose third layer of six fails in int8 or in fp16."""

    def member_model(name, spec, *, cam=True, labels=4):
        model = deep(6, bad=2, how=how)
        model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = spec.crop_px
        model.graph.input[0].type.tensor_type.shape.dim[3].dim_value = spec.crop_px
        onnx.helper.set_model_props(model, {"cxr_edge.preprocess_digest": spec.digest()})
        return model

    return member_model


@pytest.fixture
def failing(tmp_path, monkeypatch):
    """Build a bundle of one such member."""

    def make(how):
        monkeypatch.setattr(toy_bundle_module, "member_model", failing_member(how))
        return build_toy_bundle(
            tmp_path / how, members=["plain"], segmenter=False, cam=False, activation_ranges=True, thresholds={}
        )

    return make


def test_the_failing_layer_is_found_and_stays_in_fp32(failing, tmp_path, half_on_cpu, quick):
    quick(["fp16-mixed"])
    bundle, progress = failing("fp16"), []
    settings = BuildSettings(max_loss=0.1)
    report = build(bundle, settings, tmp_path / "out", backend="half-on-cpu", say=progress.append)
    rows = {r.precision: r for r in report.rows}
    assert rows["fp16"].status == "rejected"
    assert rows["fp16"].sensitive_layers[0].layers == ("layer_2",)
    assert rows["fp16-mixed"].status == "selected"
    assert [s.layers for s in rows["fp16-mixed"].fp32_layers] == [("layer_2",)]
    assert report.precisions == {"plain": "fp16-mixed"}
    assert "plain: fp16-mixed with 1 of 7 layers in fp32" in progress
    text = "\n".join(report.lines())
    assert "plain fp16: most sensitive layers layer_2 (not finite), " in text
    assert "plain fp16-mixed: layers in fp32 layer_2 (not finite)" in text
    folder = tmp_path / "out" / "half-on-cpu"
    assert json.loads((folder / "plain.fp16-mixed.json").read_text())["gate"]["fp32_layers"] == ["layer_2"]
    stored = json.loads((folder / "build.json").read_text())["report"]["rows"]
    assert [r["fp32_layers"] for r in stored if r["precision"] == "fp16-mixed"] == [
        [{"layers": ["layer_2"], "relative_change": None}]
    ]
    loaded = engines.load(bundle, tmp_path / "out", backend="half-on-cpu")
    assert loaded.precisions == ("fp16-mixed",)


def test_a_mixed_engine_of_an_earlier_build_is_removed(failing, tmp_path, half_on_cpu, quick):
    quick(["fp16-mixed"])
    bundle, out = failing("fp16"), tmp_path / "out"
    report = build(bundle, BuildSettings(precision="fp16", max_loss=0.1), out, backend="half-on-cpu")
    assert set(report.precisions.values()) == {"fp16-mixed"}
    build(bundle, BuildSettings(precision="fp32"), out, backend="half-on-cpu")
    assert [f for f in files(tmp_path / "out") if "mixed" in f] == []
    assert "half-on-cpu/plain.fp32.onnx" in files(tmp_path / "out")


def test_a_rejected_mixed_candidate_names_the_sensitive_layers(ranged, tmp_path, quick):
    quick(["fp32"])
    report = build(ranged, BuildSettings(max_loss=1e-6), tmp_path)
    assert set(report.precisions.values()) == {"fp32"}
    rows = {(r.part, r.precision): r for r in report.rows}
    assert rows["depthwise", "uint8"].status == "rejected"
    assert len(rows["depthwise", "uint8"].sensitive_layers) == 3
    assert rows["depthwise", "uint8-mixed"].reason.startswith("even with 2 of 5 layers in fp32: ")
    assert "depthwise uint8-mixed: layers in fp32" not in "\n".join(report.lines())
    assert [f for f in files(tmp_path) if "mixed" in f] == []


def test_a_ranking_that_would_take_too_long_is_skipped(ranged, tmp_path, monkeypatch, quick):
    quick(["fp32"])
    monkeypatch.setattr(trial, "rank_layers", functools.partial(rank_layers, budget_s=0.0))
    report = build(ranged, BuildSettings(max_loss=1e-6), tmp_path)
    mixed = next(r for r in report.rows if r.precision == "uint8-mixed")
    assert mixed.status == "skipped"
    assert "finding the sensitive layers would take more than" in mixed.reason


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"precision": "fp8"}, "auto, fp32, fp16, bf16, int8"),
        ({"max_loss": 0.0}, "share above 0"),
        ({"images": 0}, "1 or more"),
    ],
)
def test_settings_validate_themselves(wrong, message):
    with pytest.raises(InputError, match=message):
        BuildSettings(**wrong)


def blends(folder, count):
    """Write drawings between two of the toy images, for which the toy's probabilities are neither 0 nor 1."""
    folder.mkdir()
    first, second = (
        cv2.resize(toy_images()[f"known-{k}.png"].astype(np.uint8), (220, 200)) for k in ("smooth", "fine")
    )
    paths = [folder / f"{i:02}.png" for i in range(count)]
    for i, path in enumerate(paths):
        cv2.imwrite(str(path), cv2.addWeighted(first, i / count, second, 1 - i / count, 0))
    return paths


def test_limits_move_with_engines_that_shift_a_label_by_a_known_amount(tmp_path, monkeypatch):
    """The compiled network has 0.6 less in one logit; the ensemble's temperature of 1.5 leaves 0.4 of it in log odds."""
    bundle = build_toy_bundle(tmp_path / "toy", members=("plain",), segmenter=False, known_answers=False)
    reference = Screener(bundle, engines.reference(bundle))
    xrays = blends(tmp_path / "xrays", 60)
    limit = round(float(np.median([reference.screen(decode(path)).probabilities[2] for path in xrays])), 4)
    rule = dataclasses.replace(bundle.manifest.decision, thresholds={"viral": limit}, first=("viral",))
    bundle = write_bundle(bundle.root, dataclasses.replace(bundle.manifest, decision=rule))

    def lowered(recipe, model, ranges):
        changed = onnx.ModelProto()
        changed.CopyFrom(model)
        bias = next(t for t in changed.graph.initializer if tuple(t.dims) == (4,))
        values = onnx.numpy_helper.to_array(bias) - np.array([0, 0, 0.6, 0], np.float32)
        bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
        return changed

    monkeypatch.setattr(candidates, "_rewrite", lowered)
    monkeypatch.setattr(comparison, "_with_change", lambda result, *_: result)  # else the member is rejected by itself
    settings = BuildSettings(precision="fp32", max_loss=0.9, calibration=tmp_path / "xrays")
    report = build(bundle, settings, tmp_path / "engines")
    moved = Screener(bundle, engines.load(bundle, tmp_path / "engines"))
    found = moved.operating_point.decision.thresholds["viral"]
    assert np.log(found / (1 - found)) - np.log(limit / (1 - limit)) == pytest.approx(-0.4, abs=0.02)
    expected = Screener(bundle, engines.reference(bundle))
    same = [moved.screen(image).decision == expected.screen(image).decision for image in map(decode, xrays)]
    threshold = report.operating_point.limits[0]
    assert sum(same) == report.operating_point.same_decision.hits >= 58
    assert threshold.changed > 5
    assert "of 2 limits moved for these engines" in "\n".join(report.lines())
    stored = json.loads((tmp_path / "engines" / "onnxruntime" / "build.json").read_text())
    assert stored["operating_point"]["decision"]["thresholds"] == {"viral": found}
