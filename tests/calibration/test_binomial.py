"""Exact binomial bounds, compared with SciPy and statsmodels."""

import pytest

from cxr_edge.ops.binomial import at_most, exact_interval, least_cases, most_wrong, upper_bound

stats = pytest.importorskip("scipy.stats", reason="without training's packages there is nothing to compare with")
proportion = pytest.importorskip("statsmodels.stats.proportion")


@pytest.mark.parametrize("n", [1, 2, 7, 50, 400])
@pytest.mark.parametrize("share", [0.001, 0.05, 0.5, 0.97])
def test_tails_are_scipys(n, share):
    for hits in {0, 1, n // 3, n - 1, n}:
        assert at_most(hits, n, share) == pytest.approx(stats.binom.cdf(hits, n, share), abs=1e-11)


def test_tails_of_certain_counts():
    assert at_most(-1, 5, 0.5) == 0
    assert (at_most(2, 5, 0.0), at_most(2, 5, 1.0), at_most(5, 5, 1.0)) == (1, 0, 1)


@pytest.mark.parametrize(("hits", "n"), [(0, 1), (0, 45), (3, 60), (60, 60), (211, 1097)])
def test_bounds_are_clopper_and_pearsons(hits, n):
    assert exact_interval(hits, n) == pytest.approx(proportion.proportion_confint(hits, n, method="beta"), abs=1e-9)
    expected = 1.0 if hits == n else stats.beta.ppf(0.9, hits + 1, n - hits)
    assert upper_bound(hits, n, 0.9) == pytest.approx(expected, abs=1e-9)


def test_impossible_counts_are_refused():
    with pytest.raises(ValueError, match="3 of 2"):
        upper_bound(3, 2, 0.9)


def test_45_faultless_cases_show_5_percent_with_90_percent_confidence():
    assert least_cases(0.05, 0.9) == 45
    assert (most_wrong(44, 0.05, 0.9), most_wrong(45, 0.05, 0.9)) == (None, 0)
    assert most_wrong(least_cases(0.05, 0.9, wrong=3) - 1, 0.05, 0.9) == 2
    assert most_wrong(least_cases(0.05, 0.9, wrong=3), 0.05, 0.9) == 3


@pytest.mark.parametrize("n", [45, 100, 500])
def test_one_more_wrong_case_would_show_less(n):
    most = most_wrong(n, 0.05, 0.9)
    assert upper_bound(most, n, 0.9) <= 0.05 < upper_bound(most + 1, n, 0.9)
