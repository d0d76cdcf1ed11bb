"""Paired AUC comparisons as table cells: results of `statistics.compare` in, rows for both papers' pages out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from training.evaluation.metrics import interval
from training.evaluation.statistics import AreaDifference, Comparison

__all__ = ["AUC_NOTE", "auc_differences"]

AUC_NOTE = (
    "AUC, first minus second. Micro: over all pairs of image and label, interval by bootstrap of patients. By label, against the "
    "rest: p of DeLong's test, two-sided, which assumes independent images and is not corrected for the number of rows."
)


def auc_differences(comparisons: Sequence[Comparison], labels: Sequence[str]) -> list[list[str]]:
    """Return a row per comparison: the micro-AUC's difference with its interval, then each label's with DeLong's p.

    Empty for results of earlier versions, which have no AUCs of pairs.
    """
    return [
        [interval(c.micro_auc_difference), *(_with_p(c.auc_by_label[label]) for label in labels)]
        for c in comparisons
        if c.auc_by_label is not None
    ]


def _with_p(found: AreaDifference) -> str:
    if np.isnan(found.difference):
        return "-"
    return f"{found.difference:+.4f} (p {'-' if np.isnan(found.p) else format(found.p, '.3g')})"
