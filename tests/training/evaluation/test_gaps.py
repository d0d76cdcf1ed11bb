"""Gaps between groups of adults: counts by view, age band and sex; children take no part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from training.data.records import Record
from training.evaluation.gaps import gaps


def _record(label: str, **values: Any) -> Record:
    own = {"view": "PA", "adult": True, **values}
    return Record(path=Path("x"), key="x", patient="x", label=label, source="a", finding="x", **own)


def test_figures_by_view_age_and_sex() -> None:
    records = [
        _record("covid-19", view="AP Supine", age_years=59.9, sex="F"),
        _record("covid-19", view="AP", age_years=60.0, sex="M"),
        _record("normal", view="AP", age_years=85.0, sex="M"),
        _record("normal", view="unknown"),
        _record("viral", view="PA", age_years=18.0),
        _record("normal", adult=False, age_years=4.0, sex="F"),
    ]
    called = np.array([True, False, True, False, False, True])
    found = gaps(records, "covid-19", called)
    views = {
        name: (f.found.hits, f.found.n, f.of_normals.hits, f.of_normals.n, f.specificity.n)
        for name, f in found["view"].items()
    }
    assert views == {"AP": (1, 2, 0, 1, 1), "PA": (0, 0, 0, 0, 1), "not stated": (0, 0, 1, 1, 1)}
    assert {name: (f.found.hits, f.found.n) for name, f in found["age"].items()} == {
        "40 to 59": (1, 1),
        "60 to 79": (0, 1),
        "80 or more": (0, 0),
        "18 to 39": (0, 0),
        "not stated": (0, 0),
    }
    assert {name: f.specificity.n for name, f in found["sex"].items()} == {"F": 0, "M": 1, "not stated": 2}
