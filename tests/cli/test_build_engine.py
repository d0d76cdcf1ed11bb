"""`cxr-edge build-engine` through its command line: arguments, table, JSON, exit status."""

from __future__ import annotations

import argparse
import json
import shutil

import onnx
import pytest

from cxr_edge import backends
from cxr_edge.cli import build_engine
from cxr_edge.compiler import comparison
from cxr_edge.compiler.parity import ParityResult
from cxr_edge.engines import PRECISION_CHOICES, BuildSettings
from cxr_edge.errors import BackendError, BundleError, ContractError, InputError
from tests.builders.toy_bundle import MEMBER_SPECS, SEGMENTER_SPEC, member_model, segmenter_model
from tests.compiler.networks import SPEC, HalfOnCpu, deep, textures


def parse(*words):
    parser = argparse.ArgumentParser()
    build_engine.add_parser(parser.add_subparsers())
    return parser.parse_args(["build-engine", *map(str, words)])


def call(*words):
    args = parse(*words)
    return args.run(args)


@pytest.fixture
def single(tmp_path):
    """A folder with a single network and its spec."""
    onnx.save(member_model("plain", MEMBER_SPECS["plain"]), tmp_path / "net.onnx")
    (tmp_path / "spec.json").write_text(json.dumps(MEMBER_SPECS["plain"].as_json()))
    return tmp_path


def test_the_table(toy_bundle, tmp_path, capsys):
    assert call(toy_bundle, "--engines", tmp_path, "--precision", "fp32", "--threads", 1) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].split() == ["Engine", "Status", "Size", "agreement", "dAUC", "p50", "p99", "speed-up"]
    assert [line.split()[:3] for line in lines[1:5]] == [
        [part, "fp32", "selected"] for part in ("segmenter", "plain", "depthwise", "residual")
    ]
    assert "Gate: 3 synthetic known-answer images of the bundle, compared with the fp32 networks" in out
    assert "decision agreement 1.000 [0.292, 1.000] on 3 images" in out
    assert f"Engines: {tmp_path / 'onnxruntime'}" in out
    assert "comparing this machine with the bundle's known answers" in err
    assert "plain: fp32" in err


def test_json_is_all_of_stdout(toy_bundle, tmp_path, capsys):
    assert call(toy_bundle, "--engines", tmp_path, "--precision", "fp32", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["complete"] is True
    assert set(report["precisions"]) == {"segmenter", "plain", "depthwise", "residual"}
    assert {"part", "precision", "status", "size_bytes", "parity", "timing", "speed_up"} <= set(report["rows"][0])


def test_no_engine_is_exit_status_3(toy_bundle, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        comparison, "compare_member", lambda *_: ParityResult(images=3, agreement=0.0, reasons=("it is bad",))
    )
    assert call(toy_bundle, "--engines", tmp_path, "--precision", "fp32") == 3
    out = capsys.readouterr().out
    assert "plain fp32, depthwise fp32, residual fp32 rejected: it is bad" in out
    assert "NO ENGINE for depthwise, plain, residual." in out


def test_calibration_images(toy_bundle, tmp_path, capsys):
    (tmp_path / "xrays").mkdir()
    for path in toy_bundle.glob("*.png"):
        shutil.copy(path, tmp_path / "xrays")
    words = ("--engines", tmp_path / "out", "--calibration", tmp_path / "xrays", "--images", 2, "--max-loss", 0.5)
    assert call(toy_bundle, *words) == 0
    out, err = capsys.readouterr()
    assert f"Gate: 2 of 3 files in {tmp_path / 'xrays'}" in out
    assert "plain uint8 " in out
    assert "plain: measuring activation ranges on 2 images" in err


@pytest.mark.parametrize(
    "words", [("--max-loss", "0"), ("--max-loss", "x"), ("--precision", "fp8"), ("--threads", "0"), ("--images", "0")]
)
def test_usage_errors(words, capsys):
    with pytest.raises(SystemExit) as error:
        call("bundle", *words)
    assert error.value.code == 2
    assert words[0] in capsys.readouterr().err


def test_a_single_network(single, capsys):
    assert call(single / "net.onnx", "--spec", single / "spec.json", "--precision", "fp32") == 0
    out = capsys.readouterr().out
    assert "16 images of random noise (give X-rays with --calibration DIR)" in out
    assert out.splitlines()[1].startswith("net fp32  selected")
    car = json.loads((single / "engines" / "net.fp32.json").read_text())
    assert (car["part"], car["bundle_sha256"]) == ("net", None)


def test_a_single_network_on_x_rays(single, capsys):
    textures(single / "xrays", 3)
    (single / "xrays" / "notes.txt").write_text("no X-ray")
    words = (
        "--spec",
        single / "spec.json",
        "--calibration",
        single / "xrays",
        "--out",
        single / "out",
        "--max-loss",
        "1",
    )
    assert call(single / "net.onnx", *words, "--precision", "int8") == 0
    assert "3 of 4 files in" in capsys.readouterr().out
    assert len(list((single / "out").glob("net.*int8*.onnx"))) == 1


def test_every_precision_is_an_option():
    assert [parse("--precision", p).precision for p in PRECISION_CHOICES] == list(PRECISION_CHOICES)


def test_the_options_are_the_build_settings(tmp_path):
    """Defaults included, so that a command that a message shows and the command line agree."""
    assert build_engine.build_settings(parse()) == BuildSettings()
    settings = BuildSettings(precision="int8", calibration=tmp_path, images=7, max_loss=0.5)
    assert build_engine.build_settings(parse(*settings.cli_options())) == settings


def test_an_unsupported_precision(single):
    with pytest.raises(BackendError, match="onnxruntime has no fp16 here, only fp32, int8: give --precision"):
        call(single / "net.onnx", "--spec", single / "spec.json", "--precision", "fp16")


def test_a_layer_that_overflows_in_half_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(backends, "BACKENDS", {"half-on-cpu": HalfOnCpu})
    onnx.save(deep(6, bad=3, how="fp16"), tmp_path / "net.onnx")
    (tmp_path / "spec.json").write_text(json.dumps(SPEC.as_json()))
    words = ("--spec", tmp_path / "spec.json", "--precision", "fp16", "--backend", "half-on-cpu")
    assert call(tmp_path / "net.onnx", *words) == 0
    out, err = capsys.readouterr()
    assert "net: fp16 is rejected, measuring the sensitivity of 7 layers" in err
    assert [line.split()[:3] for line in out.splitlines()[1:3]] == [
        ["net", "fp16", "rejected"],
        ["net", "fp16-mixed", "selected"],
    ]
    assert "net fp16 rejected: it gives outputs that are not finite" in out
    assert "net fp16: most sensitive layers layer_3 (not finite)" in out
    assert "net fp16-mixed: layers in fp32 layer_3 (not finite)" in out
    assert (tmp_path / "engines" / "net.fp16-mixed.onnx").is_file()
    assert call(tmp_path / "net.onnx", *words, "--json") == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert rows[1]["fp32_layers"] == [{"layers": ["layer_3"], "relative_change": None}]


@pytest.mark.usefixtures("exact_int8")
@pytest.mark.parametrize("precision", ["uint8", "int8"])
def test_a_layer_that_fails_in_int8_is_named(precision, single, capsys):
    onnx.save(deep(6, bad=3, how="int8"), single / "net.onnx")
    (single / "spec.json").write_text(json.dumps(SPEC.as_json()))
    textures(single / "xrays")
    words = ("--spec", single / "spec.json", "--calibration", single / "xrays", "--precision", "int8", "--json")
    assert call(single / "net.onnx", *words) == 0
    out, err = capsys.readouterr()
    rows = {r["precision"]: r for r in json.loads(out)["rows"]}
    assert rows[precision]["status"] == "rejected"
    first, second = rows[precision]["sensitive_layers"][:2]
    assert first["layers"] == ["layer_3"]
    assert first["relative_change"] > 50 * second["relative_change"]
    assert rows[f"{precision}-mixed"]["status"] in ("selected", "passed")
    assert [s["layers"] for s in rows[f"{precision}-mixed"]["fp32_layers"]] == [["layer_3"]]
    assert f"net: {precision}-mixed with 1 of 6 layers in fp32" in err


def test_a_single_segmenter(tmp_path, capsys):
    onnx.save(segmenter_model(SEGMENTER_SPEC), tmp_path / "lungs.onnx")
    (tmp_path / "spec.json").write_text(json.dumps(SEGMENTER_SPEC.as_json()))
    assert call(tmp_path / "lungs.onnx", "--spec", tmp_path / "spec.json") == 0
    assert "lungs int8 skipped: int8 needs activation ranges" in capsys.readouterr().out


def test_the_kind_of_a_single_networks_output(single, capsys):
    words = ("--spec", single / "spec.json", "--precision", "fp32")
    assert call(single / "net.onnx", *words) == 0
    assert (
        "Outputs: net softmax-logits and multi-label-logits (recognised: its values fit both" in capsys.readouterr().out
    )
    assert call(single / "net.onnx", *words, "--output", "softmax-logits") == 0
    assert "Outputs: net softmax-logits (declared by --output)." in capsys.readouterr().out
    assert call(single / "net.onnx", *words, "--output", "multi-label-logits", "--json") == 0
    (output,) = json.loads(capsys.readouterr().out)["outputs"]
    assert (output["kinds"], output["declared"]) == (["multi-label-logits"], True)
    with pytest.raises(ContractError, match=r"declared as softmax-probabilities, .* declare softmax-logits"):
        call(single / "net.onnx", *words, "--output", "softmax-probabilities")


def test_an_unknown_kind_is_a_usage_error(single, capsys):
    with pytest.raises(SystemExit) as error:
        call(single / "net.onnx", "--preset", "sane", "--output", "regression")
    assert error.value.code == 2
    assert "multi-label-logits" in capsys.readouterr().err


def test_a_file_in_a_foreign_format_is_named_whatever_its_ending(single):
    (single / "net.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    with pytest.raises(BundleError, match=r"net.h5 is no ONNX file but a Keras model: .* --keras net.h5"):
        call(single / "net.h5", "--spec", single / "spec.json")


def test_a_manifest_is_no_network(toy_bundle):
    with pytest.raises(BundleError, match=r"manifest.json is a file: give its folder"):
        call(toy_bundle / "manifest.json")


def test_a_single_network_of_another_preset_is_refused(single):
    with pytest.raises(ContractError, match="image must be float32"):
        call(single / "net.onnx", "--preset", "sane")


def test_a_single_network_without_a_digest_takes_the_spec_as_given(single):
    model = onnx.load(single / "net.onnx")
    del model.metadata_props[:]
    onnx.save(model, single / "net.onnx")
    assert call(single / "net.onnx", "--spec", single / "spec.json", "--precision", "fp32") == 0


def test_a_single_network_with_another_digest_is_refused(single):
    model = onnx.load(single / "net.onnx")
    onnx.helper.set_model_props(model, {"cxr_edge.preprocess_digest": "0" * 64})
    onnx.save(model, single / "net.onnx")
    with pytest.raises(ContractError, match="digest of its preprocessing"):
        call(single / "net.onnx", "--spec", single / "spec.json")


def test_a_network_that_is_neither_member_nor_segmenter(single):
    model = onnx.load(single / "net.onnx")
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info("conv_0", 1, ["N", 8, 24, 24]))
    onnx.save(model, single / "net.onnx")
    with pytest.raises(ContractError, match=r"must be a member .* or a segmenter .* \['conv_0'\]"):
        call(single / "net.onnx", "--spec", single / "spec.json")


def test_an_invalid_onnx_file(tmp_path):
    (tmp_path / "net.onnx").write_bytes(b"\x99" * 100)
    with pytest.raises(BundleError, match=r"net.onnx is not an ONNX file, or is truncated"):
        call(tmp_path / "net.onnx", "--preset", "sane")


@pytest.mark.parametrize("words", [(), ("--preset", "sane", "--spec", "spec.json")])
def test_a_single_network_needs_one_preprocessing(single, words):
    with pytest.raises(InputError, match="exactly one of --spec JSON and --preset NAME"):
        call(single / "net.onnx", *words)


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_an_invalid_spec(single, text):
    (single / "spec.json").write_text(text)
    with pytest.raises(InputError, match=r"spec.json (cannot be read as JSON|must hold one JSON object)"):
        call(single / "net.onnx", "--spec", single / "spec.json")


def test_options_of_bundles_and_of_single_networks_exclude_each_other(single, toy_bundle):
    for words in (("--preset", "sane"), ("--output", "logit")):
        with pytest.raises(InputError, match=r"go with a single \.onnx file"):
            call(toy_bundle, *words)
    with pytest.raises(InputError, match="--engines goes with a bundle"):
        call(single / "net.onnx", "--preset", "sane", "--engines", "x")
