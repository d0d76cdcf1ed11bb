"""Test whether a stream of numbers continues a reference sample: ranks come in, evidence against it comes out.

For each statistic, the rank of a new value among the reference and the values before it, ties broken at random, is uniform and
independent of the earlier ranks if reference and stream are exchangeable: a conformal p-value (Vovk et al., Testing Randomness
Online, 2021). A gambler who bets against uniformity at fair odds cannot expect to win; by Ville's inequality the probability that
his wealth ever reaches c times the stake is at most 1/c, however often one looks. Here he divides the stake over fixed bets, and
half of it over later starts, so that a change after a long quiet time is noticed too, when earlier bets have lost their stake.
The caller gives each statistic its part of the permitted false alarms, which holds however they depend on each other; the mean of
their wealths would not do, since each game is fair only for one who does not see the others.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import numpy.typing as npt

__all__ = ["BINS", "EPOCH_EXAMS", "START_EVERY", "bet_table", "epoch_share", "later_stake", "play", "prior"]

BINS = 64  # of the p-value: every bet pays by the bin
EPOCH_EXAMS = 4000  # then the comparison begins again with the reference alone, so that memory is bounded
START_EVERY = 25  # exams from one later start to the next

Floats = npt.NDArray[np.float64]

_FIRST_START = 0.5  # part of the stake that is bet from the epoch's first exam on
_SHIFTS = (0.3, 0.6, 1.0, 1.7, 3.0)  # of the mean, in standard deviations, to either side
_SPREADS = (0.5, 2.0)  # of the standard deviation, as a factor
_WINDOWS = (4, 8, 16)  # the p-value in one of so many equal parts: a discrete value becomes more frequent
_WINDOW_PART = 0.75  # of the stake of such a bet that is on its window; the rest is kept
_PRIOR = {"shift": 0.6, "spread": 0.1, "window": 0.3}  # parts of the stake
_LARGEST, _SMALLEST = 1e100, 1e-100  # of a wealth: what is beyond is cut off, which only lowers it


def _normal_masses(mean: float, deviation: float) -> Floats:
    """Return, per bin of p, the probability under a normal distribution whose p-values are taken by the standard one."""
    standard, moved = NormalDist(), NormalDist(mean, deviation)
    inner = [moved.cdf(standard.inv_cdf(k / BINS)) for k in range(1, BINS)]
    return np.diff(np.array([0.0, *inner, 1.0]))


def _window_masses(parts: int, position: int) -> Floats:
    masses = np.full(BINS, (1 - _WINDOW_PART) / BINS)
    width = BINS // parts
    masses[position * width : (position + 1) * width] += _WINDOW_PART / width
    return masses


def _bets() -> tuple[Floats, Floats]:
    kinds = {
        "shift": [_normal_masses(sign * shift, 1.0) for shift in _SHIFTS for sign in (-1, 1)],
        "spread": [_normal_masses(0.0, spread) for spread in _SPREADS],
        "window": [_window_masses(parts, position) for parts in _WINDOWS for position in range(parts)],
    }
    table = np.array([masses for bets in kinds.values() for masses in bets]) * BINS
    parts = [_PRIOR[kind] / len(bets) for kind, bets in kinds.items() for _ in bets]
    return np.ascontiguousarray(table.T), np.array(parts)


_TABLE: Floats
_STAKES: Floats
_TABLE, _STAKES = _bets()


def bet_table() -> Floats:
    """Return what each bet pays per unit, by bin (BINS, bets); the mean over bins is 1: fair odds."""
    return np.array(_TABLE)


def prior() -> Floats:
    """Return the part of the stake on each bet (bets,); their sum is 1."""
    return np.array(_STAKES)


def start(statistics: int) -> Floats:
    """Return the wealth (statistics, bets) at the beginning of an epoch."""
    return np.tile(_FIRST_START * _STAKES, (statistics, 1))


def later_stake(exam: int) -> float:
    """Return the part of the stake that is bet from this exam of the epoch on (0 is the first); their sum is at most 1."""
    starts = EPOCH_EXAMS // START_EVERY - 1
    return (1 - _FIRST_START) / starts if exam > 0 and exam % START_EVERY == 0 else 0.0


def play(wealth: Floats, p_values: Floats, exam: int) -> Floats:
    """Bet on one exam. Changes `wealth` (statistics, bets), and returns its sum over the bets (statistics,).

    p_values: (statistics,), in 0..1. exam: its number in the epoch, from 0.
    """
    stake = later_stake(exam)
    if stake:
        wealth += stake * _STAKES
    wealth *= _TABLE[np.minimum((p_values * BINS).astype(np.intp), BINS - 1)]
    np.minimum(wealth, _LARGEST, out=wealth)
    wealth[wealth < _SMALLEST] = 0.0
    return np.asarray(wealth.sum(axis=1))


def epoch_share(epoch: int) -> float:
    """Return the part of the permitted false alarms that epoch 0, 1, ... may use up: 1/2, 1/6, 1/12, ... with sum 1."""
    return 1.0 / ((epoch + 1) * (epoch + 2))
