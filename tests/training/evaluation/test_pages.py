"""Tables of results: format of a figure, a dash for NaN, and pages with and without a guarded label."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from training.data.guard import Guard, Subgroup
from training.evaluation.metrics import Bootstrap, Figure, bootstrap, interval, proportion
from training.evaluation.pages import guard_auc, safety_table
from training.evaluation.results import Evaluation, Safety
from training.markdown import table


def test_a_share_shows_its_counts_and_its_interval() -> None:
    assert interval(proportion(9, 10)) == "0.900 [0.555, 0.997] (9/10)"


def test_an_area_shows_no_counts() -> None:
    assert interval(Figure(value=0.5, low=0.25, high=0.75, n=4)) == "0.500 [0.250, 0.750]"


@pytest.mark.parametrize("figure", [None, proportion(0, 0)])
def test_a_figure_without_a_value_is_a_dash(figure: Figure | None) -> None:
    assert interval(figure) == "-"


def test_an_interval_without_bounds_is_a_dash() -> None:
    patients = np.array(["a", "b", "c"])
    missing = bootstrap(
        lambda weights: np.array([0.5 if weights is None else np.nan]), patients, Bootstrap(seed=0, resamples=2)
    )[0]
    assert interval(missing) == "0.500 [-]"


def test_a_table_is_markdown() -> None:
    assert table(["a", "b"], [["x", 1]]) == "| a | b |\n|---|---:|\n| x | 1 |"


_HALF = proportion(1, 2)


def _results() -> Evaluation:
    """Return an evaluation with three parts only: labels, guarded label and safety."""
    areas = {"adults": Figure(value=0.75, low=0.5, high=1.0, n=8)}
    groups = {"adult_normals": {"shenzhen": proportion(3, 4), "together": proportion(3, 4)}}
    safety = Safety(groups=groups, watch={"tuberculosis": _HALF}, areas=areas)
    parts: dict[str, Any] = dict.fromkeys(f.name for f in fields(Evaluation))
    return Evaluation(**{**parts, "labels": ("normal", "viral"), "guard": GUARD, "safety": safety})


GUARD = Guard(
    label="viral",
    groups={"adult_normals": Subgroup(label="normal", adult=True)},
    watch={"tuberculosis": Subgroup(label="tuberculosis")},
    auc_groups={"adults": Subgroup(adult=True)},
)


def test_the_safety_table_names_the_guarded_label_and_its_subgroups() -> None:
    page = safety_table(GUARD, _results())
    assert page.splitlines()[0] == "| images without viral | not predicted viral |"
    assert "| adult normals, shenzhen | 0.750" in page
    assert "| tuberculosis (not a label of the bundle) | 0.500" in page
    assert "AUC of viral within subgroups" in guard_auc(GUARD, _results().safety)
    assert "adults: 0.750 [0.500, 1.000]." in guard_auc(GUARD, _results().safety)
