"""Figures compared with scikit-learn and by hand, and properties of their intervals."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score, matthews_corrcoef, roc_auc_score

from training.evaluation.metrics import (
    Bootstrap,
    Predictions,
    auc,
    auc_figure,
    bootstrap,
    confusion,
    f1_scores,
    figures,
    proportion,
)
from training.json_records import as_json

LABELS = ("normal", "viral", "covid-19")


def _predictions(seed: int = 0, n: int = 200) -> Predictions:
    rng = np.random.default_rng(seed)
    true_labels = rng.integers(0, 3, n)
    scores = rng.random((n, 3)) + 0.7 * np.eye(3)[true_labels]
    probabilities = scores / scores.sum(axis=1, keepdims=True)
    patients = np.array([f"p{i // 2}" for i in range(n)])
    return Predictions(
        true=true_labels, predicted=probabilities.argmax(axis=1), probabilities=probabilities, patients=patients
    )


@given(st.integers(0, 10_000), st.integers(5, 60))
def test_auc_and_f1_are_scikit_learns(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    scores, positive = rng.integers(0, 6, n) / 5, np.arange(n) % 3 == 0
    weights = rng.integers(1, 4, n).astype(float)
    assert auc(scores, positive) == pytest.approx(roc_auc_score(positive, scores))
    assert auc(scores, positive, weights) == pytest.approx(roc_auc_score(positive, scores, sample_weight=weights))
    true_labels, predicted = rng.integers(0, 3, n), rng.integers(0, 3, n)
    expected = f1_score(true_labels, predicted, labels=range(3), average=None, zero_division=0)
    assert f1_scores(confusion(true_labels, predicted, 3)) == pytest.approx(expected)


def test_auc_without_positives_is_not_a_number() -> None:
    assert math.isnan(auc(np.array([0.1, 0.2]), np.array([False, False])))


def test_a_share_has_the_exact_interval() -> None:
    # R20's 0.9972 of 504 images, recomputed: exact gives [0.9876, 0.9998] (Wald, as printed there, [0.9925, 1.0]).
    figure = proportion(round(0.9972 * 504), 504)
    assert (round(figure.low, 3), round(figure.high, 3)) == (0.989, 1.0)
    everything = proportion(44, 44)
    assert (everything.value, everything.high) == (1.0, 1.0)
    assert everything.low == pytest.approx(0.025 ** (1 / 44))
    assert as_json(proportion(0, 0)) == {"value": None, "low": None, "high": None, "n": 0, "hits": 0}


def test_the_figures_of_a_set_by_hand() -> None:
    true_labels = np.array([0, 0, 0, 1, 1, 2])
    predicted = np.array([0, 0, 1, 1, 2, 2])
    predictions = Predictions(
        true=true_labels,
        predicted=predicted,
        probabilities=np.eye(3)[predicted] * 0.8 + 0.2 / 3,
        patients=np.array(list("aabbcc")),
    )
    found = figures(predictions, LABELS, Bootstrap(seed=0, resamples=50))
    assert (found.images, found.patients) == (6, 3)
    assert found.confusion == ((2, 1, 0), (0, 1, 1), (0, 0, 1))
    normal = found.labels["normal"]
    assert (normal.precision.hits, normal.precision.n) == (2, 2)
    assert (normal.recall.hits, normal.recall.n) == (2, 3)
    assert (normal.specificity.hits, normal.specificity.n) == (3, 3)
    assert normal.f1.value == pytest.approx(0.8)
    assert found.accuracy.value == pytest.approx(4 / 6, abs=1e-4)
    assert found.mcc == pytest.approx(matthews_corrcoef(true_labels, predicted))
    json.dumps(as_json(found), allow_nan=False)


def test_intervals_contain_their_values_and_a_seed_repeats_them() -> None:
    found, repeated = (figures(_predictions(), LABELS, Bootstrap(seed=1, resamples=200)) for _ in range(2))
    assert found == repeated
    for figure in (found.macro_f1, found.macro_auc, *(row.auc for row in found.labels.values())):
        assert figure.low < figure.value < figure.high


def test_two_images_of_a_patient_do_not_count_as_independent() -> None:
    predictions = _predictions(n=120)
    twice = {k: np.concatenate([v, v]) for k, v in vars(predictions).items()}

    def width(patients: np.ndarray) -> float:
        figure = auc_figure(
            twice["probabilities"][:, 2], twice["true"] == 2, patients, Bootstrap(seed=0, resamples=400)
        )
        return figure.high - figure.low

    own = np.array([f"q{i}" for i in range(240)])
    assert width(twice["patients"]) > 1.2 * width(own)


def test_the_bootstrap_finds_the_spread_of_a_mean() -> None:
    values = np.random.default_rng(0).normal(0, 1, 400)
    patients = np.arange(400).astype(str)

    def mean(weights: np.ndarray | None) -> np.ndarray:
        return np.array([np.average(values, weights=weights)])

    (figure,) = bootstrap(mean, patients, Bootstrap(seed=0, resamples=1000))
    assert figure.high - figure.low == pytest.approx(2 * 1.96 / 20, rel=0.15)


def test_predictions_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="one length"):
        Predictions(
            true=np.zeros(2, int),
            predicted=np.zeros(3, int),
            probabilities=np.zeros((2, 3)),
            patients=np.array(["a", "b"]),
        )


def test_macro_figures_are_of_the_labels_that_the_set_has() -> None:
    """A label without images has no F1: as 0 it would only lower the mean."""
    p = _predictions()
    kept = p.only(p.true != 2)
    found = figures(kept, LABELS, Bootstrap(seed=0, resamples=20))
    own = [found.labels[name].f1.value for name in LABELS[:2]]
    assert found.macro_f1.value == pytest.approx(np.mean(own))
    assert found.macro_auc.value == pytest.approx(np.mean([found.labels[name].auc.value for name in LABELS[:2]]))
    expected = f1_score(kept.true, kept.predicted, labels=[0, 1], average="macro")
    assert found.macro_f1.value == pytest.approx(expected)
