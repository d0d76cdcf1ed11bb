"""Figures of a degraded mode, or of all members: probabilities on images with known labels in, `ModeFigures` out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cxr_edge.calibration import LabelledCases
from cxr_edge.calibration.figures import outcomes
from cxr_edge.compiler.auc import auc
from cxr_edge.ops.combine import Combiner
from cxr_edge.specs.budget import OperatingPoint
from cxr_edge.specs.combination import Combination
from cxr_edge.specs.degraded import CountedShare, ModeFigures

__all__ = ["KnownImages", "macro_mean", "mode_figures"]


@dataclass(frozen=True, kw_only=True)
class KnownImages:
    """Members' logits on N images with known labels."""

    labels: tuple[str, ...]
    logits: npt.NDArray[np.float32]  # (N, members, labels)
    true: npt.NDArray[np.int64]  # (N,) label indices; -1 for images without one of the labels
    patients: npt.NDArray[np.str_]  # (N,) names

    def cases(self, combination: Combination, members: list[int] | None = None) -> LabelledCases:
        """Return the predictions of a combination of some members (None: all), those of images without a label among them."""
        logits = self.logits if members is None else self.logits[:, members]
        probabilities, winners = Combiner(combination, labels=len(self.labels)).run(np.ascontiguousarray(logits))
        return LabelledCases(
            labels=self.labels,
            probabilities=probabilities,
            winners=winners.astype(np.int64),
            true=self.true,
            patients=self.patients,
        )


def mode_figures(cases: LabelledCases, point: OperatingPoint, guard: str | None) -> ModeFigures:
    """Return the figures on N images. cases: `true` may be -1 for images without a label, which count in the specificity alone.

    guard: the label of sensitivity and specificity.
    """
    found = outcomes(cases, point.decision, point.budget)
    known = cases.true >= 0
    f1, areas = [], []
    for k in range(len(cases.labels)):
        own, called = cases.true[known] == k, found.decided[known] == k
        if own.any():
            f1.append(2 * (own & called).sum() / (own.sum() + called.sum()))
            areas.append(auc(cases.probabilities[known, k], own))
    is_guard = cases.true == (-2 if guard is None else cases.labels.index(guard))
    called = found.decided == (-2 if guard is None else cases.labels.index(guard))
    return ModeFigures(
        images=int(known.sum()),
        macro_f1=macro_mean(f1) or 0.0,
        macro_auc=macro_mean(areas),
        sensitivity=None if guard is None else _share(called, is_guard),
        specificity=None if guard is None else _share(~called, ~is_guard),
        answered=None if point.budget is None else _share(found.answered, known),
    )


def macro_mean(values: list[float]) -> float | None:
    """Return the mean of the values that are known, to six digits; None without any."""
    finite = [float(v) for v in values if np.isfinite(v)]
    return round(float(np.mean(finite)), 6) if finite else None


def _share(hits: npt.NDArray[np.bool_], among: npt.NDArray[np.bool_]) -> CountedShare | None:
    return CountedShare(hits=int((hits & among).sum()), n=int(among.sum())) if among.any() else None
