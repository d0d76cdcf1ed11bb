"""Manifest validation: accepted values, and error messages with the key, the expected and the actual value."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr_edge.bundle.manifest import MULTI_LABEL_SCHEMA, SCHEMA, Manifest
from cxr_edge.bundle.networks import FileRef, Member, Segmenter
from cxr_edge.errors import BundleError, ContractError
from cxr_edge.specs.combination import STRATEGIES, Combination
from cxr_edge.specs.json_fields import parse
from cxr_edge.specs.lung_box import LungBoxRule
from cxr_edge.specs.preprocess import PreprocessSpec
from tests.builders.toy_bundle import build_toy_bundle, combination_parameters

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="module")
def document(toy_bundle: Path) -> dict[str, Any]:
    """Return the toy bundle's manifest as JSON, with activation ranges, so that it holds every kind of object."""
    loaded = json.loads((toy_bundle / "manifest.json").read_text(encoding="utf-8"))
    for network in (loaded["segmenter"], *loaded["members"]):
        network["activation_ranges"] = {"path": "ranges.json", "sha256": "0" * 64}
    return dict(loaded)


def replace_value(document: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Return a copy of the document with the value at a path like `members[1].file.path` replaced or added."""
    result = copy.deepcopy(document)
    steps = [int(s) if s.isdigit() else s for s in path.replace("[", ".").replace("]", "").split(".")]
    target: Any = result
    for step in steps[:-1]:
        target = target[step]
    target[steps[-1]] = value
    return result


def objects(value: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every object of the format with its path, except the free-form ones (provenance, metrics)."""
    if isinstance(value, dict):
        yield path, value
        for key, item in value.items():
            if key not in ("provenance", "metrics", "thresholds"):
                yield from objects(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from objects(item, f"{path}[{i}]")


OBJECT_PATHS = [
    "", "segmenter", "segmenter.file", "segmenter.preprocess", "segmenter.lung_box", "segmenter.activation_ranges",
    "members[1]", "members[1].file", "members[1].preprocess", "members[1].activation_ranges", "combination",
    "combination.parameters", "decision", "known_answers[0]", "known_answers[0].file", "model_card",
]  # fmt: skip


def test_the_kind_of_a_members_output_may_be_declared(document: dict[str, Any]) -> None:
    """Schema 1 began without the key: it may be absent, and is not written, so that bundles keep their digests."""
    declared = Manifest.from_json(replace_value(document, "members[1].output", "softmax-logits"))
    assert declared == Manifest.from_json(document)
    assert declared.as_json() == document
    assert declared.members[1].output == "softmax-logits"


@pytest.mark.parametrize(
    ("kind", "remedy"),
    [
        ("softmax-probabilities", "export the network without its softmax"),
        ("multi-label-probabilities", "export the network without its sigmoids"),
        ("logit", "export two columns"),
        ("mask", "is the segmenter of a bundle"),
    ],
)
def test_a_kind_that_cannot_be_combined_is_refused(document: dict[str, Any], kind: str, remedy: str) -> None:
    kinds = r"\"softmax-logits\" or \"multi-label-logits\""
    expected = rf"members\[1\]\.output must be {kinds} in a bundle, .* got \"{kind}\": .*{remedy}"
    with pytest.raises(BundleError, match=expected):
        Manifest.from_json(replace_value(document, "members[1].output", kind))


@pytest.mark.parametrize("kind", ["logits", "", 1, None, [], {}])
def test_an_unknown_kind_is_refused(document: dict[str, Any], kind: object) -> None:
    with pytest.raises(BundleError, match=r"members\[0\]\.output must be one of softmax-logits, logit, .*, got "):
        Manifest.from_json(replace_value(document, "members[0].output", kind))


def test_json_round_trip(document: dict[str, Any]) -> None:
    manifest = Manifest.from_json(document)
    assert manifest.as_json() == document
    assert Manifest.from_json(json.loads(json.dumps(manifest.as_json()))) == manifest


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_json_round_trip_of_every_strategy(strategy: str, tmp_path: Path) -> None:
    manifest = build_toy_bundle(tmp_path, strategy=strategy, known_answers=False).manifest
    assert Manifest.from_json(manifest.as_json()) == manifest


def test_a_manifest_of_schema_1_still_loads() -> None:
    """The file was written by cxr-edge 0.1.0. Never regenerate it: every later release must read it unchanged."""
    manifest = Manifest.from_json(parse((DATA / "manifest-schema-1.json").read_bytes()))
    assert manifest.labels == ("normal", "bacterial", "viral", "covid-19")
    assert [m.name for m in manifest.members] == ["plain", "depthwise", "residual"]
    assert manifest.segmenter is not None
    assert manifest.segmenter.lung_box.min_pixels == 2
    assert manifest.decision.thresholds == {"covid-19": 0.2}


def test_object_paths_lists_every_object(document: dict[str, Any]) -> None:
    found = {path for path, _ in objects(document)}
    without_repeats = {p for p in found if "[" not in p or p.startswith(("members[1]", "known_answers[0]"))}
    assert without_repeats == set(OBJECT_PATHS)


@pytest.mark.parametrize("path", OBJECT_PATHS)
def test_an_unknown_key_is_rejected_at_every_level(document: dict[str, Any], path: str) -> None:
    key = f"{path}.surprise" if path else "surprise"
    with pytest.raises(BundleError) as caught:
        Manifest.from_json(replace_value(document, key, 1))
    assert f"{key} is not a key of this format" in str(caught.value)


@pytest.mark.parametrize("path", OBJECT_PATHS)
def test_a_missing_key_is_rejected_at_every_level(document: dict[str, Any], path: str) -> None:
    for key in dict(objects(document))[path]:
        full = f"{path}.{key}" if path else key
        broken = copy.deepcopy(document)
        del dict(objects(broken))[path][key]
        with pytest.raises(BundleError) as caught:
            Manifest.from_json(broken)
        assert full in str(caught.value)


@pytest.mark.parametrize("path", [p for p in OBJECT_PATHS if p])
def test_a_list_in_place_of_an_object_is_rejected(document: dict[str, Any], path: str) -> None:
    with pytest.raises(BundleError) as caught:
        Manifest.from_json(replace_value(document, path, [1, 2]))
    assert f"{path} must be an object, got [1, 2]" in str(caught.value)


WRONG = [
    ("name", "", "name must be a printable text"),
    ("name", 3, "name must be a printable text of 1 to 200 characters, got 3"),
    ("name", "a\u001b[31mb", "name must be a printable text"),
    ("created", "yesterday", 'created must be an ISO 8601 time, got "yesterday"'),
    ("created", 20200608, "created must be an ISO 8601 time"),
    ("labels", ["a"], 'labels must be 2 or more different texts, got ["a"]'),
    ("labels", "normal", 'labels must be a list, got "normal"'),
    ("labels", ["a", "a", "b", "c"], "labels must be 2 or more different texts"),
    ("labels[2]", None, "labels[2] must be a printable text"),
    ("provenance", [], "provenance must be an object"),
    ("intended_use", " ", "intended_use must be a printable text"),
    ("members", [], "members must be a list of 1 or more, got []"),
    ("members", {}, "members must be a list, got {}"),
    ("members[1].name", "../x", "members[1].name must be 1 to 64 letters"),
    ("members[1].name", "Segmenter", "members[1].name must be different from 'segmenter'"),
    ("members[1].name", "PLAIN", "members[1].name must be different from every other member's"),
    ("members[1].has_cam", 1, "members[1].has_cam must be true or false, got 1"),
    ("members[1].architecture", None, "members[1].architecture must be a printable text"),
    ("members[1].file.path", "/etc/passwd", "members[1].file.path must be relative to the bundle's folder"),
    ("members[1].file.sha256", "0" * 63, "members[1].file.sha256 must be 64 lower-case hexadecimal digits"),
    ("members[1].file.sha256", "G" * 64, "members[1].file.sha256 must be 64 lower-case hexadecimal digits"),
    ("members[1].preprocess.crop_px", 4000, "members[1].preprocess.crop_px must be a whole number from 1 to canvas_px"),
    ("members[1].preprocess.crop_px", "32", 'members[1].preprocess.crop_px must be a whole number, got "32"'),
    ("members[1].preprocess.crop_px", True, "members[1].preprocess.crop_px must be a whole number, got true"),
    ("members[1].preprocess.channels", 1.0, "members[1].preprocess.channels must be a whole number, got 1.0"),
    ("members[1].preprocess.median", 0, "members[1].preprocess.median must be true or false, got 0"),
    ("members[1].preprocess.region", "heart", "members[1].preprocess.region must be 'lungs' or 'frame', got 'heart'"),
    ("members[1].preprocess.mean", [0.5], "members[1].preprocess.mean must be 3 finite numbers"),
    ("members[1].preprocess.mean[1]", "x", 'members[1].preprocess.mean[1] must be a finite number, got "x"'),
    ("members[1].preprocess.std[0]", 0.0, "members[1].preprocess.std must be numbers above 0"),
    ("segmenter.lung_box.threshold", 1, "segmenter.lung_box.threshold must be a number above 0 and below 1, got 1"),
    ("segmenter.lung_box.min_pixels", 0, "segmenter.lung_box.min_pixels must be a whole number, 1 or more, got 0"),
    ("segmenter.lung_box.margin", -0.1, "segmenter.lung_box.margin must be a number from 0 to 1, got -0.1"),
    ("segmenter.lung_box.min_area", 1.0, "segmenter.lung_box.min_area must be from 0 to below max_area, got 1.0"),
    ("segmenter.lung_box.max_aspect", 0, "segmenter.lung_box.max_aspect must be a number above 0, got 0"),
    ("segmenter.lung_box.min_aspect", 3, "segmenter.lung_box.min_aspect must be from 0 to below max_aspect, got 3"),
    ("combination.strategy", "magic", "combination.strategy must be one of voting, average"),
    ("combination.strategy", ["voting"], "combination.strategy must be one of voting, average"),
    ("combination.temperature", 0, "combination.temperature must be a number above 0, got 0"),
    ("combination.temperature", 10**400, "combination.temperature must be a number above 0, got 1000"),
    (
        "combination.member_temperatures",
        [1.0],
        'member_temperatures must be 3 numbers, one per member, got "1 numbers"',
    ),
    ("combination.member_temperatures[2]", -1, "combination.member_temperatures[2] must be a number above 0, got -1"),
    ("combination.parameters.weights", [0.5, 0.5], 'combination.parameters.weights must be a list of 3, got "2 items"'),
    ("combination.parameters.weights", [0.9, 0.9, 0.9], "combination.parameters.weights must be numbers of 0 or more"),
    ("combination.parameters.weights", [1.5, -0.5, 0], "combination.parameters.weights must be numbers of 0 or more"),
    ("combination.parameters.weights[1]", None, "combination.parameters.weights[1] must be a finite number, got null"),
    ("decision.thresholds", {"flu": 0.5}, "decision.thresholds must be of labels among"),
    ("decision.thresholds.covid-19", 1.5, "decision.thresholds.covid-19 must be a number from 0 to 1, got 1.5"),
    ("decision.uncertain_below", "0.5", 'decision.uncertain_below must be a number from 0 to 1, got "0.5"'),
    ("known_answers[1].roi", [0, 0, 9], "known_answers[1].roi must be [x0, y0, x1, y1], got [0, 0, 9]"),
    ("known_answers[1].roi", [5, 0, 5, 9], "known_answers[1].roi must be [x0, y0, x1, y1] with x0 < x1"),
    ("known_answers[1].roi[0]", 0.5, "known_answers[1].roi[0] must be a whole number, 0 or more, got 0.5"),
    ("known_answers[1].probabilities", [0.5, 0.5], "known_answers[1].probabilities must be 4 numbers, one per label"),
    ("known_answers[1].probabilities", [0.5] * 4, "known_answers[1].probabilities must be numbers whose sum is 1"),
    ("known_answers[1].probabilities[0]", True, "known_answers[1].probabilities[0] must be a number from 0 to 1"),
]


@pytest.mark.parametrize(("path", "value", "message"), WRONG, ids=[f"{p}={str(v)[:20]}" for p, v, _ in WRONG])
def test_an_invalid_value_is_reported_with_its_path(
    document: dict[str, Any], path: str, value: Any, message: str
) -> None:
    with pytest.raises(BundleError) as caught:
        Manifest.from_json(replace_value(document, path, value))
    assert message in str(caught.value)
    assert len(str(caught.value)) < 600


def test_a_bundle_without_segmenter_accepts_only_full_frames(document: dict[str, Any]) -> None:
    with pytest.raises(BundleError, match=r"members\[0\]\.preprocess\.region must be 'frame' in a bundle without"):
        Manifest.from_json(replace_value(document, "segmenter", None))


def test_edited_preprocessing_is_a_contract_error(document: dict[str, Any]) -> None:
    with pytest.raises(ContractError, match=r'preprocessing of "plain" was altered.*export the bundle again'):
        Manifest.from_json(replace_value(document, "members[0].preprocess.median", True))


def test_preprocessing_of_another_arithmetic_version_is_a_contract_error(document: dict[str, Any]) -> None:
    with pytest.raises(ContractError, match="arithmetic version 1, the spec has version 99"):
        Manifest.from_json(replace_value(document, "members[0].preprocess.arithmetic", 99))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (PreprocessSpec(region="lungs", standardize="none"), "preprocess.region must be 'frame' for the segmenter"),
        (PreprocessSpec(region="frame", standardize="none", channels=3), "preprocess.channels must be 1"),
        (PreprocessSpec(region="frame", canvas_px=256, crop_px=224), "preprocess.crop_px must be canvas_px = 256"),
    ],
)
def test_preprocessing_that_does_not_suit_a_segmenter_is_rejected(spec: PreprocessSpec, message: str) -> None:
    with pytest.raises(BundleError) as caught:
        Segmenter(file=FileRef(path="a.onnx", sha256="0" * 64), preprocess=spec, lung_box=LungBoxRule())
    assert message in str(caught.value)


PARAMETERS = [
    ("stacking", "hidden_weight", [[0.0] * 11] * 9, 'parameters.hidden_weight[0] must be a list of 12, got "11 items"'),
    ("stacking", "hidden_weight", [], "parameters.hidden_weight must be a list that is not empty"),
    ("stacking", "hidden_bias", [0.0] * 8, 'parameters.hidden_bias must be a list of 9, got "8 items"'),
    ("stacking", "output_weight", [[0.0] * 9] * 3, 'parameters.output_weight must be a list of 4, got "3 items"'),
    ("stacking", "output_weight", [[0.0] * 9] * 3 + [[0.0] * 8], "parameters.output_weight[3] must be a list of 9"),
    ("stacking", "output_bias", [0.0, 0.0, 0.0, "0"], "parameters.output_bias[3] must be a finite number"),
    ("flannel", "module_weight", [[0.0] * 144] * 2, 'parameters.module_weight must be a list of 3, got "2 items"'),
    ("flannel", "module_weight", [[0.0] * 12] * 3, "parameters.module_weight[0] must be a list of 144"),
    ("flannel", "module_bias", 0.0, "parameters.module_bias must be a list of 3, got 0.0"),
]


@pytest.mark.parametrize(("strategy", "name", "value", "message"), PARAMETERS)
def test_parameters_of_a_wrong_shape_are_rejected(
    document: dict[str, Any], strategy: str, name: str, value: Any, message: str
) -> None:
    parameters = {**combination_parameters(strategy, members=3), name: value}
    broken = replace_value(
        replace_value(document, "combination.strategy", strategy), "combination.parameters", parameters
    )
    with pytest.raises(BundleError) as caught:
        Manifest.from_json(broken)
    assert message in str(caught.value)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_parameters_of_another_strategy_are_rejected(strategy: str) -> None:
    with pytest.raises(BundleError, match=r"parameters\.surprise is not a key"):
        Combination(
            strategy=strategy,  # type: ignore[arg-type]
            member_temperatures=(1.0,),
            temperature=1.0,
            parameters={**combination_parameters(strategy, members=1), "surprise": [1.0]},
        )


def test_a_newer_schema_is_rejected_with_the_installed_version() -> None:
    newer = {"schema": "cxr-edge-bundle/3", "unknown_key": True}
    with pytest.raises(BundleError) as caught:
        Manifest.from_json(newer)
    message = str(caught.value)
    assert "schema cxr-edge-bundle/3" in message
    assert "cxr-edge (0." in message
    assert "too old" in message
    assert f"reads {SCHEMA} and {MULTI_LABEL_SCHEMA}" in message
    assert "install a newer cxr-edge" in message


@pytest.mark.parametrize("schema", [None, 1, "cxr-edge-bundle", "cxr-edge-bundle/x", "other/1", "cxr-edge-bundle/1\n"])
def test_another_schema_is_rejected(document: dict[str, Any], schema: Any) -> None:
    with pytest.raises(BundleError, match=r"schema must be .*this is no cxr-edge bundle"):
        Manifest.from_json(replace_value(document, "schema", schema))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "the whole file must be JSON in UTF-8"),
        (b"{", "the whole file must be JSON in UTF-8"),
        (b"\xff\xfe{}", "the whole file must be JSON in UTF-8"),
        (b"[" * 100_000, "the whole file must be JSON in UTF-8"),
        (b'{"a": 1, "a": 2}', 'must give each key of an object once, got "a" twice'),
        (b'{"a": NaN}', "must hold finite numbers, got NaN"),
        (b'{"a": -Infinity}', "must hold finite numbers, got -Infinity"),
    ],
)
def test_invalid_json_is_rejected(text: bytes, message: str) -> None:
    with pytest.raises(BundleError) as caught:
        parse(text)
    assert message in str(caught.value)


@pytest.mark.parametrize("value", [None, [], "x", 3])
def test_a_document_that_is_not_an_object_is_rejected(value: Any) -> None:
    with pytest.raises(BundleError, match="the whole file must be an object"):
        Manifest.from_json(value)


PLAIN_PARTS = st.text(alphabet="abcXYZ019_", min_size=1, max_size=8)
UNSAFE_PARTS = st.sampled_from(["..", ".", "", "...", "a\\b", "..\\..", "C:", "a\0b", "a\nb", ".hidden", "~", "é", "*"])


@given(parts=st.lists(PLAIN_PARTS, min_size=1, max_size=4))
def test_plain_relative_paths_are_accepted(parts: list[str]) -> None:
    assert FileRef(path="/".join(parts), sha256="0" * 64).path == "/".join(parts)


@given(parts=st.lists(PLAIN_PARTS, max_size=3), unsafe=UNSAFE_PARTS, index=st.integers(0, 3))
def test_no_path_that_could_leave_the_folder_is_accepted(parts: list[str], unsafe: str, index: int) -> None:
    path = "/".join([*parts[:index], unsafe, *parts[index:]])
    with pytest.raises(BundleError, match="path must be"):
        FileRef(path=path, sha256="0" * 64)


@given(
    document=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=8,
    ),
    key=st.sampled_from(["labels", "segmenter", "members", "combination", "decision", "known_answers", "model_card"]),
)
def test_random_values_raise_only_bundle_errors(document: Any, key: str) -> None:
    valid = json.loads((DATA / "manifest-schema-1.json").read_text(encoding="utf-8"))
    if key == "known_answers" and document == []:
        return  # a bundle may have none
    with pytest.raises(BundleError):
        Manifest.from_json({**valid, key: document})


def test_the_example_in_the_documentation_is_valid() -> None:
    text = (Path(__file__).parents[2] / "docs" / "bundle-format.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```json\n(.*?)```", text, flags=re.DOTALL)
    assert Member.from_json(json.loads(example)).preprocess == PreprocessSpec()


def test_the_documentation_mentions_every_key(document: dict[str, Any]) -> None:
    text = (Path(__file__).parents[2] / "docs" / "bundle-format.md").read_text(encoding="utf-8")
    keys = {key for _, found in objects(document) for key in found} - {"path", "sha256"}
    parameters = {name for strategy in STRATEGIES for name in combination_parameters(strategy, members=1)}
    assert [key for key in sorted(keys | parameters) if f"`{key}`" not in text] == []
