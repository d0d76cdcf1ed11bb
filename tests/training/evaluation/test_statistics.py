"""The paper's columns and comparisons: its printed intervals reproduced, and each figure compared with another computation."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import matthews_corrcoef, precision_recall_fscore_support, roc_auc_score

from training.evaluation.metrics import Bootstrap, Predictions
from training.evaluation.statistics import (
    accuracy,
    clopper_pearson,
    delong,
    delong_test,
    macro_f,
    mcnemar,
    paired_difference,
    paper_row,
    wald,
)
from training.json_records import as_json
from training.recipes.r20.published import ENSEMBLES, MODALITY, PRUNED, TASK

LABELS = ("normal", "bacterial", "covid-19")
Printed = tuple[float, float, float]


def _predictions(n: int = 80, seed: int = 0, labels: int = 3) -> Predictions:
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(labels), n)
    return Predictions(
        true=rng.integers(0, labels, n),
        predicted=p.argmax(axis=1),
        probabilities=p,
        patients=np.array([f"p{i // 2}" for i in range(n)]),
    )


def _printed(rows: Mapping[object, tuple[str, ...]]) -> dict[object, Printed]:
    found = {}
    for name, row in rows.items():
        value, low, high = (float(v) for v in re.fullmatch(r"(\S+) \[(\S+), (\S+)\]", row[1]).groups())
        found[name] = (value, low, high)
    return found


MULTI = {k: v for k, v in TASK.items() if k[0] == "multiclass"}
ROWS = [
    *((f"Table 3, {k[1]}", v, 261) for k, v in _printed(MODALITY).items()),
    *((f"Table 4, {k}", v, 504) for k, v in _printed(TASK).items()),
    *((f"Table 5 and 7, {k}", v, 504) for k, v in _printed(ENSEMBLES).items()),
    *((f"Table 6, {k}", v, 504) for k, v in _printed(PRUNED).items()),
]


@pytest.mark.parametrize(("printed", "n"), [r[1:] for r in ROWS], ids=[r[0] for r in ROWS])
def test_code_preset_reproduces_the_printed_interval(printed: Printed, n: int) -> None:
    """Wald's interval of the AUC as a share of n, clipped at 1. The AUC is printed to four digits: its rounding moves the
    ends by as much, so that the last digit may be one off."""
    value, low, high = printed
    rebuilt = wald(value, n)
    assert (rebuilt.low, rebuilt.high) == pytest.approx((low, high), abs=1.5e-4)


def test_the_texts_clopper_pearson_interval_is_another_one() -> None:
    exact = clopper_pearson(0.9972, 504)
    assert (round(exact.low, 4), round(exact.high, 4)) == (0.9876, 0.9998)
    assert wald(0.9972, 504).low == pytest.approx(0.9925, abs=1e-4)


def test_ten_of_eleven_accuracies_are_of_504_images() -> None:
    rows = {**{("unpruned", k[1]): v for k, v in MULTI.items()}, **ENSEMBLES}
    assert len(rows) == 11
    off = {k for k, v in rows.items() if abs(round(float(v[0]) * 504) / 504 - float(v[0])) > 5.1e-5}
    assert off == {("stacking", "pruned")}


def test_an_invalid_share_is_refused() -> None:
    with pytest.raises(ValueError, match="no share"):
        clopper_pearson(12, 10)
    assert np.isnan(wald(0.5, 0).low)
    assert clopper_pearson(3, 10).hits == 3


@given(seed=st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_delong_is_the_placements_of_all_pairs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, positive = rng.integers(0, 6, 24) / 6, np.arange(24) < rng.integers(3, 20)
    found = delong(scores, positive)
    hits, misses = scores[positive], scores[~positive]
    pairs = (hits[:, None] > misses) + 0.5 * (hits[:, None] == misses)
    assert found.value == pytest.approx(roc_auc_score(positive, scores))
    variance = pairs.mean(axis=1).var(ddof=1) / len(hits) + pairs.mean(axis=0).var(ddof=1) / len(misses)
    assert found.variance == pytest.approx(variance, abs=1e-12)


def test_delong_compares_models_on_the_same_images() -> None:
    rng = np.random.default_rng(1)
    positive = np.arange(200) < 80
    good, bad = positive + rng.normal(0, 0.6, 200), rng.normal(0, 1, 200)
    assert delong_test(good, good, positive) == 1.0
    assert delong_test(good, bad, positive) < 1e-6
    assert delong_test(good, bad, positive) == pytest.approx(delong_test(bad, good, positive))
    assert np.isnan(delong_test(good, bad, np.ones(200, dtype=bool)))


def test_mcnemar_by_hand() -> None:
    """1 against 9: p = 2 (C(10,0) + C(10,1)) / 2**10."""
    a = np.array([True] + [False] * 9 + [True] * 5)
    b = np.array([False] + [True] * 9 + [True] * 5)
    found = mcnemar(a, b)
    assert (found.b, found.c) == (1, 9)
    assert found.p == pytest.approx(22 / 1024)
    with pytest.raises(ValueError, match="images"):
        mcnemar(a, b[1:])


def test_a_model_does_not_differ_from_itself() -> None:
    one = _predictions()
    for measure in (accuracy, macro_f):
        found = paired_difference(one, one, measure, Bootstrap(seed=0, resamples=20))
        assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="same images"):
        paired_difference(one, _predictions(seed=1), accuracy, Bootstrap(seed=0, resamples=5))


@given(seed=st.integers(0, 10_000), labels=st.integers(2, 5))
@settings(max_examples=25, deadline=None)
def test_the_columns_are_sklearns_and_weighted_sensitivity_is_accuracy(seed: int, labels: int) -> None:
    a = _predictions(n=60, seed=seed, labels=labels)
    row = paper_row(
        a,
        LABELS[:labels] if labels <= 3 else [str(i) for i in range(labels)],
        Bootstrap(seed=0, resamples=2),
        preset="sane",
    )
    assert row.sensitivity.weighted.value == pytest.approx(row.accuracy.value)
    assert row.mcc.value == pytest.approx(matthews_corrcoef(a.true, a.predicted))
    there = sorted(set(a.true.tolist()))
    for average in ("weighted", "macro"):
        expected = precision_recall_fscore_support(a.true, a.predicted, labels=there, average=average, zero_division=0)
        found = [getattr(getattr(row, k), average).value for k in ("precision", "sensitivity", "f")]
        assert found == pytest.approx(list(expected[:3]))


def test_a_class_that_does_not_occur_is_null_and_no_crash() -> None:
    a = _predictions()
    only = Predictions(
        true=np.zeros_like(a.true), predicted=a.predicted, probabilities=a.probabilities, patients=a.patients
    )
    row = as_json(paper_row(only, LABELS, Bootstrap(seed=0, resamples=5), preset="sane"))
    assert row["sensitivity"]["per_class"]["covid-19"]["value"] is None
    assert row["auc"]["per_class"]["covid-19"]["value"] is None
    assert row["accuracy"]["value"] is not None


def test_each_preset_names_its_interval() -> None:
    rows = {
        p: paper_row(_predictions(), LABELS, Bootstrap(seed=0, resamples=20), preset=p)
        for p in ("sane", "paper", "code")
    }
    assert "bootstrap" in rows["sane"].auc_interval
    assert "Clopper-Pearson" in rows["paper"].auc_interval
    assert "Wald" in rows["code"].auc_interval
    assert len({r.auc.weighted.low for r in rows.values()}) == 3
    assert len({r.auc.weighted.value for r in rows.values()}) == 1


def test_invalid_predictions_are_refused() -> None:
    a = _predictions()
    with pytest.raises(ValueError, match="2 labels"):
        paper_row(a, LABELS[:2], Bootstrap(seed=0, resamples=2), preset="sane")
    with pytest.raises(ValueError, match="preset"):
        paper_row(a, LABELS, Bootstrap(seed=0, resamples=2), preset="best")
    broken = Predictions(
        true=a.true, predicted=a.predicted, probabilities=a.probabilities * np.nan, patients=a.patients
    )
    with pytest.raises(ValueError, match="not finite"):
        paper_row(broken, LABELS, Bootstrap(seed=0, resamples=2), preset="sane")
