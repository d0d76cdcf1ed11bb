"""Thresholds of findings: a combination and validation patients in, a decision rule with what it reaches on them out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr_edge.specs.combination import Combination, Decision
from training.ensembles.multi_label import probabilities_of
from training.evaluation.finding_metrics import decided
from training.evaluation.metrics import Figure, proportion
from training.json_records import as_json

__all__ = ["ChosenThresholds", "LabelThreshold", "choose_thresholds"]

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class LabelThreshold:
    """Threshold of a finding with its shares on validation patients, images with the finding unknown left out."""

    threshold: float | None  # None: one kind of images is missing, and the default of bundles, 0.5, holds
    sensitivity: Figure
    specificity: Figure


@dataclass(frozen=True, kw_only=True)
class ChosenThresholds:
    """A decision rule with its figures on validation."""

    decision: Decision
    labels: Mapping[str, LabelThreshold]
    rule: str  # in words

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object for the bundle's provenance."""
        return {"decision": self.decision.as_json(), "rule": self.rule, "labels": as_json(self.labels)}


def choose_thresholds(
    combination: Combination,
    logits: npt.NDArray[np.float32],
    truth: npt.NDArray[np.float32],
    labels: Sequence[str],
    *,
    specificity: float | None = None,
    uncertain_share: float = 0.15,
) -> ChosenThresholds:
    """Choose the threshold of each finding, and the probability below which a present finding is flagged uncertain.

    A threshold is halfway between two probabilities that occur.

    logits: (N, members, labels).
    truth: (N, labels): 1 present, 0 absent, NaN unknown.
    specificity: to reach on validation, with the highest sensitivity; None: the highest sensitivity + specificity (Youden's J).
        Of thresholds that are equal by that, the highest, which has the fewest false alarms.
    uncertain_share: share of the findings that are decided present on validation to be flagged.
    """
    p = probabilities_of(combination, logits)
    chosen = [_threshold(p[:, k], truth[:, k], specificity) for k in range(len(labels))]
    thresholds = {label: t for label, t in zip(labels, chosen, strict=True) if t is not None}
    present = decided(p, Decision(thresholds=thresholds, uncertain_below=0.0), labels)
    uncertain = round(float(np.quantile(p[present], uncertain_share)), 2) if present.any() else 0.0
    rows = {label: _figures(chosen[k], present[:, k], truth[:, k]) for k, label in enumerate(labels)}
    by = "Youden's J" if specificity is None else f"sensitivity with a specificity of {specificity:g} or more"
    return ChosenThresholds(
        decision=Decision(thresholds=thresholds, uncertain_below=uncertain),
        labels=rows,
        rule=f"the highest {by} on validation patients",
    )


def _threshold(p: Floats, truth: npt.NDArray[np.float32], specificity: float | None) -> float | None:
    present, absent = np.sort(p[truth == 1]), np.sort(p[truth == 0])
    if not len(present) or not len(absent):
        return None
    values = np.unique(np.concatenate([present, absent]))
    limits = np.append((values[:-1] + values[1:]) / 2, (values[-1] + 1) / 2)  # the last one calls nothing present
    rejected = np.searchsorted(absent, limits, side="left") / len(absent)
    found = 1 - np.searchsorted(present, limits, side="left") / len(present)
    if specificity is not None:
        needed = math.ceil(specificity * len(absent) - 1e-9) / len(absent)
        limits, found = limits[rejected >= needed - 1e-12], found[rejected >= needed - 1e-12]
        best = np.flatnonzero(found >= found.max() - 1e-12)
        return float(limits[best[-1] if found.max() > 0 else 0])  # a threshold above all would never call it present
    sums = found + rejected
    return float(limits[np.flatnonzero(sums >= sums.max() - 1e-12)[-1]])


def _figures(threshold: float | None, called: Mask, truth: npt.NDArray[np.float32]) -> LabelThreshold:
    present, absent = truth == 1, truth == 0
    return LabelThreshold(
        threshold=threshold,
        sensitivity=proportion(int((called & present).sum()), int(present.sum())),
        specificity=proportion(int((~called & absent).sum()), int(absent.sum())),
    )
