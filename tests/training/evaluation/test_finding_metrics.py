"""Metrics of findings against scikit-learn, with unknown ones left out, and their intervals."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import average_precision_score, f1_score, log_loss, recall_score, roc_auc_score, roc_curve
from statsmodels.stats.proportion import proportion_confint

from training.evaluation.finding_metrics import (
    FindingPredictions,
    average_precision,
    expected_calibration_error,
    findings_figures,
    masked_log_loss,
    sensitivity_at,
)
from training.evaluation.metrics import Bootstrap, ranks

DRAWS = Bootstrap(seed=1, resamples=40)
LABELS = ("a", "b", "c")


def _predictions(n: int = 200, *, seed: int = 0) -> FindingPredictions:
    """Scores with ties; a is half unknown, c is never present."""
    rng = np.random.default_rng(seed)
    truth = (rng.random((n, 3)) < [0.3, 0.1, 0.0]).astype(np.float32)
    p = np.round(np.clip(0.3 * truth + rng.random((n, 3)) * 0.7, 0, 1), 2)
    truth[::2, 0] = np.nan
    patients = np.array([f"p{i // 2}" for i in range(n)])
    return FindingPredictions(truth=truth, present=p >= 0.45, probabilities=p, patients=patients)


@pytest.mark.parametrize("weighted", [False, True])
def test_single_figures_equal_scikit_learns(weighted: bool) -> None:
    p = _predictions(400)
    y, s = p.truth[:, 1] == 1, p.probabilities[:, 1]
    w = np.random.default_rng(1).integers(0, 4, len(y)).astype(float) if weighted else np.ones(len(y))
    assert average_precision(ranks(s), y, w) == pytest.approx(average_precision_score(y, s, sample_weight=w))
    fpr, tpr, _ = roc_curve(y, s, sample_weight=w, drop_intermediate=False)
    assert sensitivity_at(ranks(s), y, w) == pytest.approx(tpr[fpr <= 0.1 + 1e-12].max())


def test_calibration_error_is_the_weighted_gap_of_scikit_learns_curve() -> None:
    rng = np.random.default_rng(0)
    s = rng.random(500)
    y = rng.random(500) < s**2
    found, mean = calibration_curve(y, s, n_bins=10)
    sizes = np.bincount(np.minimum((s * 10).astype(int), 9), minlength=10)
    expected = (np.abs(found - mean) * sizes[sizes > 0]).sum() / 500
    assert expected_calibration_error(s, y, np.ones(500)) == pytest.approx(expected)


def test_figures_are_over_the_images_in_which_a_finding_is_known() -> None:
    p = _predictions()
    figures = findings_figures(p, LABELS, DRAWS)
    for k, label in enumerate(LABELS[:2]):
        own = ~np.isnan(p.truth[:, k])
        y, s, called = p.truth[own, k], p.probabilities[own, k], p.present[own, k]
        row = figures.labels[label]
        assert (row.known, row.present, row.prevalence) == (own.sum(), y.sum(), pytest.approx(y.mean()))
        assert row.auroc.value == pytest.approx(roc_auc_score(y, s))
        assert row.auprc.value == pytest.approx(average_precision_score(y, s))
        assert row.f1.value == pytest.approx(f1_score(y, called))
        assert row.sensitivity.value == pytest.approx(recall_score(y, called))
        assert row.specificity.value == pytest.approx(recall_score(1 - y, ~called))
        assert row.sensitivity.low == pytest.approx(
            proportion_confint(int((called & (y == 1)).sum()), int(y.sum()), method="beta")[0]
        )
        assert row.auroc.low < row.auroc.value < row.auroc.high
        assert row.auroc.n == own.sum()
    assert figures.labels["a"].patients == 100
    assert np.isnan(figures.labels["c"].auroc.value)
    assert figures.labels["c"].specificity.n == 200


def test_macro_figures_are_means_over_findings_with_both_kinds() -> None:
    figures = findings_figures(_predictions(), LABELS, DRAWS)
    assert figures.findings == 2
    for name in ("auroc", "auprc", "sensitivity", "specificity", "sensitivity_at_90", "f1", "calibration_error"):
        values = [getattr(figures.labels[label], name).value for label in "ab"]
        assert getattr(figures, f"macro_{name}").value == pytest.approx(np.mean(values)), name


def test_the_log_loss_is_the_mean_over_known_findings() -> None:
    p = _predictions()
    losses = masked_log_loss(p.probabilities, p.truth)
    assert losses[0] == pytest.approx(
        np.mean(
            [log_loss([y], [s], labels=[0, 1]) for y, s in zip(p.truth[0, 1:], p.probabilities[0, 1:], strict=True)]
        )
    )
    unknown = np.full((2, 3), np.nan, np.float32)
    assert np.isnan(masked_log_loss(np.full((2, 3), 0.5), unknown)).all()


def test_an_unknown_cell_changes_nothing_whatever_is_predicted_for_it() -> None:
    p = _predictions()
    other = p.probabilities.copy()
    other[::2, 0] = 1.0
    changed = FindingPredictions(truth=p.truth, present=p.present, probabilities=other, patients=p.patients)
    assert (
        findings_figures(changed, ("a", "b", "d"), DRAWS).labels["a"]
        == findings_figures(p, ("a", "b", "d"), DRAWS).labels["a"]
    )


def test_a_patients_images_are_drawn_together() -> None:
    """Doubling each image of a patient leaves the intervals of drawn patients as they are."""
    p = _predictions(60)
    twice = FindingPredictions(
        truth=np.repeat(p.truth, 2, axis=0),
        present=np.repeat(p.present, 2, axis=0),
        probabilities=np.repeat(p.probabilities, 2, axis=0),
        patients=np.repeat(p.patients, 2),
    )
    one, two = (findings_figures(x, LABELS, DRAWS).labels["b"].auprc for x in (p, twice))
    assert (one.low, one.high) == pytest.approx((two.low, two.high))


def test_no_images_have_no_figures() -> None:
    p = _predictions()
    figures = findings_figures(p.only(np.zeros(200, dtype=bool)), LABELS, DRAWS)
    assert (figures.images, figures.findings) == (0, 0)
    assert np.isnan(figures.macro_auroc.value)
    assert np.isnan(figures.log_loss)
