"""Figures, intervals and tests of differences against definitions written out: each fails if one step of them is changed."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import norm
from sklearn.metrics import f1_score, roc_auc_score

import training
from training.evaluation.metrics import (
    Bootstrap,
    Figure,
    Predictions,
    auc_figure,
    bootstrap,
    calibration_error,
    figures,
    interval,
    log_loss,
    mcc,
    share,
    unknown_figure,
)
from training.evaluation.statistics import (
    accuracy,
    compare,
    delong,
    delong_test,
    macro_f,
    micro_auc,
    paired_difference,
    paper_row,
    wald,
)
from training.recipes.config import load_config

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
LABELS = ("a", "b", "c")
DRAWS = Bootstrap(seed=1, resamples=60)


def predictions(seed: int, skill: float = 1.0, n: int = 90) -> Predictions:
    rng = np.random.default_rng(seed)
    true = np.array([0, 0, 0, 1, 1, 2])[np.arange(n) % 6]
    p = rng.dirichlet(np.ones(3), n) + skill * np.eye(3)[true]
    p /= p.sum(axis=1, keepdims=True)
    patients = np.array([f"p{i // 2}" for i in range(n)])
    return Predictions(true=true, predicted=p.argmax(axis=1), probabilities=p, patients=patients)


def given(true: list[int], predicted: list[int], labels: int = 4) -> Predictions:
    sides = {"true": np.array(true, dtype=int), "predicted": np.array(predicted, dtype=int)}
    p = np.eye(labels)[sides["predicted"]] * 0.7 + 0.3 / labels
    return Predictions(**sides, probabilities=p, patients=np.array([str(i) for i in range(len(true))]))


def placements(scores: Floats, positive: Flags) -> tuple[Floats, Floats]:
    """Return DeLong's placements: each positive among the negatives, each negative among the positives."""
    hits, misses = scores[positive], scores[~positive]
    pairs = (hits[:, None] > misses) + 0.5 * (hits[:, None] == misses)
    return pairs.mean(axis=1), pairs.mean(axis=0)


def delong_scores(seed: int) -> tuple[Floats, Floats, Flags]:
    rng = np.random.default_rng(seed)
    positive = np.arange(60) < 25
    first = positive + rng.normal(0, 1.0, 60)
    return first, first + rng.normal(0, 0.8, 60), positive


def test_delongs_interval_is_normal_and_clipped() -> None:
    scores, _, positive = delong_scores(0)
    found = delong(scores, positive)
    half = 1.959964 * math.sqrt(found.variance)
    assert (found.low, found.high, found.n) == (
        pytest.approx(found.value - half, abs=1e-6),
        pytest.approx(found.value + half, abs=1e-6),
        60,
    )
    nearly = np.arange(20.0)
    nearly[9], nearly[10] = 10, 9
    best, worst = delong(nearly, np.arange(20) >= 10), delong(-nearly, np.arange(20) >= 10)
    assert best.low < best.value < best.high == 1.0
    assert worst.high > worst.value > worst.low == 0.0


@pytest.mark.parametrize("seed", range(3))
def test_delongs_p_is_that_of_paired_placements(seed: int) -> None:
    first, second, positive = delong_scores(seed)
    (a_hits, a_misses), (b_hits, b_misses) = placements(first, positive), placements(second, positive)
    variance = np.var(a_hits - b_hits, ddof=1) / 25 + np.var(a_misses - b_misses, ddof=1) / 35
    z = (a_hits.mean() - b_hits.mean()) / math.sqrt(variance)
    assert delong_test(first, second, positive) == pytest.approx(2 * norm.sf(abs(z)))


def test_delong_at_its_limits() -> None:
    order = np.arange(8.0)
    positive = order >= 4
    assert delong_test(order, -order, positive) == 0.0  # both without variance, and they differ
    assert delong_test(order, order + 1, positive) == 1.0
    for hits, known in ((1, False), (2, True), (6, True), (7, False)):
        found = delong(order, order >= 8 - hits)
        assert found.value == 1.0
        assert math.isfinite(found.variance) is known, hits


def test_a_row_has_every_figure_in_its_place() -> None:
    p = predictions(0, 0.4)
    row = paper_row(p, LABELS, DRAWS, preset="sane")
    one_hot = np.eye(3)[p.true]
    assert (row.preset, row.images, row.patients) == ("sane", 90, 45)
    assert row.confusion == p.confusion(3)
    assert row.auc.micro.value == pytest.approx(roc_auc_score(one_hot.ravel(), p.probabilities.ravel()))
    for k, label in enumerate(LABELS):
        area = roc_auc_score(one_hot[:, k], p.probabilities[:, k])
        assert row.auc.per_class[label].value == pytest.approx(area)
        assert row.auc.delong[label].value == pytest.approx(area)
    spread = [row.mcc, row.auc.micro, row.auc.macro, row.f.macro, row.sensitivity.macro, row.precision.weighted]
    spread += [row.auc.per_class["a"], row.f.per_class["a"]]
    for figure in spread:
        assert figure.low < figure.value < figure.high


def test_labels_that_are_rare_or_absent_by_hand() -> None:
    """Of four labels a is true three times, b once and never predicted, c predicted once and never true, d neither."""
    row = paper_row(given([0, 0, 0, 1], [0, 0, 2, 0]), "abcd", DRAWS, preset="sane")

    def values(block: object) -> list[float]:
        return [round(block.per_class[k].value, 6) for k in "abcd"]  # type: ignore[attr-defined]

    np.testing.assert_equal(values(row.sensitivity), [round(2 / 3, 6), 0.0, math.nan, math.nan])
    np.testing.assert_equal(values(row.precision), [round(2 / 3, 6), 0.0, 0.0, math.nan])
    np.testing.assert_equal(values(row.f), [round(2 / 3, 6), 0.0, 0.0, math.nan])
    for block in (row.sensitivity, row.precision, row.f):
        assert block.macro.value == pytest.approx((2 / 3 + 0) / 2)
        assert block.weighted.value == pytest.approx((3 * 2 / 3 + 1 * 0) / 4)


def test_one_image_and_none() -> None:
    one = paper_row(given([1], [1]), "abcd", DRAWS, preset="sane")
    assert (one.sensitivity.weighted.value, one.precision.macro.value, one.f.per_class["b"].value) == (1.0, 1.0, 1.0)
    none = paper_row(given([], [], 4), "abcd", DRAWS, preset="sane")
    assert (none.images, none.accuracy.n, none.mcc.n, none.auc.micro.n) == (0, 0, 0, 0)
    assert math.isnan(none.auc.weighted.value)
    assert math.isnan(accuracy(given([], [], 4)))


def test_differences_have_the_measures_values_and_an_interval_by_patient() -> None:
    good, bad = predictions(0, 1.0), predictions(1, 0.2)
    expected = {
        accuracy: np.mean(good.true == good.predicted) - np.mean(bad.true == bad.predicted),
        macro_f: f1_score(good.true, good.predicted, average="macro")
        - f1_score(bad.true, bad.predicted, average="macro"),
        micro_auc: roc_auc_score(np.eye(3)[good.true].ravel(), good.probabilities.ravel())
        - roc_auc_score(np.eye(3)[bad.true].ravel(), bad.probabilities.ravel()),
    }
    for measure, value in expected.items():
        found = paired_difference(good, bad, measure, DRAWS)
        assert found.value == pytest.approx(value)
        assert found.low < found.value < found.high


def test_a_comparison_counts_where_one_model_alone_is_right() -> None:
    first, second = given([0, 0, 1, 1, 2], [0, 0, 1, 0, 0], 3), given([0, 0, 1, 1, 2], [0, 1, 0, 1, 0], 3)
    found = compare("one", "two", first, second, LABELS, Bootstrap(seed=0, resamples=5))
    assert (found.mcnemar.b, found.mcnemar.c, found.n) == (2, 1, 5)


def test_an_interval_has_the_quantiles_of_what_was_drawn() -> None:
    drawn: list[float] = []

    def measure(weights: Floats | None) -> Floats:
        value = 5.0 if weights is None else float(weights @ np.arange(8.0))
        drawn.append(value)
        return np.array([value])

    (found,) = bootstrap(measure, np.array(list("abcdefgh")), Bootstrap(seed=3, resamples=101))
    samples = [value for value in drawn if value != 5.0] + [5.0] * (drawn.count(5.0) - 1)
    assert len(samples) == 101
    assert (found.value, found.n) == (5.0, 8)
    assert (found.low, found.high) == tuple(np.quantile(samples, [0.025, 0.975]))


def test_a_models_figures_are_in_their_places() -> None:
    p = predictions(2, 0.4)
    found = figures(p, LABELS, DRAWS)
    f1 = f1_score(p.true, p.predicted, average=None)
    areas = [roc_auc_score(p.true == k, p.probabilities[:, k]) for k in range(3)]
    assert (found.macro_f1.value, found.macro_auc.value) == (pytest.approx(f1.mean()), pytest.approx(np.mean(areas)))
    for k, label in enumerate(LABELS):
        assert found.labels[label].f1.value == pytest.approx(f1[k])
        assert found.labels[label].auc.value == pytest.approx(areas[k])
    assert found.log_loss == pytest.approx(-np.log(p.probabilities[np.arange(90), p.true]).mean())
    assert found.calibration_error == calibration_error(p)


def test_log_loss_and_calibration_by_hand() -> None:
    """Right: one image at 0.65, one at 0.85, four at 0.9. Wrong: one at 1.0, which is in the bin of 0.9."""
    top, right = np.array([0.9, 0.9, 0.9, 0.9, 0.65, 0.85, 1.0]), np.array([1, 1, 1, 1, 1, 1, 0], bool)
    p = np.stack([top, 1 - top], axis=1)
    true, nobody = np.where(right, 0, 1), np.arange(7).astype(str)
    made = Predictions(true=true, predicted=np.zeros(7, int), probabilities=p, patients=nobody)
    assert calibration_error(made) == pytest.approx((0.35 + 0.15 + abs(4 * 0.1 - 1)) / 7)
    assert log_loss(p, true).tolist() == pytest.approx([-math.log(v) for v in (0.9, 0.9, 0.9, 0.9, 0.65, 0.85, 1e-6)])


def test_shares_near_0_and_1() -> None:
    assert wald(0.99, 10).high == 1.0
    assert wald(0.01, 10).low == 0.0
    above = share(1 + 2e-16 * 2, 10)
    assert (above.value, above.hits) == (1.0, None)
    with pytest.raises(ValueError, match="no share of 10"):
        share(1.0001, 10)
    assert mcc(np.array([[3.0, 0.0], [2.0, 0.0]])) == 0.0


def test_a_figure_is_printed_with_what_is_known() -> None:
    known = Figure(value=0.5, low=0.25, high=0.75, n=8)
    assert interval(known) == "0.500 [0.250, 0.750]"
    assert interval(Figure(value=0.5, low=0.25, high=0.75, n=8, hits=4)) == "0.500 [0.250, 0.750] (4/8)"
    assert interval(Figure(value=0.5, low=math.nan, high=math.nan, n=8)) == "0.500 [-]"
    assert interval(None) == interval(unknown_figure(3)) == "-"
    assert all(math.isnan(v) for v in (unknown_figure(3).value, unknown_figure(3).low, unknown_figure(3).high))


def test_predictions_of_some_images() -> None:
    p = predictions(0, n=6)
    some = p.only(np.array([True, False, True, False, False, True]))
    for name in ("true", "predicted", "probabilities", "patients"):
        np.testing.assert_array_equal(getattr(some, name), getattr(p, name)[[0, 2, 5]])


def test_no_scores_have_no_auc() -> None:
    none = auc_figure(np.zeros(0), np.zeros(0, bool), np.zeros(0, str), DRAWS)
    assert (none.n, math.isnan(none.value)) == (0, True)


def test_the_draws_of_a_recipe_are_those_of_its_configuration() -> None:
    config = load_config(Path(training.__file__).parent / "configs" / "starter.toml")
    assert Bootstrap.of(config) == Bootstrap(seed=config.seed, resamples=config.resamples)
