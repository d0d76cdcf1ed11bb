"""The manifest's degraded modes: stored and read again, and every value that is rejected with its key."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cxr_edge.bundle import Bundle
from cxr_edge.bundle.manifest import Manifest
from cxr_edge.errors import BundleError, InputError
from cxr_edge.specs.degraded import MOST_MODES, degraded_subsets
from tests.builders.toy_bundle import MEMBER_SPECS, build_toy_bundle

Json = dict[str, Any]
NAMES = tuple(MEMBER_SPECS)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return build_toy_bundle(tmp_path_factory.mktemp("degraded"), degraded=True, known_answers=False)


@pytest.fixture
def document(bundle: Bundle) -> Json:
    return dict(json.loads((bundle.root / "manifest.json").read_text(encoding="utf-8")))


def test_a_bundle_with_modes_has_schema_2(bundle: Bundle, document: Json) -> None:
    assert document["schema"] == "cxr-edge-bundle/2"
    assert [mode["members"] for mode in document["degraded"]] == [
        ["plain", "depthwise"],
        ["plain", "residual"],
        ["depthwise", "residual"],
        ["plain"],
        ["depthwise"],
        ["residual"],
    ]
    assert Manifest.from_json(document) == bundle.manifest


def test_a_bundle_without_modes_does_not_have_the_key(toy_bundle: Path) -> None:
    assert Bundle.open(toy_bundle).manifest.degraded == ()
    document = json.loads((toy_bundle / "manifest.json").read_text(encoding="utf-8"))
    assert (document["schema"], "degraded" in document) == ("cxr-edge-bundle/1", False)


def test_schema_1_has_no_modes(document: Json) -> None:
    document["schema"] = "cxr-edge-bundle/1"
    with pytest.raises(BundleError, match="degraded is a key of cxr-edge-bundle/2"):
        Manifest.from_json(document)


def test_a_reduced_manifest_is_that_of_the_mode(bundle: Bundle) -> None:
    manifest = bundle.manifest
    reduced = manifest.reduced_to(("plain", "residual"))
    mode = manifest.degraded[1]
    assert [m.name for m in reduced.members] == ["plain", "residual"]
    assert (reduced.combination, reduced.decision, reduced.budget) == (mode.combination, mode.decision, mode.budget)
    assert [m.members for m in reduced.degraded] == [("plain",), ("residual",)]
    with pytest.raises(InputError, match="has no degraded mode of the members residual, plain"):
        manifest.reduced_to(("residual", "plain"))
    with pytest.raises(InputError, match="has no degraded mode of the members none"):
        manifest.reduced_to(())


@pytest.mark.parametrize(
    ("members", "modes", "smallest"), [(1, 0, None), (2, 2, 1), (3, 6, 1), (5, 15, 3), (9, 45, 7), (10, 0, None)]
)
def test_the_subsets_lack_one_or_two_members(members: int, modes: int, smallest: int | None) -> None:
    found = degraded_subsets(tuple("abcdefghij"[:members]))
    assert (len(found), min(map(len, found), default=None)) == (modes, smallest)
    assert len(set(found)) == len(found) <= MOST_MODES


Change = Callable[[Json], object]
BUDGET = {
    "max_wrong": 0.1,
    "confidence": 0.9,
    "coverage": 0.9,
    "fitted_on": "x",
    "labels": {"viral": {"set_from": 0.0, "answer_from": None, "cases": 0, "answered": 0, "wrong": 0}},
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(members=[]), r"degraded\[0\].members must be a list of 1 or more names"),
        (lambda m: m.update(members=["depthwise", "plain"]), r"members must be a part of .* in this order"),
        (lambda m: m.update(members=list(NAMES)), r"members must be a part of"),
        (lambda m: m.update(members=["plain", "ghost"]), r"members must be a part of"),
        (lambda m: m.update(members=["plain", 3]), r"members must be a part of"),
        (lambda m: m.update(members=["plain"]), r"combination.member_temperatures must be 1 numbers"),
        (lambda m: m["combination"].update(activation="sigmoid"), r"activation must be \"softmax\", as of all members"),
        (lambda m: m["decision"]["thresholds"].update(ghost=0.5), r"decision.thresholds must be of labels among"),
        (lambda m: m.update(budget=BUDGET), r"degraded\[0\].budget must be there where the bundle has one"),
        (lambda m: m.update(guard="ghost"), r"guard must be null or one of"),
        (lambda m: m.update(guard=3), r"guard must be a printable text"),
        (lambda m: m.update(measured_on=" "), r"measured_on must be a printable text"),
        (lambda m: m["figures"].update(images=0), r"degraded\[0\].figures.images must be a whole number, 1 or more"),
        (lambda m: m["figures"].update(macro_f1=1.5), r"figures.macro_f1 must be a number from 0 to 1, got 1.5"),
        (lambda m: m["figures"].update(macro_auc="x"), r"figures.macro_auc must be a number from 0 to 1, or null"),
        (lambda m: m["figures_of_all"].update(answered={"hits": 3, "n": 2}), r"answered.hits must be at most n = 2"),
        (lambda m: m["figures"]["sensitivity"].update(n=0), r"figures.sensitivity.n must be a whole number, 1 or more"),
        (lambda m: m.update(more=1), r"degraded\[0\].more is not a key of this format"),
        (lambda m: m.pop("figures"), r"degraded\[0\].figures is missing"),
    ],
)
def test_a_wrong_mode_is_named_by_its_key(document: Json, change: Change, message: str) -> None:
    change(document["degraded"][0])
    with pytest.raises(BundleError, match=message):
        Manifest.from_json(document)


def test_modes_are_a_list_without_repetition(document: Json) -> None:
    first = document["degraded"][0]
    with pytest.raises(BundleError, match=r"degraded\[1\].members must be other members than every mode before"):
        Manifest.from_json({**document, "degraded": [first, first]})
    with pytest.raises(BundleError, match="degraded must be a list of at most 45"):
        Manifest.from_json({**document, "degraded": [first] * 46})
    with pytest.raises(BundleError, match="degraded must be a list of 1 or more, or absent"):
        Manifest.from_json({**document, "degraded": []})
    with pytest.raises(BundleError, match='degraded must be a list, got "x"'):
        Manifest.from_json({**document, "degraded": "x"})


def test_a_budget_of_the_bundle_needs_one_of_each_mode(document: Json) -> None:
    document["budget"] = BUDGET
    with pytest.raises(BundleError, match=r'degraded\[0\].budget must be .*got "none"'):
        Manifest.from_json(document)


def test_figures_without_an_area_have_one_less(bundle: Bundle) -> None:
    mode = bundle.manifest.degraded[0]
    unknown = replace(mode, figures=replace(mode.figures, macro_auc=None, sensitivity=None))
    assert sorted(unknown.figures.by_name()) == ["macro_f1", "specificity"]
    assert "macro-F1 0.800 (0.900), covid-19 specificity" in unknown.cost_in_words()
    assert type(unknown).from_json(json.loads(json.dumps(unknown.as_json()))) == unknown
