"""Limits that move with the engines: by a known shift, with too few images, by noise, and for every kind of limit."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from cxr_edge.compiler.operating_point import LEAST_NEAR, FittedPoint, Outputs, fit_limit, fit_point
from cxr_edge.specs.budget import ErrorBudget, LabelLimits, OperatingPoint
from cxr_edge.specs.combination import Decision

Values = npt.NDArray[np.float64]

LABELS = ("normal", "sick")
SHIFT = -0.4  # in log odds


def scores(images: int = 200, seed: int = 0) -> Values:
    return np.random.default_rng(seed).uniform(0.02, 0.98, images)


def shifted(p: Values, by: float = SHIFT) -> Values:
    """Return probabilities whose log odds are `by` more."""
    return np.asarray(1 / (1 + (1 - p) / p * np.exp(-by)))


def changed(p: Values, q: Values, before: float, after: float) -> int:
    return int(((p >= before) != (q >= after)).sum())


@pytest.mark.parametrize("limit", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("images", [200, 5000])  # 2 to the 5000 is no float
def test_a_known_shift_moves_the_limit_by_as_much(limit: float, images: int) -> None:
    p = scores(images)
    moved = fit_limit(p, shifted(p), limit)
    assert moved == pytest.approx(shifted(np.array([limit]))[0], abs=1e-5)
    assert changed(p, shifted(p), limit, limit) > 5
    assert changed(p, shifted(p), limit, moved) == 0


def test_too_few_images_near_it_leave_a_limit_where_it_is() -> None:
    far = np.full(100, 0.999)
    near = np.linspace(0.45, 0.55, LEAST_NEAR)
    assert fit_limit(np.r_[far, near], np.r_[far, shifted(near)], 0.5) < 0.5
    assert fit_limit(np.r_[far, near[1:]], np.r_[far, shifted(near[1:])], 0.5) == 0.5


def test_a_limit_is_not_moved_where_more_images_would_change_sides() -> None:
    """Most probabilities near the limit fall, but those beside it, which it decides, do not."""
    far, beside = np.linspace(0.6, 0.7, 30), np.linspace(0.49, 0.499, 5)
    p, q = np.r_[far, beside], np.r_[shifted(far, -0.2), beside]
    assert fit_limit(p, q, 0.5) == 0.5
    assert fit_limit(far, shifted(far, -0.2), 0.5) == pytest.approx(shifted(np.array([0.5]), -0.2)[0], abs=1e-5)


def test_changes_in_both_directions_move_nothing() -> None:
    """Of 12 images 10 fall and 2 rise: by chance in 4 of 100 cases. Of 12, 11 and 1: in 6 of 1000."""
    p = np.linspace(0.3, 0.34, 12)
    for rising, moves in ((2, False), (1, True)):
        q = np.r_[shifted(p[:-rising]), shifted(p[-rising:], 0.01)]
        assert (fit_limit(p, q, 0.5) != 0.5) == moves


def test_rounding_moves_nothing() -> None:
    p = np.full(50, 0.5, np.float32)
    assert fit_limit(p, p - np.float32(3e-5), 0.5) == 0.5


def test_noise_without_a_shift_rarely_moves_a_limit() -> None:
    p, rng = scores(400), np.random.default_rng(1)
    moved = [fit_limit(p, shifted(p, rng.normal(0, 0.2, 400)), 0.5) for _ in range(200)]  # type: ignore[arg-type]
    assert sum(m != 0.5 for m in moved) <= 8  # 1 % are expected; 8 of 200 have a probability of 0.001
    assert all(abs(m - 0.5) < 0.02 for m in moved)


BUDGET = ErrorBudget(
    max_wrong=0.05,
    confidence=0.9,
    coverage=0.95,
    fitted_on="tests",
    labels={
        "normal": LabelLimits(set_from=0.25, answer_from=0.8, cases=100, answered=50, wrong=1),
        "sick": LabelLimits(set_from=0.0, answer_from=None, cases=10, answered=0, wrong=0),
    },
)
POINT = OperatingPoint(decision=Decision(thresholds={"sick": 0.3}, uncertain_below=0.6, first=("sick",)), budget=BUDGET)


def fitted(
    p: Values, q: Values, point: OperatingPoint = POINT, *, multi_label: bool = False, drawn: bool = False
) -> FittedPoint:
    """Fit on two labels, of which `p` and `q` are the second's probability by the reference and by the engines."""
    before, after = (np.stack([1 - v, v], axis=1).astype(np.float32) for v in (p, q))
    decided = np.stack([before[:, 1] < 0.3, before[:, 1] >= 0.3], axis=1)
    outputs = Outputs(labels=LABELS, multi_label=multi_label, reference=before, engines=after, decided=decided)
    return fit_point(point, outputs, drawn=drawn)


def test_every_limit_moves_with_the_probabilities_that_it_is_compared_with() -> None:
    p = scores(1000)
    found = fitted(p, shifted(p))
    limits = {limit.title: limit for limit in found.limits}
    assert set(limits) == {"threshold sick", "uncertain_below", "set_from normal", "answer_from normal"}
    assert found.moved
    lower, higher = shifted(np.array([0.3]))[0], shifted(np.array([0.25, 0.8]), -SHIFT)
    assert limits["threshold sick"].engines == pytest.approx(lower, abs=1e-4)
    assert [limits[f"{k} normal"].engines for k in ("set_from", "answer_from")] == pytest.approx(higher, abs=1e-4)
    point = found.point
    assert point.decision.thresholds == {"sick": limits["threshold sick"].engines}
    assert point.decision.first == ("sick",)
    assert point.budget is not None
    assert point.budget.labels["normal"].answer_from == limits["answer_from normal"].engines
    assert point.budget.labels["normal"].cases == 100, "what was counted on other images stays"
    assert point.budget.labels["sick"] == BUDGET.labels["sick"], "never answered, and never excluded, by any engine"
    assert OperatingPoint.from_json(point.as_json()) == point


def test_the_answers_limit_is_seen_on_images_decided_for_its_label_only() -> None:
    """At 0.2 `normal` is not decided: images near that limit say nothing of it."""
    low = BUDGET.labels["normal"].__class__(set_from=0.0, answer_from=0.2, cases=1, answered=1, wrong=0)
    point = OperatingPoint(
        decision=POINT.decision, budget=ErrorBudget(**{**BUDGET.__dict__, "labels": {"normal": low}})
    )
    p = np.linspace(0.7, 0.9, 100)
    found = {limit.title: limit for limit in fitted(p, shifted(p), point).limits}
    assert (found["answer_from normal"].near, found["answer_from normal"].moved) == (0, False)


def test_drawings_move_nothing() -> None:
    p = scores()
    found = fitted(p, shifted(p), drawn=True)
    assert not found.moved
    assert found.limits[0].changed == found.limits[0].changed_if_moved > 5


def test_equal_engines_keep_the_manifests_point() -> None:
    found = fitted(scores(), scores())
    assert not found.moved
    assert found.point == POINT
    assert {limit.changed for limit in found.limits} == {0}


def test_findings_without_a_threshold_of_their_own_have_one_half() -> None:
    point = OperatingPoint(decision=Decision(thresholds={}, uncertain_below=0.0), budget=None)
    found = fitted(scores(), shifted(scores()), point, multi_label=True)
    assert [limit.title for limit in found.limits] == ["threshold normal", "threshold sick"]
    assert found.point.decision.threshold_of("sick") == pytest.approx(shifted(np.array([0.5]))[0], abs=1e-5)
