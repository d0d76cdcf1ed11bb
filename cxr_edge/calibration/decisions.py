"""Decisions of many images at once: probabilities and a rule in, label indices out, equal to `cxr_edge.ops.combine.decide`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cxr_edge.specs.combination import Decision

__all__ = ["decided"]

Indices = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


def decided(
    probabilities: npt.NDArray[np.float32], winners: Indices, labels: tuple[str, ...], decision: Decision
) -> Indices:
    """Return the index of the decided label of each image (N,). probabilities: (N, labels). winners: (N,), as of `decide`."""
    thresholds = np.array([decision.thresholds.get(label, 0.0) for label in labels], dtype=np.float32)
    reached = probabilities >= thresholds
    first = reached & np.array([label in decision.first for label in labels])
    allowed = np.where(first.any(axis=1, keepdims=True), first, reached)
    allowed |= ~allowed.any(axis=1, keepdims=True)  # none reached: the most probable
    return _top(probabilities, allowed, winners)


def _top(probabilities: npt.NDArray[np.float32], allowed: Mask, winners: Indices) -> Indices:
    """Return the most probable allowed label; of equal ones the winner, else the first."""
    masked = np.where(allowed, probabilities, np.float32(-1))
    best = masked == masked.max(axis=1, keepdims=True)
    rows = np.arange(len(winners))
    return np.where(best[rows, winners], winners, best.argmax(axis=1)).astype(np.int64)
