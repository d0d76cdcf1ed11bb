"""The bets are fair, and the stakes of bets, starts and epochs do not add up to more than one."""

import numpy as np
import pytest

from cxr_edge.drift import betting


def test_every_bet_is_fair_and_pays_something_in_every_bin():
    table = betting.bet_table()
    assert table.shape == (betting.BINS, betting.prior().size)
    np.testing.assert_allclose(table.mean(axis=0), 1, rtol=1e-12)
    assert (table > 0).all()


def test_the_stakes_add_up_to_one():
    later = sum(betting.later_stake(exam) for exam in range(betting.EPOCH_EXAMS))
    assert betting.prior().sum() == pytest.approx(1)
    assert betting.start(2).sum(axis=1) + later == pytest.approx([1, 1])
    assert later > 0.4
    assert sum(betting.epoch_share(epoch) for epoch in range(10_000)) == pytest.approx(1, abs=1e-3)


def test_the_wealth_is_the_product_of_what_the_bets_pay():
    p_values = np.random.default_rng(1).random((30, 2))
    wealth = betting.start(2)
    for exam, row in enumerate(p_values):
        total = betting.play(wealth, row, exam)
    pays = betting.bet_table()[(p_values * betting.BINS).astype(int)]  # (exams, statistics, bets)
    first = 0.5 * pays.prod(axis=0) @ betting.prior()
    second = betting.later_stake(25) * pays[25:].prod(axis=0) @ betting.prior()
    np.testing.assert_allclose(total, first + second, rtol=1e-12)


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.4), (0.6, 1.0), (0.3, 0.7), (0.25, 0.3)])
def test_p_values_in_a_part_of_the_range_make_the_wealth_grow(low, high):
    wealth, draws = betting.start(1), np.random.default_rng(2)
    totals = [betting.play(wealth, draws.uniform(low, high, 1), exam)[0] for exam in range(100)]
    assert totals[-1] > 1e4


def test_wealth_is_cut_off_at_both_ends():
    wealth = betting.start(1)
    for exam in range(600):
        total = betting.play(wealth, np.array([0.001]), exam)
    assert np.isfinite(total).all()
    assert total[0] >= 1e100
    assert (wealth == 0).any()
    betting.play(wealth, np.array([1.0]), 1)  # the end of the range is in the last bin
