"""The change plan: its three headings, the limits of the gate, figures side by side, warnings, and decisions on images."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import pytest

from cxr_edge.bundle import Bundle, write_bundle
from cxr_edge.changes.figures import Figure, figure_rows
from cxr_edge.changes.images import compared_images
from cxr_edge.changes.plan import ChangePlan, change_plan
from cxr_edge.changes.protocol import Protocol, protocol
from cxr_edge.engines import BuildSettings
from cxr_edge.errors import InputError
from cxr_edge.specs.budget import ErrorBudget, LabelLimits
from cxr_edge.specs.combination import Decision
from tests.builders.toy_bundle import build_toy_bundle, toy_images

METRICS = {
    "split": "test patients",
    "images": 100,
    "accuracy": {"value": 0.9, "low": 0.1, "high": 0.99, "n": 100, "hits": 90},
    "f1": {"viral": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 100, "hits": None}},
    "lung_dice": None,
}
COVID = Decision(thresholds={"covid-19": 0.01}, uncertain_below=0.5, first=("covid-19",))


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    bundle = build_toy_bundle(tmp_path_factory.mktemp("old") / "b", checker=True)
    return write_bundle(bundle.root, replace(bundle.manifest, metrics=METRICS))


@pytest.fixture
def changed(old: Bundle, tmp_path: Path) -> Callable[..., Bundle]:
    def change(**changes: Any) -> Bundle:
        root = Path(shutil.copytree(old.root, tmp_path / "new"))
        return write_bundle(root, replace(old.manifest, **changes))

    return change


@pytest.fixture
def xrays(tmp_path: Path) -> Path:
    """Return a folder with a sub-folder for each of three labels, and a file that is none."""
    for label, (name, pixels) in zip(("normal", "bacterial", "covid-19"), toy_images().items(), strict=True):
        (tmp_path / "xrays" / label).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "xrays" / label / name), pixels)
    (tmp_path / "xrays" / "notes.txt").write_text("x", encoding="utf-8")
    return tmp_path / "xrays"


def warnings(plan: ChangePlan) -> str:
    return "; ".join(plan.impact.warnings)


def test_the_three_parts_have_the_names_of_the_guidance(old: Bundle, changed: Callable[..., Bundle]) -> None:
    plan = change_plan(old, new := changed(version="2"))
    lines = plan.lines()
    headings = ["1. Description of Modifications", "2. Modification Protocol", "3. Impact Assessment"]
    assert [line for line in lines if line in headings] == headings
    assert lines[1] == f"From toy 1 (SHA-256 of its manifest {old.digest})"
    assert lines[2] == f"To   toy 2 (SHA-256 of its manifest {new.digest})"
    assert list(plan.as_json()) == [
        "old", "new", "made", "cxr_edge", "description_of_modifications", "modification_protocol", "impact_assessment",
        "not_in_this_plan",
    ]  # fmt: skip
    assert "not a medical device" in " ".join(lines[-6:])
    json.dumps(plan.as_json())


def test_equal_bundles(old: Bundle) -> None:
    plan = change_plan(old, old)
    assert "Nothing: the manifests are equal in every key." in plan.lines()
    assert "  Changed verdicts: 0.000 [0.000, 0.708] (0/3), exact 95 % interval" in plan.lines()
    assert "taken over" not in warnings(plan)


def test_decisions_on_the_known_answers(old: Bundle, changed: Callable[..., Bundle]) -> None:
    said: list[str] = []
    plan = change_plan(old, changed(decision=COVID), say=said.append)
    assert plan.impact.decisions is not None
    assert plan.impact.decisions.changed.hits == 3
    assert said == ["screening 3 images with the fp32 networks of both"]
    assert "on drawings the checkers are left out" in warnings(plan)
    assert plan.impact.images.startswith("3 known answers (the new bundle's), which are drawings")


def test_decisions_on_a_folder(old: Bundle, changed: Callable[..., Bundle], xrays: Path) -> None:
    plan = change_plan(old, changed(decision=COVID), images=xrays)
    decisions = plan.impact.decisions
    assert decisions is not None
    assert plan.impact.images == f"4 files of {xrays}, 3 of them in folders named like labels"
    assert [p.source for p in decisions.failed] == [str(xrays / "notes.txt")]
    assert {r.of: (r.lost, r.gained) for r in decisions.right} == {
        "bacterial": (1, 0), "covid-19": (0, 1), "normal": (1, 0), "all": (2, 1),
    }  # fmt: skip
    assert "drawings" not in warnings(plan)
    assert "hold only if no network was trained on them, and no limit fitted to them" in warnings(plan)


def test_figures_that_were_taken_over_are_named(old: Bundle, changed: Callable[..., Bundle]) -> None:
    plan = change_plan(old, changed(decision=COVID))
    assert "both manifests state the same figures although outputs change: they were taken over" in warnings(plan)


def test_figures_of_other_images_are_named(old: Bundle, changed: Callable[..., Bundle]) -> None:
    plan = change_plan(old, changed(metrics={**METRICS, "images": 50}))
    assert "the figures are of other test images" in warnings(plan)
    assert "  images  100            50" in plan.lines()


def test_a_budget_and_a_reference_of_the_old_version_are_named(old: Bundle, changed: Callable[..., Bundle]) -> None:
    limits = LabelLimits(set_from=0.1, answer_from=0.0, cases=50, answered=40, wrong=4)
    budget = ErrorBudget(max_wrong=0.2, confidence=0.9, coverage=0.9, fitted_on="all", labels={"normal": limits})
    before = replace(old, manifest=replace(old.manifest, budget=budget))
    combination = replace(old.manifest.combination, temperature=3.0)
    plan = change_plan(before, changed(budget=budget, combination=combination))
    assert "the error budget is the old one although probabilities may change" in warnings(plan)
    row = next(r for r in plan.impact.figures if r.name == "budget, wrong answers normal")
    assert row.cells()[1].startswith("0.100 [0.028, 0.237] (4/40)")


def test_a_changed_intended_use_is_a_warning(old: Bundle, changed: Callable[..., Bundle]) -> None:
    assert "the intended use changed" in warnings(change_plan(old, changed(intended_use="Other.")))


def test_intervals_are_computed_from_counts(old: Bundle, changed: Callable[..., Bundle]) -> None:
    hits = {"value": 0.8, "low": 0, "high": 1, "n": 100, "hits": 80}
    rows = {r.name: r for r in figure_rows(old.manifest, changed(metrics={**METRICS, "accuracy": hits}).manifest)}
    assert rows["accuracy"].cells() == (
        "accuracy", "0.900 [0.824, 0.951] (90/100)", "0.800 [0.708, 0.873] (80/100)", "-0.100",
    )  # fmt: skip
    assert rows["f1 viral"].old == Figure(value=0.5, low=0.4, high=0.6, n=100)
    assert rows["f1 viral"].cells()[1] == "0.500 [0.400, 0.600] (n 100)"


def test_a_figure_of_one_side(old: Bundle, changed: Callable[..., Bundle]) -> None:
    rows = figure_rows(old.manifest, changed(metrics={}).manifest)
    assert [(r.name, r.new) for r in rows] == [("accuracy", None), ("f1 viral", None)]
    assert rows[0].cells()[2:] == ("-", "-")


def test_bundles_of_other_labels(old: Bundle, tmp_path: Path) -> None:
    new = build_toy_bundle(tmp_path / "findings", multi_label=True, segmenter=False)
    plan = change_plan(old, new)
    assert plan.impact.decisions is not None
    assert any("verdicts are compared as text" in note for note in plan.impact.decisions.notes)
    back = change_plan(new, old)
    assert back.impact.decisions is not None


def test_bundles_without_known_answers(tmp_path: Path) -> None:
    a, b = (build_toy_bundle(tmp_path / name, known_answers=False) for name in "ab")
    plan = change_plan(a, b)
    assert plan.impact.decisions is None
    assert "no image was screened" in warnings(plan)
    assert "none: neither bundle has known answers" in "\n".join(plan.lines())


def test_the_old_known_answers_are_used_where_the_new_bundle_has_none(old: Bundle, tmp_path: Path) -> None:
    new = build_toy_bundle(tmp_path / "new", known_answers=False)
    assert compared_images(old, new).description.startswith("3 known answers (the old bundle's)")


def test_findings_of_folders(tmp_path: Path) -> None:
    new = build_toy_bundle(tmp_path / "b", multi_label=True, known_answers=False)
    for name in ("nodule+effusion", "no finding", "fracture"):
        (tmp_path / "x" / name).mkdir(parents=True)
        (tmp_path / "x" / name / "a.png").write_bytes(b"x")
    true = compared_images(new, new, tmp_path / "x").true
    assert sorted(true.values()) == ["effusion+nodule", "no finding"]


def test_a_folder_without_files(old: Bundle, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="--images needs X-rays in it"):
        compared_images(old, old, tmp_path / "empty")
    with pytest.raises(InputError, match="--images takes a folder of X-rays, there is none at"):
        compared_images(old, old, tmp_path / "missing")


def shown(found: Protocol) -> dict[str, str]:
    return {test.name: test.passes for test in found.tests}


def test_the_protocol_has_the_limits_of_the_gate(old: Bundle) -> None:
    found = protocol(old.manifest, BuildSettings(max_loss=0.02), images="some images", max_changed=0.05)
    tests = shown(found)
    assert "same top label as its fp32 network on 94.0% of the images" in tests["each member"]
    assert (
        "at most 0.04 in the mean and 0.4 in any image; AUC lost at most 0.02 (from 50 images on)"
        in tests["each member"]
    )
    assert "same decision as the fp32 networks on 98.0% of the images; " in tests["all engines together"]
    assert "the verdict changes on 5.0% of the given files or less" in tests["old against new"]
    assert "mean overlap of the masks 0.940 or more" in tests["segmenter"]
    assert "within 0.001 of the manifest's" in tests["known answers"]
    assert found.lines()[0] == "The gate compares engines on some images; its settings: --max-loss 0.02."
    assert max(map(len, found.lines())) <= 120


def test_the_protocol_follows_the_bundle(tmp_path: Path) -> None:
    bundle = build_toy_bundle(tmp_path / "b", segmenter=False, multi_label=True, known_answers=False)
    tests = shown(protocol(bundle.manifest, BuildSettings(), images="", max_changed=0.1))
    assert "segmenter" not in tests
    assert "state of each finding" in tests["each member"]
    assert tests["known answers"] == "the bundle has none"
    limits = LabelLimits(set_from=0.1, answer_from=0.0, cases=50, answered=40, wrong=4)
    budget = ErrorBudget(max_wrong=0.2, confidence=0.9, coverage=0.9, fitted_on="all", labels={"normal": limits})
    with_budget = replace(build_toy_bundle(tmp_path / "c", known_answers=False).manifest, budget=budget)
    together = shown(protocol(with_budget, BuildSettings(), images="", max_changed=0.1))["all engines together"]
    assert "and answered or not as by them on 99.0% of the images" in together
