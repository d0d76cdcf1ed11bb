"""Benchmark scripts run, their implementations compute the same, and their reports have the measured values.

Nothing here looks at a duration: a timed test fails on a busy machine.
"""

from __future__ import annotations

import dataclasses
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import __main__ as run_all
from benchmarks import cold_start, combine, end_to_end, evidence, preprocess, self_test, throughput
from benchmarks.harness import page
from benchmarks.harness.images import dicom_bytes, enlarge, jpeg_bytes, png_bytes, speckled_image
from benchmarks.harness.report import Target, markdown
from benchmarks.harness.side_by_side import (
    Implementation,
    Measured,
    Table,
    latency_table,
    max_difference,
    measure,
    unavailable_reason,
)
from benchmarks.peers import opencv_numpy, pipelines
from cxr_edge.bundle import Bundle, write_bundle
from cxr_edge.cli import main as cxr_edge
from cxr_edge.decoding.decode import decode_bytes
from cxr_edge.engines import parts, reference
from cxr_edge.ops.combine import Combiner
from cxr_edge.ops.lung_box import lung_box
from cxr_edge.ops.preprocess import Preprocessor
from cxr_edge.records import Roi
from cxr_edge.screening.screener import Screener
from cxr_edge.specs.combination import STRATEGIES, Activation
from cxr_edge.specs.lung_box import LungBoxRule
from cxr_edge.specs.preprocess import PRESETS, PreprocessSpec
from tests.benchmarks.scripts import Script, report_of
from tests.builders.toy_bundle import build_toy_bundle

ROI = Roi(x0=11, y0=7, x1=291, y1=263)

# A gray level of 8 bits (1/255), or of 16, over the deviation of the test image: the effect of another rounding.
ONE_LEVEL = {np.uint8: 0.03, np.uint16: 2e-4}
OTHER_FILTER = 0.1  # a triangle filter against an area average, in deviations, on a soft image


def test_every_round_runs_every_implementation_once_on_the_same_item() -> None:
    calls: list[tuple[str, int]] = []

    def implementation(name: str) -> Implementation:
        return Implementation(name=name, run=lambda i: calls.append((name, i)))

    measured = measure([implementation("a"), implementation("b"), implementation("c")], rounds=4, warmup=2, items=3)
    rounds = [calls[i : i + 3] for i in range(0, len(calls), 3)]
    assert [{item for _, item in r} for r in rounds] == [{1}, {2}, {0}, {1}, {2}, {0}]
    assert all({name for name, _ in r} == {"a", "b", "c"} for r in rounds)
    assert len({tuple(name for name, _ in r) for r in rounds}) > 1, "the order must not be the same in every round"
    assert [len(m.milliseconds) for m in measured] == [4, 4, 4]


def test_untimed_calls_around_a_run_are_in_order() -> None:
    calls: list[str] = []
    one = Implementation(name="a", run=lambda _: calls.append("run"), prepare=lambda: calls.append("prepare"))
    (measured,) = measure([one], rounds=1, warmup=1, between=lambda: calls.append("between"), lead_in=1)
    assert calls == ["between", *("prepare", "run") * 2] * 2
    assert len(measured.milliseconds) == 1


def test_implementations_with_the_same_name_are_rejected() -> None:
    twice = [Implementation(name="a", run=str), Implementation(name="a", run=str)]
    with pytest.raises(ValueError, match="names must differ"):
        measure(twice, rounds=1, warmup=0)


def test_an_unavailable_implementation_needs_a_reason() -> None:
    with pytest.raises(ValueError, match="no note with the reason"):
        Implementation(name="a", run=None)


def test_ratios_are_medians_over_the_rounds_and_unavailable_implementations_stay_in_the_table() -> None:
    base = _measured("base", [1.0, 10.0, 2.0])
    other = _measured("other", [3.0, 20.0, 10.0])  # ratios 3, 2, 5; the ratio of the medians would be 5
    absent = Measured(
        implementation=Implementation(name="x", run=None, note="not installed"), milliseconds=np.array([])
    )
    table = latency_table("t", [base, other, absent], baseline="base", unit="us", per_run=2, extra={"e": {"other": 7}})
    rows = {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    assert rows["base"]["ratio"] == 1
    assert rows["other"] == {
        "implementation": "other", "p50 us": 5000.0, "p90 us": 9000.0, "p99 us": pytest.approx(9900.0), "n": 3, "ratio": 3.0,
        "e": 7, "note": "",
    }  # fmt: skip
    assert rows["x"] == {
        "implementation": "x", "p50 us": None, "p90 us": None, "p99 us": None, "n": 0, "ratio": None, "e": None,
        "note": "not installed",
    }  # fmt: skip


def test_a_ragged_table_is_rejected() -> None:
    with pytest.raises(ValueError, match="2 columns, got a row of 1"):
        Table(title="t", columns=("a", "b"), rows=((1,),))


def test_a_missing_package_has_an_install_command() -> None:
    assert unavailable_reason("no_such_package_here") == "not installed: pip install no_such_package_here"
    assert unavailable_reason("numpy") is None


@pytest.mark.parametrize(
    ("measured", "at_least", "verdict"),
    [(5.0, True, "met"), (4.9, True, "missed"), (5.1, False, "missed"), (None, True, "not measured")],
)
def test_verdicts(measured: float | None, at_least: bool, verdict: str) -> None:
    assert Target(text="t", required=5, measured=measured, at_least=at_least).verdict == verdict


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("name", ["sane", "rajaraman-code", "rajaraman-paper", "flannel-paper"])
def test_opencv_preprocessing_matches_the_fused_one(name: str, dtype: type) -> None:
    pixels, spec = speckled_image(300, dtype, seed=3), PRESETS[name]
    roi = Roi.full(300, 300) if spec.region == "frame" else ROI
    (fused,) = Preprocessor([spec]).run([pixels], [ROI])
    first, second = opencv_numpy.opencv_tensors(pixels, [roi, roi], [spec, spec])
    assert second is first, "members that ask for the same tensor share it"
    assert max_difference(fused, first) < _level(dtype, spec)


@pytest.mark.skipif(find_spec("PIL") is None, reason="Pillow is not installed")
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_pillow_matches_torchvision_and_nearly_the_fused_preprocessing(dtype: type) -> None:
    pixels, spec = speckled_image(900, dtype, seed=4), PreprocessSpec()
    roi = Roi.full(900, 900)
    (fused,) = Preprocessor([spec]).run([pixels], [roi])
    pillow = opencv_numpy.pillow_tensor(pixels, roi, spec)
    assert max_difference(fused, pillow) < OTHER_FILTER
    if unavailable_reason("torchvision") is None:
        assert max_difference(pillow, opencv_numpy.torchvision_tensor(spec)(pixels, roi)) < ONE_LEVEL[dtype]


@pytest.mark.parametrize("members", combine.MEMBERS)
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_numpy_combination_matches_the_native_one(strategy: str, members: int, activation: Activation) -> None:
    combination = combine.combination(strategy, members=members, activation=activation)
    logits = np.random.default_rng(5).normal(0, 2, (50, members, combine.LABELS)).astype(np.float32)
    native, _ = Combiner(combination, labels=combine.LABELS).run(logits)
    for implementation in combine.implementations(combination, logits):
        assert implementation.run is not None
        result = implementation.run(0)
        batches = result if isinstance(result, list) else [result]
        probabilities = [b[0] if isinstance(b, tuple) else b for b in batches]
        assert max_difference(np.concatenate(probabilities), native) < 1e-6, implementation.name


def test_numpy_lung_box_matches_the_native_one() -> None:
    mask = np.zeros((64, 64), dtype=np.float32)
    mask[13:50, 9:57] = 0.9
    rule = LungBoxRule(min_pixels=2)
    expected, flag = lung_box(mask, width_px=1000, height_px=700, rule=rule)
    actual = opencv_numpy.lung_roi(mask, width_px=1000, height_px=700, rule=rule)
    assert flag is None
    assert np.abs(np.subtract(expected.as_tuple(), actual.as_tuple())).max() <= 1
    assert opencv_numpy.lung_roi(mask * 0, width_px=1000, height_px=700, rule=rule) == Roi.full(1000, 700)


@pytest.mark.parametrize(("encode", "stored_bits"), [(jpeg_bytes, 8), (png_bytes, 16), (dicom_bytes, 12)])
def test_encoded_images_decode_and_the_baseline_pipeline_matches_the_screener(
    toy_bundle: Path, encode, stored_bits
) -> None:
    bundle = Bundle.open(toy_bundle)
    known = decode_bytes(bundle.file(bundle.manifest.known_answers[0].file).read_bytes(), source="known")
    data = encode(enlarge(known.pixels, 400))
    image = decode_bytes(data, source="benchmark")
    assert (image.width_px, image.height_px, image.stored_bits) == (400, 400, stored_bits)
    networks = pipelines.onnxruntime_networks(
        [p.onnx for p in parts(bundle)], segmenter=True, threads=1, spinning=False
    )
    baseline = pipelines.screen(data, pipelines.EnsembleSpec.from_manifest(bundle.manifest), networks)
    expected = Screener(bundle, reference(bundle)).screen(image)
    assert "lung_box_failed" not in {flag.code for flag in expected.flags}
    assert max_difference(baseline, expected.probabilities) < 0.02


def test_preprocess_runs(tmp_path: Path) -> None:
    report = _run(preprocess, tmp_path, "--side-px", "96", "--images", "2", "--evict-mib", "1")
    assert len(report["tables"]) == 6
    names = [row[0] for row in report["tables"][0]["rows"]]
    assert {"cxr-edge, 1 thread", "cxr-edge, 2 threads", "OpenCV + NumPy, 2 threads", "torchvision on PIL"} <= set(
        names
    )
    assert report["targets"][0]["text"].startswith("times faster than OpenCV + NumPy, 96x96, 16 bit")


def test_reading_once_reads_all(tmp_path: Path) -> None:
    pixels = np.ones((8, 8), dtype=np.uint16)
    with preprocess.ThreadPoolExecutor(2) as pool:
        expected = int(pixels.view(np.uint64).sum())
        assert preprocess.read_once(pixels, 1, pool) == preprocess.read_once(pixels, 2, pool) == expected


def test_combine_runs(tmp_path: Path) -> None:
    report = _run(combine, tmp_path, "--images", "3")
    assert [t["title"] for t in report["tables"]] == ["3 members x 4 labels", "5 members x 4 labels"]
    assert [t["wanted"] for t in report["targets"]] == [5] * 10


def test_end_to_end_runs_and_lists_missing_implementations(built_bundle: Path, tmp_path: Path) -> None:
    small = ("--side-px", "200", "--settle-ms", "0", "--no-papers", "--threads", "1")
    report = _run(end_to_end, tmp_path, "--bundle", str(built_bundle), *small)
    assert len(report["tables"]) == 4
    rows = {row[0]: row for row in report["tables"][0]["rows"]}
    columns = report["tables"][0]["columns"]
    assert rows["cxr-edge, built engines"][columns.index("ratio")] == 1
    assert rows["OpenCV/NumPy + ONNX Runtime fp32, no spinning"][columns.index("max difference")] < 0.02
    eager = rows["OpenCV/NumPy + PyTorch eager"]
    assert eager[columns.index("n")] == 0
    assert "no depthwise" in eager[-1] or "not installed" in eager[-1]
    of_whole, after_decoding = (t["measured"] for t in report["targets"][2:])
    assert 0 < of_whole < after_decoding < 1


def test_end_to_end_runs_eager_pytorch_where_the_architectures_are_known(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    bundle = build_toy_bundle(tmp_path / "toy", members=("plain", "residual"))
    names = ("plain", "inverted")
    members = tuple(dataclasses.replace(m, name=n) for m, n in zip(bundle.manifest.members, names, strict=True))
    write_bundle(bundle.root, dataclasses.replace(bundle.manifest, members=members))
    assert cxr_edge(["build-engine", str(bundle.root), "--precision", "fp32", "--threads", "1"]) == 0
    small = ("--side-px", "200", "--settle-ms", "0", "--no-papers", "--threads", "1")
    report = _run(end_to_end, tmp_path, "--bundle", str(bundle.root), *small)
    rows = {row[0]: row for row in report["tables"][0]["rows"]}
    columns = report["tables"][0]["columns"]
    eager = dict(zip(columns, rows["OpenCV/NumPy + PyTorch eager"], strict=True))
    assert eager["n"] == 2
    assert eager["note"] == "random weights"
    assert eager["max difference"] is None


def test_end_to_end_without_engines_names_the_build_command(
    toy_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x.json"
    assert end_to_end.main(["--bundle", str(toy_bundle), "--out", str(out)]) == 3
    assert "cxr-edge build-engine" in capsys.readouterr().err
    assert not out.exists()


def test_end_to_end_names_an_invalid_image(
    built_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = ("--bundle", str(built_bundle), "--no-papers")
    assert end_to_end.main([*bundle, "--images", str(tmp_path / "none.png")]) == 3
    assert "none.png cannot be read (No such file or directory): give X-ray files" in capsys.readouterr().err
    (tmp_path / "text.png").write_text("not a picture")
    assert end_to_end.main([*bundle, "--images", str(tmp_path / "text.png")]) == 3
    assert "text.png" in capsys.readouterr().err


def test_the_papers_networks_have_the_papers_parameter_counts() -> None:
    torch = pytest.importorskip("torch")
    from benchmarks.peers import papers

    members = [papers.with_head(papers.trunk(name), maps) for name, maps in (("vgg16", 512), ("vgg19", 512))]
    counts = [sum(p.numel() for p in m.parameters()) for m in members]
    assert counts == [19_437_379, 24_747_075]  # R20, table 4
    with torch.inference_mode():
        assert members[0](torch.zeros(1, 3, 64, 64)).shape == (1, papers.LABELS)


def test_cold_start_runs_without_torch(built_bundle: Path, tmp_path: Path) -> None:
    once = ("--rounds", "1", "--warmup", "1")  # a start of torch takes seconds
    report = _run(cold_start, tmp_path, "--bundle", str(built_bundle), "--side-px", "200", "--threads", "1", *once)
    steps = {row[0]: row[1] for row in report["tables"][1]["rows"]}
    assert list(steps) == ["interpreter", "imports", "bundle", "engines", "screen", "all"]
    assert all(ms > 0 for ms in steps.values())
    assert report["targets"][1]["verdict"] == "met", "cxr-edge screen imported torch"
    assert report["notes"] == [
        "Of the heavy packages torch, onnx, pydicom, openvino, tensorrt the command on a JPEG imported: none."
    ]


def test_imported_packages_are_read_from_importtime() -> None:
    packages = cold_start.imported_packages(["-c", "import csv, json.decoder"])
    assert {"csv", "json"} <= set(packages)
    assert "numpy" not in packages


def test_throughput_runs(built_bundle: Path, tmp_path: Path) -> None:
    small = ("--files", "3", "--side-px", "200", "--images", "4", "--threads", "2")
    report = _run(throughput, tmp_path, "--bundle", str(built_bundle), *small)
    speed, memory = report["tables"]
    assert [row[0] for row in speed["rows"]] == [
        "1 worker, 1 thread",
        "2 workers, 1 thread each",
        "1 worker, 2 threads",
    ]
    assert [row[0] for row in memory["rows"]] == [4]
    assert memory["rows"][0][1] > 10, "a process with NumPy in it holds more than 10 MiB"


def test_the_cost_of_a_log_is_measured(built_bundle: Path, tmp_path: Path) -> None:
    report = _run(evidence, tmp_path, "--bundle", str(built_bundle), "--files", "2", "--side-px", "200")
    screened, lines, verified = report["tables"]
    assert [row[0] for row in screened["rows"]] == ["without a log", "with a log", "with a log, one wait in 10"]
    assert [row[0] for row in lines["rows"]] == ["with a log", "with a log, one wait in 10"]
    assert verified["title"].startswith("verification of a log of ")
    assert report["settings"]["bytes of a line"] > 500


def test_the_duration_of_the_self_test_is_measured(built_bundle: Path, tmp_path: Path) -> None:
    once = ("--rounds", "1", "--warmup", "1", "--threads", "1")
    report = _run(self_test, tmp_path, "--bundle", str(built_bundle), *once)
    (table,) = report["tables"]
    assert [row[0] for row in table["rows"]] == ["self-test, engines loaded", "cxr-edge self-test", "cxr-edge doctor"]
    assert report["targets"][0]["measured"] > 0
    assert "ms of known answers, median" in report["settings"]


def test_a_page_may_have_another_title(tmp_path: Path) -> None:
    assert page.page([], "Evidence").startswith("# Evidence\n")


def test_the_page_of_results_is_generated_from_the_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results, file = tmp_path / "results", tmp_path / "docs" / "page.md"
    assert page.main([str(results), str(file)]) == 2
    assert "run the scripts of benchmarks/ first" in capsys.readouterr().err
    report = _run(combine, results, "--images", "2")
    assert page.main([str(results), str(file)]) == 0
    text = file.read_text(encoding="utf-8")
    assert text.startswith("# Benchmarks\n")
    assert report["environment"]["processor"] in text
    assert "| voting           | cxr-edge, batch 1 " in text


def test_all_scripts_run_by_one_command(tmp_path: Path) -> None:
    only, file = ("--only", "combine", "--rounds", "1"), tmp_path / "page.md"
    assert run_all.main([*only, "--results", str(tmp_path / "r"), "--page", str(file)]) == 0
    assert "## combine" in file.read_text(encoding="utf-8")


def test_a_failing_script_is_named_and_leaves_no_page(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "page.md"
    only = ("--only", "cold_start", "--bundle", str(tmp_path / "none"))
    assert run_all.main([*only, "--results", str(tmp_path / "r"), "--page", str(file)]) == 1
    assert "failed: cold_start" in capfd.readouterr().err
    assert not file.exists()


def test_markdown_escapes_and_shows_absent_values() -> None:
    report = {
        "name": "n", "question": "q?", "interval": "i", "settings": {"threads": 2}, "notes": [], "targets": [],
        "environment": {
            "processor": "p", "cores": 2, "platform": "l", "python": "3", "load_average": None, "versions": {},
        },
        "tables": [{"title": "t", "columns": ["a", "b"], "rows": [["x|y", None], ["z", 0.00012]]}],
    }  # fmt: skip
    assert "| a    |       b |\n| ---- | ------: |\n| x\\|y |       - |\n| z    | 1.2e-04 |" in markdown(report)


def _run(script: Script, folder: Path, *options: str) -> dict[str, Any]:
    return report_of(script, folder, "--rounds", "2", "--warmup", "1", *options)


def _measured(name: str, milliseconds: list[float]) -> Measured:
    return Measured(implementation=Implementation(name=name, run=str), milliseconds=np.array(milliseconds))


def _level(dtype: type, spec: PreprocessSpec) -> float:
    return ONE_LEVEL[dtype] if spec.standardize != "none" else ONE_LEVEL[dtype] / 5
