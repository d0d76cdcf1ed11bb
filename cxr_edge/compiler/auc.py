"""Area under the ROC curve: scores and positives in, one number out. The parity check and training's metrics share it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["auc", "auc_of_ranks"]

FloatArray = npt.NDArray[np.floating]


def auc(scores: FloatArray, positive: npt.NDArray[np.bool_], weights: FloatArray | None = None) -> float:
    """Return the area under the ROC curve, ties counted half; NaN without positives or without negatives."""
    return auc_of_ranks(np.unique(scores, return_inverse=True)[1], positive, weights)


def auc_of_ranks(
    ranks: npt.NDArray[np.int64], positive: npt.NDArray[np.bool_], weights: FloatArray | None = None
) -> float:
    """Return the AUC from dense ranks (N,) of the scores, which a bootstrap computes once for all draws."""
    weights = np.ones(len(ranks)) if weights is None else weights
    hits, misses = np.bincount(ranks, weights * positive), np.bincount(ranks, weights * ~positive)
    pairs = hits.sum() * misses.sum()
    return float((hits * (np.cumsum(misses) - misses / 2)).sum() / pairs) if pairs > 0 else float("nan")
