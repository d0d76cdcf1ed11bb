"""The manifest's checker: stored and read again, and every value that is rejected with its key."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from cxr_edge.bundle import Bundle
from cxr_edge.bundle.manifest import Manifest
from cxr_edge.bundle.onnx_check import check_networks
from cxr_edge.cli import main
from cxr_edge.digests import sha256_file
from cxr_edge.errors import BundleError, ContractError
from tests.builders.toy_bundle import CHECKER_SCORES, SEGMENTER_SPEC, build_toy_bundle, checker_model

Json = dict[str, Any]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return build_toy_bundle(tmp_path_factory.mktemp("checked"), checker=True, known_answers=False)


@pytest.fixture
def document(bundle: Bundle) -> Json:
    return dict(json.loads((bundle.root / "manifest.json").read_text(encoding="utf-8")))


def test_a_bundle_with_a_checker_has_schema_2(bundle: Bundle, document: Json) -> None:
    assert document["schema"] == "cxr-edge-bundle/2"
    assert document["checker"]["scores"] == list(CHECKER_SCORES)
    assert Manifest.from_json(document) == bundle.manifest
    assert ("checker.file", bundle.manifest.checker.file) in list(bundle.manifest.files())  # type: ignore[union-attr]


def test_schema_1_has_no_checker(document: Json) -> None:
    document["schema"] = "cxr-edge-bundle/1"
    with pytest.raises(BundleError, match="checker is a key of cxr-edge-bundle/2"):
        Manifest.from_json(document)


def test_an_altered_network_is_detected(tmp_path: Path) -> None:
    bundle = build_toy_bundle(tmp_path, checker=True, known_answers=False)
    (bundle.root / "checker.onnx").write_bytes(b"altered")
    with pytest.raises(BundleError, match=r"checker.onnx .* was altered"):
        Bundle.open(bundle.root)


Change = Callable[[Json], object]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["checks"][0].update(code="ugly"), r"checker.checks\[0\].code must be one of not_chest, inverted"),
        (lambda c: c["checks"][0].update(code="too_small"), r"checker.checks\[0\].code must be one of not_chest"),
        (lambda c: c["checks"][1].update(code="not_chest"), "checker.checks must be a list with each code once"),
        (lambda c: c["checks"][2].update(score="ugly"), r"checker.checks\[2\].score must be one of"),
        (lambda c: c["checks"][0].update(limit="high"), r"checker.checks\[0\].limit must be a number"),
        (lambda c: c["checks"][0].update(below=1), r"checker.checks\[0\].below must be true or false"),
        (lambda c: c["checks"][0].pop("below"), r"checker.checks\[0\]"),
        (lambda c: c.update(scores=["a", "a"]), "checker.scores must be 1 or more different texts"),
        (lambda c: c.update(population="pets"), "checker.population must be one of any, adults, children"),
        (lambda c: c["limits"].update(min_side_px=0), "checker.limits.min_side_px"),
        (lambda c: c["limits"].update(min_contrast=1.5), "checker.limits.min_contrast must be a number from 0 to 1"),
        (lambda c: c["limits"].update(max_saturated=-1), "checker.limits.max_saturated must be a number from 0 to 1"),
        (lambda c: c["limits"].update(more=1), "checker.limits"),
    ],
)
def test_a_value_that_means_nothing_is_rejected_with_its_key(change: Change, message: str, document: Json) -> None:
    change(document["checker"])
    with pytest.raises(BundleError, match=message):
        Manifest.from_json(document)


def test_an_altered_spec_is_a_contract_error(document: Json) -> None:
    document["checker"]["preprocess"]["median"] = True
    with pytest.raises(ContractError, match=r"the preprocessing of .checker"):
        Manifest.from_json(document)


@pytest.mark.parametrize(("key", "value"), [("region", "lungs"), ("channels", 3)])
def test_the_checker_sees_the_whole_gray_frame(key: str, value: object, document: Json) -> None:
    from cxr_edge.specs.preprocess import PreprocessSpec

    spec = PreprocessSpec.from_json({**SEGMENTER_SPEC.as_json(), key: value})
    document["checker"].update(preprocess=spec.as_json(), preprocess_digest=spec.digest())
    with pytest.raises(BundleError, match=rf"checker.preprocess.{key}"):
        Manifest.from_json(document)


def test_the_network_is_checked_last(bundle: Bundle) -> None:
    network = check_networks(bundle)[-1]
    assert (network.name, network.path.name) == ("checker", "checker.onnx")
    assert network.parameters > 0


def _replaced(bundle: Bundle, model: onnx.ModelProto) -> Bundle:
    """The bundle with another checker network, and its SHA-256 in the manifest."""
    onnx.save(model, bundle.root / "checker.onnx")
    file = bundle.root / "manifest.json"
    document = json.loads(file.read_text(encoding="utf-8"))
    document["checker"]["file"]["sha256"] = sha256_file(bundle.root / "checker.onnx")
    file.write_text(json.dumps(document), encoding="utf-8")
    return Bundle.open(bundle.root)


def test_a_network_with_fewer_scores_is_a_contract_error(tmp_path: Path) -> None:
    bundle = build_toy_bundle(tmp_path, checker=True, known_answers=False)
    model = checker_model(SEGMENTER_SPEC)
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 3
    weight = next(t for t in model.graph.initializer if tuple(t.dims)[1:] == (len(CHECKER_SCORES),))
    values = onnx.numpy_helper.to_array(weight)[:, :3]
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    with pytest.raises(ContractError, match=r"checker.onnx \(checker\)"):
        check_networks(_replaced(bundle, model))


def test_a_network_of_another_digest_is_a_contract_error(tmp_path: Path) -> None:
    bundle = build_toy_bundle(tmp_path, checker=True, known_answers=False)
    model = checker_model(SEGMENTER_SPEC)
    onnx.helper.set_model_props(model, {"cxr_edge.preprocess_digest": "0" * 64})
    with pytest.raises(ContractError, match="must have the digest of its preprocessing"):
        check_networks(_replaced(bundle, model))


def test_inspect_shows_the_checker(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(bundle.root)]) == 0
    shown = capsys.readouterr().out
    assert "Refusals" in shown
    assert "made for patients of any age; too_small below 100 px, blank below a contrast of 0.05" in shown
    assert "inverted from 0.95" in shown
    assert "image checker" in shown
    assert main(["inspect", str(bundle.root), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["networks"][-1]["output"] == "scores"
