"""Limits of scores by what they refuse of good images."""

from __future__ import annotations

import numpy as np
import pytest

from training.recipes.checker.limits import ALLOWED, age_checks, limit_for, score_checks


@pytest.mark.parametrize(("allowed", "refused"), [(0.0, 0), (0.004, 4), (0.0049, 4), (0.5, 500)])
def test_no_more_than_the_allowed_share_is_refused_and_not_much_less(allowed: float, refused: int) -> None:
    scores = np.random.default_rng(0).permutation(np.linspace(0, 0.9, 1000))
    assert (scores >= limit_for(scores, allowed)).sum() == refused


def test_equal_scores_are_not_refused_together() -> None:
    scores = np.r_[np.full(10, 0.8), np.zeros(990)]
    assert (scores >= limit_for(scores, 0.005)).sum() == 0


def test_all_codes_together_may_refuse_at_most_one_in_a_hundred() -> None:
    assert sum(ALLOWED.values()) <= 0.01


def test_no_probability_below_one_half_is_a_limit_and_a_margin_is_added_to_the_logit() -> None:
    good = {code: np.linspace(0, 0.1, 100) for code in ALLOWED} | {"cut_off": np.array([0.6]), "photo": np.array([0.6])}
    limits = {check.code: check.limit for check in score_checks(good)}
    assert limits["not_chest"] == 0.5
    assert limits["photo"] == pytest.approx(0.6, abs=2e-4)
    assert limits["cut_off"] == pytest.approx(1 / (1 + np.exp(-1) * 0.4 / 0.6), abs=2e-4)
    assert limits["unfamiliar"] == pytest.approx(0.1, abs=2e-4)  # a distance


def test_a_perfect_score_still_leaves_a_limit_that_can_be_reached() -> None:
    good = {code: np.ones(10) for code in ALLOWED}
    assert all(check.limit <= 1 for check in score_checks(good) if check.code != "unfamiliar")


def test_ages_refuse_one_in_a_hundred_of_those_who_are_expected() -> None:
    adults, children = np.linspace(0, 0.5, 1000), np.linspace(0.3, 1, 1000)
    child, adult = age_checks(adults, children)
    assert sum(child.holds(score) for score in adults) == 10
    assert sum(adult.holds(score) for score in children) == 10
    assert (child.score, adult.score, adult.below) == ("child", "child", True)
