"""Limits that bound a share of errors with confidence: counts at a row of limits in, the lowest limit that holds out.

Learn-then-Test (Angelopoulos et al. 2021) with fixed-sequence testing: the limits are a fixed grid, tested from the highest
down by exact binomial tails, and the first that fails ends the row, so that no correction for many tests is needed. The row
starts where a quarter of the decisions are answered, or as many as could show anything: one unlucky case among the first few
would end it otherwise. This keeps the confidence exact where the share of errors does not grow with the limit, as of any useful
probability (docs/decisions/0019-error-budgets.md has the argument).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cxr_edge.ops.binomial import most_wrong

__all__ = ["GRID", "lowest_limit"]

# Probabilities that are tried as limits, from the highest down; chosen before any data.
GRID: tuple[float, ...] = (
    *(0.9999, 0.9995),
    *(round(0.999 - 0.001 * i, 3) for i in range(10)),
    *(round(0.985 - 0.005 * i, 3) for i in range(197)),
    0.0,
)

_START = 0.25  # share of the decisions that are answered at the first limit that is tested

Counts = npt.NDArray[np.int64]


def lowest_limit(answered: Counts, wrong: Counts, *, max_wrong: float, confidence: float) -> int | None:
    """Return the index of the lowest limit that keeps `max_wrong` with `confidence`; None if none does.

    answered, wrong: (limits,) or (rules, limits), number of answers and of wrong ones at each limit, the highest first; at the
        last one every decision is answered.

    With several rules a limit holds if it holds with all of them: which is used may then depend on the same cases.
    """
    answered, wrong = np.atleast_2d(answered), np.atleast_2d(wrong)
    most = _most_wrong(answered, max_wrong, confidence)
    enough = (most >= 0) & (answered >= _START * answered[:, -1:])
    tested = enough.all(axis=0)  # elsewhere a rule has too few answers
    failed = np.flatnonzero(tested & (wrong > most).any(axis=0))
    ends = int(failed[0]) if len(failed) else answered.shape[1]
    holding = np.flatnonzero(tested)
    holding = holding[holding < ends]
    return int(holding[-1]) if len(holding) else None


def _most_wrong(answered: Counts, max_wrong: float, confidence: float) -> Counts:
    """Return the most wrong ones with which each number of answers shows `max_wrong`; -1 where none does."""
    values, index = np.unique(answered, return_inverse=True)
    most = [most_wrong(int(n), max_wrong, confidence) for n in values]
    return np.array([-1 if m is None else m for m in most], dtype=np.int64)[index].reshape(answered.shape)
