"""Confusion matrix and F1: true and predicted label indices in, counts and scores out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["confusion", "f1_scores"]

Floats = npt.NDArray[np.float64]


def confusion(
    true: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64], labels: int, weights: Floats | None = None
) -> Floats:
    """Return the confusion matrix (labels, labels): rows are true labels, columns are predicted labels.

    true, predicted: (N,) label indices.
    weights: (N,) weights per image, or None for 1 each.
    """
    return np.bincount(true * labels + predicted, weights, labels * labels).reshape(labels, labels).astype(np.float64)


def f1_scores(table: Floats) -> Floats:
    """Return the F1 of each label against the rest; 0 for a label that neither occurs nor is predicted."""
    both = table.sum(axis=0) + table.sum(axis=1)
    scores: Floats = np.divide(2 * np.diag(table), both, out=np.zeros(len(table)), where=both > 0)
    return scores
