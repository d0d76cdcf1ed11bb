"""Floors of watched groups: met by the whole interval only, too few images told, and an error unless the option is given."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from cxr_edge.errors import InputError
from training.data.guard import Guard, Subgroup
from training.evaluation.finding_results import FindingGroup, FindingsEvaluation, GroupFinding
from training.evaluation.floors import Floor, Status, check_floors, floors_of, floors_section, least_images
from training.evaluation.metrics import Figure, proportion
from training.evaluation.pages import safety_section
from training.evaluation.results import Evaluation, Safety
from training.json_records import as_json, from_json


def floor_of(hits: int, n: int, least: float) -> Floor:
    return Floor(name="adults", what="not called covid-19", figure=proportion(hits, n), floor=least)


@pytest.mark.parametrize(
    ("hits", "n", "least", "status"),
    [
        (159, 202, 0.72, "met"),  # 0.787 [0.724, 0.841]
        (159, 202, 0.73, "not shown"),
        (159, 202, 0.79, "below"),
        (35, 35, 0.9, "too few"),
        (36, 36, 0.9, "met"),
        (35, 36, 0.9, "not shown"),
        (0, 0, 0.1, "too few"),
    ],
)
def test_a_floor_is_met_by_the_whole_interval(hits: int, n: int, least: float, status: Status) -> None:
    assert floor_of(hits, n, least).status == status


def test_the_least_number_of_images_follows_from_the_floor() -> None:
    assert [least_images(f) for f in (0.5, 0.9, 0.95, 0.99)] == [6, 36, 72, 368]
    for least in (0.5, 0.9, 0.95):
        n = least_images(least)
        assert proportion(n, n).low >= least
        assert proportion(n - 1, n - 1).low < least


GUARD = Guard(
    label="covid-19",
    groups={"adult_normals": Subgroup(label="normal", adult=True, floor=0.7)},
    watch={
        "ap": Subgroup(view="AP"),
        "children": Subgroup(adult=False, floor=0.9),
        "found_in_women": Subgroup(label="covid-19", sex="F", floor=0.6),
    },
)


def evaluation(women: Figure, guard: Guard = GUARD) -> Evaluation:
    """Return an evaluation of which only the guarded label's figures are real."""
    safety = Safety(
        groups={"adult_normals": {"nih": proportion(1, 2), "together": proportion(159, 202)}},
        watch={"ap": proportion(27, 40), "children": proportion(5, 5)},
        found={"found_in_women": women},
    )
    parts: dict[str, Any] = dict.fromkeys(f.name for f in fields(Evaluation))
    return Evaluation(**{**parts, "labels": ("normal", "covid-19"), "guard": guard, "safety": safety})


def test_every_group_with_a_floor_is_compared_with_its_figure() -> None:
    found = {f.name: (f.what, f.figure.hits, f.status) for f in floors_of(evaluation(proportion(7, 17)))}
    assert found == {
        "adult normals": ("not called covid-19", 159, "met"),
        "children": ("not called covid-19", 5, "too few"),
        "found in women": ("called covid-19", 7, "below"),
    }


def test_floors_that_are_not_met_stop_the_bundle_unless_the_option_is_given() -> None:
    results = evaluation(proportion(7, 17))
    with pytest.raises(InputError) as error:
        check_floors(results, below_floor=False)
    lines = str(error.value).splitlines()
    assert lines[0].startswith("no bundle was written")
    assert lines[1:3] == [
        "  children, not called covid-19: 1.000 [0.478, 1.000] (5/5); floor 0.9, too few images to tell: at least 36 are needed",
        "  found in women, called covid-19: 0.412 [0.184, 0.671] (7/17); floor 0.6, below it",
    ]
    assert "--below-floor" in lines[3]
    assert check_floors(results, below_floor=True) == tuple(line.strip() for line in lines[1:3])


def test_met_floors_stop_nothing() -> None:
    results = evaluation(proportion(90, 100))
    results = replace(
        results, safety=replace(results.safety, watch={"ap": proportion(0, 0), "children": proportion(99, 99)})
    )
    assert check_floors(results, below_floor=False) == ()
    page = "\n".join(floors_section(results))
    assert "| adult normals | not called covid-19 | 0.787 [0.724, 0.841] (159/202) | 0.7 | met |" in page
    assert "Too few" not in page
    assert "below floors of its own configuration" not in page


def test_the_card_says_in_words_what_was_written_below_a_floor() -> None:
    results = evaluation(proportion(7, 17))
    missed = check_floors(results, below_floor=True)
    page = "\n".join(safety_section(results, "Specificity of {}", missed))
    assert "| images with covid-19 | predicted covid-19 |" in page
    assert "| found in women | 0.412 [0.184, 0.671] (7/17) |" in page
    assert "| ap | 0.675 [0.509, 0.814] (27/40) |" in page
    assert "| found in women | not predicted" not in page
    assert "Too few images to tell: children 5 of 36." in page
    assert (
        f"**This bundle was written with `--below-floor`, below floors of its own configuration:** {missed[0]}." in page
    )


def test_without_floors_a_page_is_as_before() -> None:
    plain = Guard(
        label="covid-19", groups={"adult_normals": Subgroup(label="normal")}, watch={"ap": Subgroup(view="AP")}
    )
    results = evaluation(proportion(1, 2), plain)
    assert check_floors(results, below_floor=False) == ()
    assert list(floors_section(results)) == []


def test_results_keep_groups_and_figures_in_their_file() -> None:
    safety = evaluation(proportion(7, 17)).safety
    content = as_json(safety)
    assert content["sensitivity_found_in_women"]["hits"] == 7
    assert as_json(from_json(Safety, content)) == content
    stored = as_json(GUARD)
    assert stored["watch"]["ap"] == {"label": None, "adult": None, "without": [], "view": "AP"}
    assert from_json(Guard, stored) == GUARD


def findings(absent: Figure, present: Figure) -> FindingsEvaluation:
    own = GroupFinding(
        known=absent.n + present.n, present=present.n, auroc=absent, sensitivity=present, specificity=absent
    )
    group = FindingGroup(images=absent.n + present.n, patients=9, labels={"nodule": own})
    watch = {
        "with_nodule": Subgroup(label="nodule", view="AP", of="nodule", floor=0.5),
        "without": Subgroup(label="no finding", of="nodule", floor=0.8),
        "shown_only": Subgroup(view="PA"),
    }
    parts: dict[str, Any] = dict.fromkeys(f.name for f in fields(FindingsEvaluation))
    return FindingsEvaluation(**{**parts, "groups": {"watch": dict.fromkeys(watch, group)}, "watch": watch})


def test_floors_of_findings_are_of_the_finding_that_they_name() -> None:
    found = {f.name: (f.what, f.status) for f in floors_of(findings(proportion(95, 100), proportion(1, 10)))}
    assert found == {"with nodule": ("nodule found", "below"), "without": ("not called nodule", "met")}
