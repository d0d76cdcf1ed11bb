"""Whole builds of toy bundles: what is written, what is refused and leaves no trace, what is reused."""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil

import numpy as np
import onnx
import pytest

from cxr_edge import backends, engines
from cxr_edge.backends.self_test import SELF_TEST_STEM
from cxr_edge.bundle import Bundle, write_bundle
from cxr_edge.compiler import build_bundle, candidates, trial
from cxr_edge.compiler.build_bundle import BuildRequest, build
from cxr_edge.compiler.candidates import RECIPES, Candidate
from cxr_edge.compiler.parity import ParityResult
from cxr_edge.compiler.report import Row
from cxr_edge.compiler.sensitivity import rank_layers
from cxr_edge.compiler.timing import Timing
from cxr_edge.compiler.trial import TrialResult
from cxr_edge.decoding.decode import decode
from cxr_edge.errors import BackendError, ContractError, InputError
from cxr_edge.screening.screener import Screener
from tests.backends.test_backends import engine
from tests.builders import toy_bundle as toy_bundle_module
from tests.builders.toy_bundle import build_toy_bundle
from tests.compiler.networks import HalfOnCpu, deep

# Toy networks have next to no redundancy, so int8 costs them more than real ones.
GENEROUS = 0.5


@pytest.fixture(scope="module")
def ranged(tmp_path_factory):
    """A toy bundle that carries activation ranges. Shared: builds go to other folders."""
    return build_toy_bundle(tmp_path_factory.mktemp("ranged") / "toy", activation_ranges=True)


@pytest.fixture
def quick(monkeypatch):
    """One round of timing; and the engine that is called first wins, in the order given."""

    def pretend(order):
        def timings(loaded, inputs):
            return {
                name: Timing(p50_ms=1.0 + (order.index(name) if name in order else 50), p99_ms=99.0, runs=1)
                for name in loaded
            }

        monkeypatch.setattr(trial, "time_engines", timings)

    return pretend


@pytest.fixture
def xrays(toy_bundle, tmp_path):
    """A calibration folder: the toy images, two of them in folders called like labels."""
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
    """Content of the files that a build wrote, without the self-test engine (`backends.self_test`)."""
    found = (p for p in folder.rglob("*") if p.is_file() and p.stem != SELF_TEST_STEM)
    return sorted(p.relative_to(folder).as_posix() for p in found)


def test_the_fastest_of_each_part_is_kept(ranged, tmp_path, quick):
    quick(["uint8", "int8", "fp32"])
    report = build(BuildRequest(bundle=ranged, engines_dir=tmp_path, max_loss=GENEROUS))
    assert report.complete
    assert report.precisions == dict.fromkeys(("segmenter", "plain", "depthwise", "residual"), "uint8")
    assert files(tmp_path) == sorted(
        ["onnxruntime/build.json"] + [f"onnxruntime/{p}.uint8.{e}" for p in report.precisions for e in ("onnx", "json")]
    )
    statuses = {(r.part, r.precision): r.status for r in report.rows}
    assert statuses["plain", "fp32"] == "passed"
    assert {p for _, p in statuses} == {"fp32", "uint8", "uint8-fp32-stem", "int8"}
    assert report.whole is not None
    assert report.whole.images == 3


def test_build_json_holds_the_report(ranged, tmp_path):
    report = build(BuildRequest(bundle=ranged, engines_dir=tmp_path, precision="fp32"))
    stored = json.loads((tmp_path / "onnxruntime" / "build.json").read_text())
    assert stored["schema"] == "cxr-edge-build/1"
    assert stored["bundle_sha256"] == ranged.digest
    assert stored["report"] == json.loads(json.dumps(report.as_json()))
    assert stored["report"]["images"] == "3 synthetic known-answer images of the bundle"


def test_the_engines_answer_like_the_reference(ranged, tmp_path):
    build(BuildRequest(bundle=ranged, engines_dir=tmp_path, precision="fp32", threads=2))
    image = decode(ranged.file(ranged.manifest.known_answers[0].file))
    loaded = engines.load(ranged, tmp_path, threads=2)
    wanted = Screener(ranged, engines.reference(ranged)).screen(image)
    got = Screener(ranged, loaded).screen(image)
    assert got.probabilities == pytest.approx(wanted.probabilities, abs=1e-4)
    assert got.roi == wanted.roi


@pytest.mark.parametrize(("precision", "tried"), [("fp32", {"fp32"}), ("int8", {"uint8", "uint8-fp32-stem", "int8"})])
def test_a_precision_that_was_asked_for_is_the_only_one_tried(ranged, tmp_path, precision, tried):
    request = BuildRequest(bundle=ranged, engines_dir=tmp_path, precision=precision, max_loss=GENEROUS)
    assert {r.precision for r in build(request).rows} == tried


def test_a_broken_candidate_is_refused_and_an_old_one_of_its_name_removed(ranged, tmp_path, monkeypatch, quick):
    quick(["uint8", "fp32"])
    request = BuildRequest(bundle=ranged, engines_dir=tmp_path, max_loss=GENEROUS)
    build(request)
    assert "onnxruntime/plain.uint8.onnx" in files(tmp_path)

    def bad_scale(model, ranges, scheme, **rest):
        return real(model, {name: (low * 0.01, high * 0.01) for name, (low, high) in ranges.items()}, scheme, **rest)

    real = candidates.quantize
    monkeypatch.setattr(candidates, "quantize", bad_scale)
    report = build(dataclasses.replace(request, max_loss=0.01))
    assert set(report.precisions.values()) == {"fp32"}
    refused = [r for r in report.rows if r.precision == "uint8"]
    assert {r.status for r in refused} == {"refused"}
    assert all((r.reason and "is asked for" in r.reason) or "is allowed" in r.reason for r in refused)
    assert not [f for f in files(tmp_path) if "int8" in f]
    assert "plain uint8" in "\n".join(report.lines())


def test_without_any_good_candidate_there_is_no_engine(ranged, tmp_path, monkeypatch):
    build(BuildRequest(bundle=ranged, engines_dir=tmp_path))
    monkeypatch.setattr(engine, "judge_member", lambda *_: ParityResult(images=1, agreement=0.0, reasons=("it is bad",)))
    report = build(BuildRequest(bundle=ranged, engines_dir=tmp_path))
    assert not report.complete
    assert report.whole is None
    assert report.lines()[-1] == "NO ENGINE for depthwise, plain, residual."
    assert not [f for f in files(tmp_path) if "plain" in f]
    with pytest.raises(BackendError, match=r"ended without an engine for plain, depthwise, residual"):
        engines.load(ranged, tmp_path)


def test_the_set_steps_back_where_it_gains_least(ranged, tmp_path, monkeypatch, quick):
    quick(["uint8", "fp32"])
    seen = []

    def judge(before, after, truth, limits):
        seen.append(after)
        return ParityResult(images=3, agreement=1.0, reasons=("too much together",) if len(seen) == 1 else ())

    monkeypatch.setattr(engine, "judge_set", judge)
    report = build(BuildRequest(bundle=ranged, engines_dir=tmp_path, max_loss=GENEROUS))
    assert sorted(report.precisions.values()) == ["fp32", "uint8", "uint8", "uint8"]
    stepped = next(p for p, precision in report.precisions.items() if precision == "fp32")
    row = next(r for r in report.rows if (r.part, r.precision) == (stepped, "uint8"))
    assert (row.status, row.reason) == ("refused", "the engines together did not pass with it")
    assert report.complete


def test_a_set_that_never_passes_leaves_no_engine(ranged, tmp_path, monkeypatch):
    bad = ParityResult(images=3, agreement=0.0, reasons=("decision agreement 0.000",))
    monkeypatch.setattr(engine, "judge_set", lambda *_: bad)
    report = build(BuildRequest(bundle=ranged, engines_dir=tmp_path))
    assert not report.complete
    assert files(tmp_path) == ["onnxruntime/build.json"]
    assert "REFUSED: decision agreement 0.000" in "\n".join(report.lines())


def test_without_ranges_int8_is_skipped_and_the_report_says_what_to_do(toy_bundle, tmp_path):
    report = build(BuildRequest(bundle=Bundle.open(toy_bundle), engines_dir=tmp_path))
    assert set(report.precisions.values()) == {"fp32"}
    assert {r.status for r in report.rows if r.precision != "fp32"} == {"skipped"}
    assert "give X-rays with --calibration DIR" in "\n".join(report.lines())


def test_calibration_images_are_measured_once(toy_bundle, tmp_path, xrays, monkeypatch):
    request = BuildRequest(
        bundle=Bundle.open(toy_bundle), engines_dir=tmp_path / "out", calibration=xrays, max_loss=GENEROUS
    )
    calls = []
    real = build_bundle.measure_ranges
    monkeypatch.setattr(engine, "measure_ranges", lambda *a, **k: calls.append(a[0].stem) or real(*a, **k))
    first = build(request)
    assert sorted(calls) == ["depthwise", "plain", "residual", "segmenter"]
    assert "ranges/plain.json" in files(tmp_path / "out")
    again = build(request)
    assert len(calls) == 4
    assert any("used again" in note for note in again.notes)
    assert not any("used again" in note for note in first.notes)
    (xrays / "normal" / "known-fine.png").unlink()
    build(request)
    assert len(calls) == 8
    (tmp_path / "out" / "ranges" / "plain.json").write_text("{")
    build(request)
    assert len(calls) == 9


def test_folders_called_like_labels_give_the_truth(toy_bundle, tmp_path, xrays):
    request = BuildRequest(bundle=Bundle.open(toy_bundle), engines_dir=tmp_path / "out", calibration=xrays)
    report = build(dataclasses.replace(request, precision="fp32"))
    assert {r.verdict.auc_against for r in report.rows if r.part != "segmenter"} == {"true labels"}
    assert report.images == f"3 in {xrays}"
    (xrays / "stray.txt").write_text("no X-ray")
    report = build(dataclasses.replace(request, precision="fp32"))
    assert any("no readable X-rays: 1" in note for note in report.notes)
    shutil.copy(xrays / "viral" / "known-coarse.png", xrays)
    report = build(dataclasses.replace(request, precision="fp32"))
    assert "true labels" not in {r.verdict.auc_against for r in report.rows}


def test_the_image_limit_spreads_over_the_folder(toy_bundle, tmp_path, xrays):
    request = BuildRequest(
        bundle=Bundle.open(toy_bundle), engines_dir=tmp_path, calibration=xrays, precision="fp32", image_limit=2
    )
    assert build(request).images == f"2 of 3 files in {xrays}"


def test_a_machine_that_computes_otherwise_is_refused(toy_bundle_copy, tmp_path):
    bundle = Bundle.open(toy_bundle_copy)
    first, *rest = bundle.manifest.known_answers
    p = np.roll(first.probabilities, 1)
    other = dataclasses.replace(first, probabilities=tuple(float(v) for v in p))
    bundle = write_bundle(bundle.root, dataclasses.replace(bundle.manifest, known_answers=(other, *rest)))
    with pytest.raises(ContractError, match=r"does not compute what training did: for known-smooth.png"):
        build(BuildRequest(bundle=bundle, engines_dir=tmp_path))


def test_without_known_answers_images_must_be_given(tmp_path, xrays):
    bundle = build_toy_bundle(tmp_path / "toy", known_answers=False)
    with pytest.raises(InputError, match=r"no known answers .* --calibration DIR"):
        build(BuildRequest(bundle=bundle))
    assert build(BuildRequest(bundle=bundle, calibration=xrays, precision="fp32")).complete


def test_a_bundle_without_a_segmenter(tmp_path):
    bundle = build_toy_bundle(tmp_path / "toy", segmenter=False)
    assert build(BuildRequest(bundle=bundle, precision="fp32")).complete
    assert engines.load(bundle).segmenter is None


def test_an_engines_folder_that_cannot_be_written(toy_bundle, tmp_path):
    (tmp_path / "engines").write_text("a file is in the way, as a read-only disk would be")
    with pytest.raises(BackendError, match=r"cannot be written into .*engines.* give a folder .* --engines DIR"):
        build(BuildRequest(bundle=Bundle.open(toy_bundle), engines_dir=tmp_path / "engines"))


@pytest.mark.parametrize("content", [None, b"no X-ray"])
def test_a_calibration_folder_without_x_rays(toy_bundle, tmp_path, content):
    folder = tmp_path / "xrays"
    folder.mkdir()
    if content:
        (folder / "a.png").write_bytes(content)
    request = BuildRequest(bundle=Bundle.open(toy_bundle), engines_dir=tmp_path / "out", calibration=folder)
    with pytest.raises(InputError, match="is empty" if content is None else "none of the 1 files"):
        build(request)


def test_nothing_is_left_of_a_build_that_fails(toy_bundle, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "run_trial", stop)
    with pytest.raises(KeyboardInterrupt):
        build(BuildRequest(bundle=Bundle.open(toy_bundle), engines_dir=tmp_path))
    assert files(tmp_path) == []


def test_a_runtime_with_half_precision_tries_it(ranged, tmp_path, half_on_cpu, quick):
    quick(["fp16", "bf16"])
    report = build(BuildRequest(bundle=ranged, engines_dir=tmp_path, backend="half-on-cpu"))
    assert set(report.precisions.values()) == {"fp16"}
    assert "half-on-cpu/plain.fp16.onnx" in files(tmp_path)
    rows = {(r.part, r.precision): r for r in report.rows}
    assert rows["plain", "bf16"].status == "passed"
    assert 0 < rows["plain", "fp16"].verdict.max_shift < rows["plain", "bf16"].verdict.max_shift < 0.05
    image = decode(ranged.file(ranged.manifest.known_answers[0].file))
    wanted = Screener(ranged, engines.reference(ranged)).screen(image)
    got = Screener(ranged, engines.load(ranged, tmp_path, backend="half-on-cpu")).screen(image)
    assert got.probabilities == pytest.approx(wanted.probabilities, abs=0.02)


def test_a_precision_that_the_runtime_has_not_is_an_error(ranged, tmp_path):
    with pytest.raises(BackendError, match=r"onnxruntime has no fp16 here, only fp32, int8: give --precision"):
        build(BuildRequest(bundle=ranged, engines_dir=tmp_path, precision="fp16"))
    assert files(tmp_path) == []


def fatal_member(how):
    """In the place of a toy member: one whose third layer of six is fatal in int8 or in fp16."""

    def member_model(name, spec, *, cam=True, labels=4):
        model = deep(6, bad=2, how=how)
        model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = spec.crop_px
        model.graph.input[0].type.tensor_type.shape.dim[3].dim_value = spec.crop_px
        onnx.helper.set_model_props(model, {"cxr_edge.preprocess_digest": spec.digest()})
        return model

    return member_model


@pytest.fixture
def fatal(tmp_path, monkeypatch):
    """Makes a bundle of one such member."""

    def make(how):
        monkeypatch.setattr(toy_bundle_module, "member_model", fatal_member(how))
        return build_toy_bundle(
            tmp_path / how, members=["plain"], segmenter=False, cam=False, activation_ranges=True, thresholds={}
        )

    return make


def test_the_one_layer_that_is_fatal_is_found_and_kept_in_fp32(fatal, tmp_path, half_on_cpu, quick):
    quick(["fp16-mixed"])
    bundle, said = fatal("fp16"), []
    request = BuildRequest(bundle=bundle, engines_dir=tmp_path / "out", backend="half-on-cpu", max_loss=0.1)
    report = build(request, said.append)
    rows = {r.precision: r for r in report.rows}
    assert rows["fp16"].status == "refused"
    assert rows["fp16"].hurt[0].layers == ("layer_2",)
    assert rows["fp16-mixed"].status == "kept"
    assert [h.layers for h in rows["fp16-mixed"].kept_float] == [("layer_2",)]
    assert report.precisions == {"plain": "fp16-mixed"}
    assert "plain: fp16-mixed with 1 of 7 layers in fp32" in said
    text = "\n".join(report.lines())
    assert "plain fp16 is hurt most by layer_2 (not finite), " in text
    assert "plain fp16-mixed keeps in fp32 layer_2 (not finite)" in text
    folder = tmp_path / "out" / "half-on-cpu"
    assert json.loads((folder / "plain.fp16-mixed.json").read_text())["gate"]["kept_float"] == ["layer_2"]
    stored = json.loads((folder / "build.json").read_text())["report"]["rows"]
    assert [r["kept_float"] for r in stored if r["precision"] == "fp16-mixed"] == [
        [{"layers": ["layer_2"], "moved": None}]
    ]
    loaded = engines.load(bundle, tmp_path / "out", backend="half-on-cpu")
    assert loaded.precisions == ("fp16-mixed",)


def test_a_mixed_engine_of_an_earlier_build_is_removed(fatal, tmp_path, half_on_cpu, quick):
    quick(["fp16-mixed"])
    request = BuildRequest(
        bundle=fatal("fp16"), engines_dir=tmp_path / "out", backend="half-on-cpu", max_loss=0.1, precision="fp16"
    )
    assert set(build(request).precisions.values()) == {"fp16-mixed"}
    build(dataclasses.replace(request, precision="fp32"))
    assert [f for f in files(tmp_path / "out") if "mixed" in f] == []
    assert "half-on-cpu/plain.fp32.onnx" in files(tmp_path / "out")


def test_what_mixing_does_not_mend_is_refused_and_still_says_what_hurts(ranged, tmp_path, quick):
    quick(["fp32"])
    report = build(BuildRequest(bundle=ranged, engines_dir=tmp_path, max_loss=1e-6))
    assert set(report.precisions.values()) == {"fp32"}
    rows = {(r.part, r.precision): r for r in report.rows}
    assert rows["depthwise", "uint8"].status == "refused"
    assert len(rows["depthwise", "uint8"].hurt) == 3
    assert rows["depthwise", "uint8-mixed"].reason.startswith("even with 2 of 5 layers in fp32: ")
    assert "depthwise uint8-mixed keeps" not in "\n".join(report.lines())
    assert [f for f in files(tmp_path) if "mixed" in f] == []


def test_a_ranking_that_would_take_too_long_is_left_out(ranged, tmp_path, monkeypatch, quick):
    quick(["fp32"])
    monkeypatch.setattr(trial, "rank_layers", functools.partial(rank_layers, budget_s=0.0))
    report = build(BuildRequest(bundle=ranged, engines_dir=tmp_path, max_loss=1e-6))
    mixed = next(r for r in report.rows if r.precision == "uint8-mixed")
    assert mixed.status == "skipped"
    assert "to find the layers that hurt would take more than" in mixed.reason


def outcome_of(*precisions):
    """An outcome whose candidates passed, fastest first."""
    recipes = {r.name: r for r in RECIPES}
    passed = tuple(Candidate(recipe=recipes[p], file=None, engine=None) for p in precisions)
    rows = tuple(
        Row(part="net", precision=p, status="passed", timing=Timing(p50_ms=1.0 + i, p99_ms=2.0, runs=1))
        for i, p in enumerate(precisions)
    )
    return TrialResult(rows=rows, passed=passed)


@pytest.mark.parametrize(
    ("passed", "steps"),
    [
        (["uint8", "fp16", "fp32"], ["uint8", "fp32"]),  # fp32 is what is left to trust
        (["uint8", "fp16", "bf16"], ["uint8", "fp16", "bf16"]),  # without it, the next fastest
        (["fp32", "uint8"], ["fp32"]),
    ],
)
def test_a_part_steps_back_to_fp32_or_to_the_next(passed, steps):
    outcome = outcome_of(*passed)
    candidate, seen = outcome.passed[0], []
    while candidate is not None:
        seen.append(candidate)
        before, candidate = candidate, build_bundle._retreat(outcome, candidate)
        assert candidate is None or build_bundle._gain_ms(outcome, before, candidate) > 0
    assert [c.recipe.name for c in seen] == steps
    assert build_bundle._rejected(outcome, seen[-1]) == steps[:-1]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"precision": "fp8"}, "auto, fp32, fp16, bf16, int8"),
        ({"max_loss": 0.0}, "share above 0"),
        ({"image_limit": 0}, "1 or more"),
    ],
)
def test_a_request_checks_itself(toy_bundle, wrong, message):
    with pytest.raises(InputError, match=message):
        BuildRequest(bundle=Bundle.open(toy_bundle), **wrong)
