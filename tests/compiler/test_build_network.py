"""Builds of single networks of every kind: good engines are selected, ruined ones refused, declarations checked."""

from __future__ import annotations

import json

import onnx
import pytest

from cxr_edge.compiler.build_network import build_network
from cxr_edge.engines import BuildSettings
from cxr_edge.errors import ContractError
from tests.builders.toy_bundle import SEGMENTER_SPEC, segmenter_model
from tests.compiler.networks import SPEC, headed, saved, textures

RUIN = 3000.0  # of `headed`'s hot channel
CASES = [
    ("logit", 1, None),
    ("multi-label-logits", 18, None),
    ("softmax-logits", 4, None),
    ("multi-label-probabilities", 18, "Sigmoid"),
    ("multi-label-probabilities", 1, "Sigmoid"),
    ("softmax-probabilities", 4, "Softmax"),
]


@pytest.fixture(scope="module")
def xrays(tmp_path_factory):
    return textures(tmp_path_factory.mktemp("build_network") / "xrays", 20)


def build(model, folder, xrays=None, precision="int8", output="auto", **more):
    settings = BuildSettings(precision=precision, calibration=xrays)
    return build_network(saved(model, folder), SPEC, settings, out=folder / "engines", output=output, **more)


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize(("kind", "columns", "end"), CASES)
def test_an_engine_that_follows_the_image_is_selected(kind, columns, end, declared, tmp_path, xrays):
    report = build(headed(columns, end), tmp_path, xrays, "auto", kind if declared else "auto")
    assert report.complete
    assert kind in report.outputs[0].kinds
    assert report.outputs[0].declared == declared
    assert any(r.status in ("selected", "passed") for r in report.rows if "int8" in r.precision)


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize(("kind", "columns", "end"), CASES)
def test_an_engine_with_constant_outputs_is_refused(kind, columns, end, declared, tmp_path, xrays):
    report = build(headed(columns, end, hot=RUIN), tmp_path, xrays, output=kind if declared else "auto")
    assert not report.complete
    assert {r.status for r in report.rows if "mixed" not in r.precision} == {"rejected"}
    assert list((tmp_path / "engines").glob("*.onnx")) == []


def test_the_report_has_the_kind(tmp_path):
    report = build(headed(18, "Sigmoid"), tmp_path, precision="fp32")
    assert "Outputs: network multi-label-probabilities (recognised: it ends in a Sigmoid)." in report.lines()
    assert report.as_json()["outputs"] == (
        {
            "part": "network",
            "kinds": ("multi-label-probabilities",),
            "declared": False,
            "basis": "recognised: it ends in a Sigmoid",
        },
    )
    car = json.loads((tmp_path / "engines" / "network.fp32.json").read_text())
    assert car["gate"]["output_change"] == pytest.approx(0, abs=1e-4)


def test_a_declaration_is_compared_with_the_network(tmp_path):
    with pytest.raises(ContractError, match=r"network: its output is declared as softmax-logits, .* has the logits"):
        build(headed(4, "Softmax"), tmp_path, output="softmax-logits")
    with pytest.raises(ContractError, match="declared as logit, but it has 4 columns"):
        build(headed(4), tmp_path, output="logit")
    with pytest.raises(ContractError, match=r"must have the outputs mask, it has 'logits float32 \(N, 4\)'"):
        build(headed(4), tmp_path, output="mask")
    with pytest.raises(ContractError, match=r"must have the outputs logits, it has 'mask "):
        build_network(
            saved(segmenter_model(SEGMENTER_SPEC), tmp_path), SEGMENTER_SPEC, out=tmp_path / "e", output="logit"
        )


def test_a_mask_is_recognised_by_its_name(tmp_path):
    file = saved(segmenter_model(SEGMENTER_SPEC), tmp_path)
    for output in ("auto", "mask"):
        report = build_network(file, SEGMENTER_SPEC, BuildSettings(precision="fp32"), out=tmp_path / "e", output=output)
        assert report.outputs[0].kinds == ("mask",)


def test_regression_is_not_supported(tmp_path):
    model = headed(1, scale=1.0)
    bias = model.graph.initializer[5]
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + 60, bias.name))
    with pytest.raises(ContractError, match="Regression"):
        build(model, tmp_path)


def test_outputs_of_other_names_are_named_with_the_remedy(tmp_path):
    model = headed(4)
    model.graph.node[-1].output[0] = model.graph.output[0].name = "linear"
    with pytest.raises(
        ContractError, match=r"outputs \['linear'\]: .* output_names=\[\"logits\"\].* --output declares"
    ):
        build(model, tmp_path)


def test_a_network_that_ignores_the_image_is_noted(tmp_path):
    report = build(headed(4, scale=0.0), tmp_path, precision="fp32")
    assert any("gives the same outputs for all 16 images in fp32" in note for note in report.notes)
