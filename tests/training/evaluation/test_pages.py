"""Tables of results: format of a figure, a dash for NaN, and pages with and without a guarded label."""

from __future__ import annotations

import numpy as np
import pytest

from training.evaluation.metrics import bootstrap, proportion
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
