"""Limit of a label's prediction sets: the probabilities of the true label of its cases in, a limit out.

Class-conditional split conformal prediction (Vovk 2012): each label's limit is of its own cases, so that a rare label is
covered as often as a common one. A marginal limit would hide that the sick of another scanner are hardly covered.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

__all__ = ["rank_of_limit", "set_limit"]

_STEPS = 1_000_000  # in 0 to 1, to which a limit is rounded down: float32 probabilities of the cases themselves still reach it


def rank_of_limit(cases: int, coverage: float) -> int:
    """Return which of the sorted probabilities is the limit, counted from 1; 0 if there are too few cases for one."""
    return math.floor((1 - coverage) * (cases + 1) + 1e-9)


def set_limit(true_label: npt.NDArray[np.floating], coverage: float) -> float:
    """Return the limit from which a label is in the prediction set.

    true_label: (n,), the label's probability for n cases that have it, one image of each patient.

    A further, exchangeable case of the label reaches the limit with a probability of `coverage` or more, over draws of the
    cases. 0, which every case reaches, if n is too small to exclude anything.
    """
    rank = rank_of_limit(len(true_label), coverage)
    if rank == 0:
        return 0.0
    limit = float(np.sort(true_label)[rank - 1])
    return max(0.0, math.floor(limit * _STEPS - 1e-3) / _STEPS)
