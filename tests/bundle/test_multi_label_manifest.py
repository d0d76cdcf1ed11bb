"""Manifests of bundles whose labels are findings: schema 2, and what it must not hold."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import helper

from cxr_edge.bundle import Bundle
from cxr_edge.bundle.manifest import Manifest
from cxr_edge.bundle.onnx_check import check_networks
from cxr_edge.digests import sha256_file
from cxr_edge.errors import BundleError, ContractError
from cxr_edge.specs.combination import STRATEGIES, Decision
from cxr_edge.specs.json_fields import parse
from tests.builders.toy_bundle import FINDINGS, build_toy_bundle

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    root = tmp_path_factory.mktemp("findings")
    return build_toy_bundle(root, members=("plain",), segmenter=False, multi_label=True, known_answers=False)


@pytest.fixture
def document(bundle: Bundle) -> dict[str, Any]:
    return dict(json.loads((bundle.root / "manifest.json").read_text(encoding="utf-8")))


def test_a_multi_label_bundle_has_schema_2(bundle: Bundle, document: dict[str, Any]) -> None:
    assert bundle.manifest.multi_label
    assert document["schema"] == "cxr-edge-bundle/2"
    assert document["combination"]["activation"] == "sigmoid"
    assert document["combination"]["label_temperatures"] == [1.0, 0.5, 2.0]
    assert document["members"][0]["output"] == "multi-label-logits"
    assert Manifest.from_json(document) == bundle.manifest
    assert bundle.manifest.as_json() == document


def test_a_manifest_of_schema_2_still_loads() -> None:
    """Never regenerate the file: every later release must read it unchanged."""
    manifest = Manifest.from_json(parse((DATA / "manifest-schema-2.json").read_bytes()))
    assert manifest.multi_label
    assert manifest.labels == ("effusion", "nodule", "opacity")
    assert [m.output for m in manifest.members] == ["multi-label-logits"] * 2
    assert manifest.combination.label_temperatures == (1.0, 0.5, 2.0)
    assert manifest.decision.thresholds == {"opacity": 0.4}
    assert len(manifest.known_answers) == 3


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_is_stored(strategy: str, tmp_path: Path) -> None:
    manifest = build_toy_bundle(tmp_path, strategy=strategy, multi_label=True, known_answers=False).manifest
    assert Manifest.from_json(json.loads(json.dumps(manifest.as_json()))) == manifest


@pytest.mark.parametrize("key", ["activation", "label_temperatures"])
def test_schema_1_has_no_keys_of_schema_2(document: dict[str, Any], key: str) -> None:
    del document["combination"][{"activation": "label_temperatures", "label_temperatures": "activation"}[key]]
    document["schema"] = "cxr-edge-bundle/1"
    expected = rf"combination\.{key} is a key of cxr-edge-bundle/2, and the schema is cxr-edge-bundle/1"
    with pytest.raises(BundleError, match=expected):
        Manifest.from_json(document)


def test_schema_2_without_an_activation_is_a_softmax(toy_bundle: Path) -> None:
    single = json.loads((toy_bundle / "manifest.json").read_text(encoding="utf-8"))
    manifest = Manifest.from_json({**single, "schema": "cxr-edge-bundle/2"})
    assert not manifest.multi_label
    assert manifest == Manifest.from_json(single)
    assert manifest.as_json()["schema"] == "cxr-edge-bundle/1"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("labels", 0), "a+b", r"labels\[0\] must be without a \+ and not 'no finding'"),
        (("labels", 2), "no finding", r"labels\[2\] must be without a \+ and not 'no finding'"),
        (("labels",), [], "labels must be 1 or more different texts"),
        (("labels",), ["nodule", "nodule", "effusion"], "labels must be 1 or more different texts"),
        (("decision", "first"), ["opacity"], r"decision\.first must be empty in a multi-label bundle"),
        (("members", 0, "output"), "softmax-logits", r"members\[0\]\.output must be \"multi-label-logits\" with"),
        (("combination", "activation"), "softmax", "label_temperatures must be none with the activation softmax"),
        (("combination", "label_temperatures"), [1.0], r"combination\.label_temperatures must be 3 numbers, one per label"),
        (("combination", "label_temperatures"), 1.0, r"combination\.label_temperatures must be a list"),
    ],
)  # fmt: skip
def test_what_is_refused(document: dict[str, Any], path: tuple[str | int, ...], value: Any, message: str) -> None:
    target: Any = document
    for step in path[:-1]:
        target = target[step]
    target[path[-1]] = value
    with pytest.raises(BundleError, match=message):
        Manifest.from_json(document)


def test_a_single_label_bundle_takes_no_member_of_findings(toy_bundle: Path) -> None:
    single = copy.deepcopy(json.loads((toy_bundle / "manifest.json").read_text(encoding="utf-8")))
    single["members"][1]["output"] = "multi-label-logits"
    with pytest.raises(BundleError, match=r"members\[1\]\.output must be \"softmax-logits\" with the combination's"):
        Manifest.from_json(single)


def test_known_answers_need_no_sum_of_1(bundle: Bundle, document: dict[str, Any]) -> None:
    answer = {"file": document["model_card"], "roi": [0, 0, 2, 2], "probabilities": [0.9, 0.8, 0.1]}
    manifest = Manifest.from_json({**document, "known_answers": [answer]})
    assert manifest.known_answers[0].probabilities == (0.9, 0.8, 0.1)


def test_a_bundle_of_one_finding(document: dict[str, Any]) -> None:
    document["combination"]["label_temperatures"] = []
    manifest = Manifest.from_json({**document, "labels": ["opacity"]})
    assert manifest.labels == ("opacity",)


def test_the_threshold_of_a_finding_is_one_half_unless_it_has_one() -> None:
    decision = Decision(thresholds={"opacity": 0.4}, uncertain_below=0.0)
    assert [decision.threshold_of(f) for f in FINDINGS] == [0.5, 0.5, 0.4]


def test_a_member_that_ends_in_a_sigmoid_is_refused(tmp_path: Path) -> None:
    root = build_toy_bundle(
        tmp_path, members=("plain",), segmenter=False, cam=False, multi_label=True, known_answers=False
    ).root
    model = onnx.load(root / "plain.onnx")
    model.graph.node[-1].output[0] = "before"
    model.graph.node.append(helper.make_node("Sigmoid", ["before"], ["logits"]))
    onnx.save(model, root / "plain.onnx")
    _update_sha256(root)
    with pytest.raises(
        ContractError, match=r"ends in a Sigmoid, so it holds probabilities, .* would take their sigmoid:"
    ):
        check_networks(Bundle.open(root))


def _update_sha256(root: Path) -> None:
    text = json.loads((root / "manifest.json").read_text(encoding="utf-8"))
    text["members"][0]["file"]["sha256"] = sha256_file(root / "plain.onnx")
    (root / "manifest.json").write_text(json.dumps(text), encoding="utf-8")
