"""Figures on unseen sources against counts by hand, scikit-learn and SciPy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from tests.training.data.test_splits import record
from training.data.guard import Guard, Subgroup
from training.evaluation.metrics import Bootstrap
from training.evaluation.unseen import UnseenImages, UnseenResults, UnseenScores, unseen_results, unseen_tables
from training.json_records import as_json, from_json

LABELS = ("covid-19", "normal", "tuberculosis")
GROUPS = {
    "adult_normals": Subgroup(label="normal", adult=True),
    "adult_abnormals": Subgroup(adult=True, without=("normal",)),
    "children": Subgroup(adult=False),
}
N = 90


def _images() -> UnseenImages:
    records = [replace(record(f"p{i}", i, LABELS[i % 3], f"site{i % 2}"), adult=True) for i in range(N)]
    return UnseenImages(
        records=records, patients=np.array([r.patient for r in records]), guard=Guard(label="covid-19", groups=GROUPS)
    )


@pytest.fixture(scope="module")
def methods() -> dict[str, UnseenScores]:
    rng, positive = np.random.default_rng(0), np.arange(N) % 3 == 0
    scores = {name: positive * gain + rng.normal(0, 1, N) for name, gain in (("good", 2.0), ("bad", 0.5))}
    return {name: UnseenScores(scores=s, called=s > 1) for name, s in scores.items()}


@pytest.fixture(scope="module")
def found(methods: dict[str, UnseenScores]) -> UnseenResults:
    return unseen_results(_images(), methods, [("good", "bad")], Bootstrap(seed=1, resamples=200))


def test_areas_are_of_the_label_against_each_subgroup_with_images(
    found: UnseenResults, methods: dict[str, UnseenScores]
) -> None:
    assert set(found.methods["good"].auc) == {"adult_normals", "adult_abnormals"}  # there are no children
    rows = np.arange(N) % 3 != 2
    expected = roc_auc_score(np.arange(N)[rows] % 3 == 0, methods["bad"].scores[rows])
    assert found.methods["bad"].auc["adult_normals"].value == pytest.approx(expected, rel=1e-12)


def test_calls_are_counted_by_source_and_label(found: UnseenResults, methods: dict[str, UnseenScores]) -> None:
    assert found.images["site0, normal"] == 15
    mine = [i for i in range(N) if i % 2 == 0 and i % 3 == 1]
    figure = found.methods["good"].called["site0, normal"]
    assert (figure.hits, figure.n) == (int(methods["good"].called[mine].sum()), 15)


def test_a_pair_has_the_difference_and_both_tests(found: UnseenResults, methods: dict[str, UnseenScores]) -> None:
    pair = next(p for p in found.pairs if p.subgroup == "adult_abnormals")
    areas = {name: m.auc["adult_abnormals"].value for name, m in found.methods.items()}
    assert pair.auc_difference.value == pytest.approx(areas["good"] - areas["bad"], rel=1e-12)
    assert pair.auc_difference.low < pair.auc_difference.value < pair.auc_difference.high
    rows = np.arange(N) % 3 != 1
    positive = np.arange(N)[rows] % 3 == 0
    right = {name: m.called[rows] == positive for name, m in methods.items()}
    b, c = int((right["good"] & ~right["bad"]).sum()), int((~right["good"] & right["bad"]).sum())
    assert (pair.n, pair.mcnemar.b, pair.mcnemar.c) == (60, b, c)
    assert pair.mcnemar.p == pytest.approx(binomtest(min(b, c), b + c).pvalue, rel=1e-9)
    assert 0 < pair.delong_p < 0.05


def test_a_method_against_itself_differs_in_nothing(methods: dict[str, UnseenScores]) -> None:
    twice = {"a": methods["good"], "b": methods["good"]}
    pair = unseen_results(_images(), twice, [("a", "b")], Bootstrap(seed=1, resamples=20)).pairs[0]
    assert (pair.auc_difference.value, pair.delong_p, pair.mcnemar.p) == (0.0, 1.0, 1.0)


def test_tables_name_images_and_methods(found: UnseenResults) -> None:
    made = unseen_tables(from_json(UnseenResults, as_json(found), ""), ("one", "two"), {"good": "Good method"})
    assert made["unseen"].head[:3] == ("method", "AUC against adult normals", "AUC against adult abnormals")
    assert "site1, covid-19 (15)" in made["unseen"].head
    assert made["unseen"].rows[0][0] == "Good method"
    assert [row[0] for row in made["unseen-pairs"].rows] == ["Good method against bad"] * 2
