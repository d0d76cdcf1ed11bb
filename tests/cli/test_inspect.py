"""`cxr-edge inspect`: output for a valid bundle, and errors for an invalid one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cxr_edge.bundle import Bundle, write_bundle
from cxr_edge.bundle.manifest import Manifest
from cxr_edge.cli import main
from cxr_edge.engines.records import BuildRecord, BuildSettings
from cxr_edge.specs.budget import ErrorBudget, LabelLimits, OperatingPoint
from cxr_edge.specs.combination import Decision
from tests.builders.toy_bundle import MEMBER_SPECS, build_toy_bundle


def test_the_table_shows_the_facts_about_a_bundle(toy_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(toy_bundle)]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert err == ""
    assert lines[0] == "toy 1, created 2020-06-08T12:00:00+00:00"
    for line in (
        f"Folder         {toy_bundle.resolve()}",
        f"Digest         {Bundle.open(toy_bundle).digest}",
        "Intended use   Tests of cxr-edge. Its answers mean nothing.",
        "Labels         normal, bacterial, viral, covid-19",
        "Combination    weighted-average (0.307, 0.358, 0.335); temperature 1.5, of the members 1, 1.25, 1.5",
        "Decision       covid-19 from 0.2; uncertain below 0.5",
        "Known answers  known-smooth.png, known-coarse.png, known-fine.png",
        "Decoded files  none, decoding is not compared",
        "Model card     model-card.md",
        "    patients: 0",
        "  made_by: tests/builders/toy_bundle.py",
        f"  none yet: cxr-edge build-engine {toy_bundle.resolve()}",
        "All files are unaltered, and the networks match the manifest.",
    ):
        assert line in lines


def test_the_error_budget_is_shown(toy_bundle_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    limits = LabelLimits(set_from=0.1, answer_from=0.75, cases=50, answered=45, wrong=0)
    labels = {"normal": limits, "viral": replace(limits, answer_from=None, answered=0)}
    budget = ErrorBudget(max_wrong=0.05, confidence=0.9, coverage=0.95, fitted_on="100 patients", labels=labels)
    write_bundle(toy_bundle_copy, replace(Bundle.open(toy_bundle_copy).manifest, budget=budget))
    assert main(["inspect", str(toy_bundle_copy)]) == 0
    line = (
        "Error budget   at most 5.0% of the answers of a label wrong (confidence 90%), sets cover 95.0%; answered: "
        "normal from 0.75; "
        "never: viral; fitted on 100 patients"
    )
    assert line in capsys.readouterr().out.splitlines()


def test_each_network_has_a_row(toy_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["inspect", str(toy_bundle)])
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    assert list(rows["Network"].split()) == [
        "Network", "Architecture", "Parameters", "MACs", "Size", "Output", "CAM", "int8", "ranges", "Preprocessing",
        "Digest",
    ]  # fmt: skip
    assert "lung segmenter" in rows["segmenter"]
    assert " mask " in rows["segmenter"]
    assert " softmax-logits " in rows["plain"]
    assert "frame 64 px, 0..1, 1 channel, float32" in rows["segmenter"]
    assert rows["plain"].split()[:5] == ["plain", "toy", "plain", "1.32", "k"]
    assert "lungs 40 px crop 32, fixed mean/std, 3 channels, float32" in rows["depthwise"]
    assert "lungs 64 px, median, mean/std of the image, 1 channel, float32" in rows["residual"]
    for name, spec in MEMBER_SPECS.items():
        assert rows[name].endswith(spec.digest()[:12])


def test_a_minimal_bundle_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build_toy_bundle(tmp_path, strategy="voting", segmenter=False, cam=False, thresholds={}, known_answers=False)
    assert main(["inspect", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "Lung box       none, members get the full frame" in lines
    assert "Combination    voting; temperature 1.5, of the members 1, 1.25, 1.5" in lines
    assert "Decision       no thresholds; uncertain below 0.5" in lines
    assert "Known answers  none" in lines


def test_json_contains_the_manifest_and_the_network_facts(toy_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(toy_bundle), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    bundle = Bundle.open(toy_bundle)
    assert found["usable"] is True
    assert found["digest"] == bundle.digest
    assert Manifest.from_json(found["manifest"]) == bundle.manifest
    assert found["networks"][1] == {
        "name": "plain",
        "path": "plain.onnx",
        "size_bytes": (toy_bundle / "plain.onnx").stat().st_size,
        "opset": 17,
        "parameters": 1316,
        "macs": 216576,
        "output": "softmax-logits",
    }
    assert found["engines"] == {}
    assert found["unlisted_files"] == []


def test_engines_and_unlisted_files_are_listed(toy_bundle_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in (
        "engines/onnxruntime/plain.onnx",
        "engines/onnxruntime/plain.json",
        "engines/empty/.keep",
        "bad\x1b.txt",
    ):
        (toy_bundle_copy / name).parent.mkdir(parents=True, exist_ok=True)
        (toy_bundle_copy / name).write_text("x", encoding="utf-8")
    assert main(["inspect", str(toy_bundle_copy)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "  onnxruntime: plain.json, plain.onnx" in lines
    assert r"Not in the manifest, and not used: bad\x1b.txt" in lines


def test_an_invalid_bundle_gives_3_and_the_reason_on_stderr(
    toy_bundle_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (toy_bundle_copy / "plain.onnx").write_bytes(b"altered")
    assert main(["inspect", str(toy_bundle_copy)]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert "plain.onnx in" in err
    assert "was altered" in err


def test_an_invalid_bundle_is_reported_in_json(toy_bundle_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (toy_bundle_copy / "segmenter.onnx").unlink()
    assert main(["inspect", str(toy_bundle_copy), "--json"]) == 3
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["usable"] is False
    assert "segmenter.onnx (segmenter.file) is missing" in found["error"]
    assert found["error"] in err


def test_networks_are_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every file has the SHA-256 of the manifest, but one member has the network of another."""
    bundle = build_toy_bundle(tmp_path, known_answers=False)
    text = (tmp_path / "manifest.json").read_text(encoding="utf-8")
    plain, residual = (bundle.manifest.members[i].file for i in (0, 2))
    text = text.replace(plain.sha256, residual.sha256).replace('"plain.onnx"', '"residual.onnx"')
    (tmp_path / "manifest.json").write_text(text, encoding="utf-8")
    assert main(["inspect", str(tmp_path)]) == 3
    assert "residual.onnx (plain): input image must be float32 (N, 1, 48, 48)" in capsys.readouterr().err


def test_a_missing_bundle_argument_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["inspect"])
    assert caught.value.code == 2
    assert "BUNDLE" in capsys.readouterr().err


def test_limits_that_a_build_moved_are_shown(toy_bundle_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = Bundle.open(toy_bundle_copy)
    moved = OperatingPoint(decision=Decision(thresholds={"covid-19": 0.2345}, uncertain_below=0.5), budget=None)
    for folder, digest in (("onnxruntime", bundle.digest), ("outdated", "0" * 64)):
        record = BuildRecord(
            backend=folder,
            bundle_sha256=digest,
            precisions={},
            settings=BuildSettings(),
            operating_point=moved,
            report={},
        )
        (toy_bundle_copy / "engines" / folder).mkdir(parents=True)
        (toy_bundle_copy / "engines" / folder / "build.json").write_text(json.dumps(record.as_json()))
    main(["inspect", str(toy_bundle_copy)])
    lines = capsys.readouterr().out.splitlines()
    assert "    limits of these engines: threshold covid-19 0.2000 -> 0.2345" in lines
    assert sum("limits of these engines" in line for line in lines) == 1, "none of engines of another bundle"
    main(["inspect", str(toy_bundle_copy), "--json"])
    assert json.loads(capsys.readouterr().out)["operating_points"] == {"onnxruntime": moved.as_json()}
