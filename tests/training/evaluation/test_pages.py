"""Tables of results: format of a figure, a dash for NaN, and pages with and without a guarded label."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from training.data.guard import Guard, Subgroup
from training.evaluation.metrics import bootstrap, proportion
from training.evaluation.pages import guard_auc, safety_table, unseen_as_markdown
from training.markdown import interval, table


def test_a_share_shows_its_counts_and_its_interval() -> None:
    assert interval(proportion(9, 10).as_json()) == "0.900 [0.555, 0.997] (9/10)"


def test_an_area_shows_no_counts() -> None:
    assert interval({"value": 0.5, "low": 0.25, "high": 0.75, "n": 4, "hits": None}) == "0.500 [0.250, 0.750]"


@pytest.mark.parametrize("figure", [None, proportion(0, 0).as_json()])
def test_a_figure_without_a_value_is_a_dash(figure: dict[str, object] | None) -> None:
    assert interval(figure) == "-"


def test_an_interval_without_bounds_is_a_dash() -> None:
    patients = np.array(["a", "b", "c"])
    missing = bootstrap(lambda weights: np.array([0.5 if weights is None else np.nan]), patients, seed=0, resamples=2)[
        0
    ]
    assert interval(missing.as_json()) == "0.500 [-]"


def test_a_table_is_markdown() -> None:
    assert table(["a", "b"], [["x", 1]]) == "| a | b |\n|---|---:|\n| x | 1 |"


_HALF = proportion(1, 2).as_json()


def _results(guard: Guard | None) -> dict[str, Any]:
    """Return the parts of an evaluation that the guarded label's tables need."""
    safety = {
        "specificity_adult_normals": {"shenzhen": proportion(3, 4).as_json(), "together": proportion(3, 4).as_json()},
        "specificity_tuberculosis": _HALF,
        "auc_among_adults": {"value": 0.75, "low": 0.5, "high": 1.0, "n": 8, "hits": None},
    }
    return {
        "labels": ["normal", "viral"],
        "guard": None if guard is None else asdict(guard),
        "safety": safety if guard else {},
        "left_out": ["shenzhen"],
        "preset": "sane",
        "split": "all images",
        "seed": 1,
    }


GUARD = Guard(
    label="viral",
    groups={"adult_normals": Subgroup(label="normal", adult=True)},
    watch={"tuberculosis": Subgroup(label="tuberculosis")},
    auc_groups={"adults": Subgroup(adult=True)},
)


def test_the_safety_table_names_the_guarded_label_and_its_subgroups() -> None:
    page = safety_table(_results(GUARD))
    assert page.splitlines()[0] == "| images without viral | not predicted viral |"
    assert "| adult normals, shenzhen | 0.750" in page
    assert "| tuberculosis (not a label of the bundle) | 0.500" in page
    assert "AUC of viral within subgroups" in guard_auc(_results(GUARD))
    assert "adults: 0.750 [0.500, 1.000]." in guard_auc(_results(GUARD))


@pytest.mark.parametrize("guard", [GUARD, None])
def test_the_unseen_page_has_the_specificity_of_a_guarded_label_only(guard: Guard | None) -> None:
    figure = {"said": {"normal": 1, "viral": 1}, **({"guard_specificity": _HALF} if guard else {})}
    page = unseen_as_markdown({**_results(guard), "members": {"plain": {"shenzhen/normal": figure}}})
    assert "| predicted normal | predicted viral |" in page
    assert ("not predicted viral" in page) == (guard is not None)
