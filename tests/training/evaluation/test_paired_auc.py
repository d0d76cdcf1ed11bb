"""Paired comparisons of AUC: the results of DeLong's test are in both papers' reports."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from tests.training.recipes.flannel.test_results import finished_run, results_of
from tests.training.recipes.flannel.test_tables import tables_of
from training.evaluation.auc_pages import auc_differences
from training.evaluation.metrics import Bootstrap, Predictions
from training.evaluation.statistics import AreaDifference, Comparison, compare, delong_test
from training.json_records import as_json

LABELS = ("normal", "bacterial", "covid-19")
TRUTH = np.random.default_rng(0).integers(0, 3, 120)


def _predictions(skill: float, seed: int, truth: np.ndarray = TRUTH) -> Predictions:
    rng = np.random.default_rng(seed)
    logits = skill * np.eye(3)[truth] + rng.normal(0, 1, (len(truth), 3))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    patients = np.array([f"p{i // 2}" for i in range(len(truth))])
    return Predictions(true=truth, predicted=p.argmax(axis=1), probabilities=p, patients=patients)


def _compared(first: Predictions, second: Predictions) -> Comparison:
    return compare("good", "bad", first, second, LABELS, Bootstrap(seed=1, resamples=50))


def test_differences_and_p_are_sklearns_and_delongs() -> None:
    good, bad = _predictions(2.0, 1), _predictions(0.3, 2)
    found = _compared(good, bad)
    for k, label in enumerate(LABELS):
        positive = good.true == k
        scores = [a.probabilities[:, k] for a in (good, bad)]
        areas = [roc_auc_score(positive, s) for s in scores]
        assert found.auc_by_label[label].difference == pytest.approx(areas[0] - areas[1])
        assert found.auc_by_label[label].p == delong_test(*scores, positive) < 0.01
    one_hot = np.eye(3)[TRUTH].ravel()
    areas = [roc_auc_score(one_hot, a.probabilities.ravel()) for a in (good, bad)]
    micro = found.micro_auc_difference
    assert micro.value == pytest.approx(areas[0] - areas[1], abs=1e-6)
    assert 0 < micro.low < micro.value < micro.high


def test_a_model_against_itself_and_a_label_that_does_not_occur() -> None:
    one = _predictions(1.0, 3, np.arange(60) % 2)
    found = _compared(one, one)
    assert found.auc_by_label["normal"] == AreaDifference(difference=0.0, p=1.0)
    assert as_json(found)["auc_by_label"]["covid-19"] == {"difference": None, "p": None}
    assert auc_differences([found], LABELS) == [
        ["0.000 [0.000, 0.000]", "+0.0000 (p 1)", "+0.0000 (p 1)", "-"]
    ]  # fmt: skip


def test_flannels_page_has_paired_aucs_and_old_results_have_none(tmp_path: Path) -> None:
    found = results_of(finished_run(tmp_path / "run"))
    page = tables_of(found)["comparisons-auc"]
    assert page.head == ("compared", "micro-AUC", *(f"AUC {label}" for label in found["labels"]))
    assert len(page.rows) == len(found["comparisons"])
    pair = found["comparisons"][0]
    cell = pair["auc_by_label"]["covid-19"]
    assert page.rows[0][2] == f"{cell['difference']:+.4f} (p {cell['p']:.3g})"
    assert "DeLong" in page.note
    before = [{k: v for k, v in c.items() if "auc" not in k} for c in found["comparisons"]]
    assert "comparisons-auc" not in tables_of({**found, "comparisons": before})
