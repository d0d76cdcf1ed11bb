"""Pictures of what probabilities are worth: reliability diagram and risk-coverage curves in, PNG files out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure as Drawing

from training.evaluation.figures import line_picture

__all__ = ["reliability", "reliability_picture", "risk_coverage", "risk_coverage_picture"]

Floats = npt.NDArray[np.float64]
_BINS = 10
_POINTS = 50  # of a risk-coverage curve


def reliability(top: Floats, right: npt.NDArray[np.bool_]) -> tuple[tuple[float, float, int], ...]:
    """Return mean top probability, share right and images of ten bins of equal numbers. top, right: (N,)."""
    parts = np.array_split(np.argsort(top, kind="stable"), _BINS)
    return tuple((float(top[rows].mean()), float(right[rows].mean()), len(rows)) for rows in parts if len(rows))


def risk_coverage(top: Floats, right: npt.NDArray[np.bool_]) -> tuple[tuple[float, float], ...]:
    """Return the share of wrong ones among the most certain answers, for growing shares of answers. top, right: (N,)."""
    wrong = ~right[np.argsort(-top, kind="stable")]
    counts = np.unique(np.linspace(1, len(top), _POINTS).astype(int))
    return tuple((float(n / len(top)), float(wrong[:n].mean())) for n in counts)


def reliability_picture(
    curves: Mapping[str, Sequence[tuple[float, float, int]]], title: str, file: Path | str
) -> Drawing:
    """Draw the share of right decisions over the top probability, beside the diagonal of calibrated probabilities."""
    lines = {name: ([p[0] for p in points], [p[1] for p in points]) for name, points in curves.items()}
    return line_picture(
        lines, title, file, x="mean probability of the decision (ten bins)", y="share of right decisions", diagonal=True
    )


def risk_coverage_picture(curves: Mapping[str, Sequence[tuple[float, float]]], title: str, file: Path | str) -> Drawing:
    """Draw the share of wrong answers over the share of answers."""
    lines = {name: ([p[0] for p in points], [p[1] for p in points]) for name, points in curves.items()}
    return line_picture(lines, title, file, x="share answered, the most certain first", y="share wrong among answers")
