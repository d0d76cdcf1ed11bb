"""Label tasks of R20's stages: normal or abnormal, then normal or the guarded label; `R20Config.target` is the third."""

from __future__ import annotations

from training.data.findings import LABELS
from training.data.guard import Guard
from training.data.targets import Target

__all__ = ["binary", "modality"]

_NORMAL = "normal"


def modality() -> Target:
    """Return the task normal or abnormal, of any kind (R20's modality-specific training)."""
    abnormal = dict.fromkeys(sorted(LABELS - {_NORMAL}), "abnormal")
    return Target(labels=(_NORMAL, "abnormal"), renamed=abnormal)


def binary(positive: str = "covid-19", guard: Guard | None = None) -> Target:
    """Return the task normal or `positive`; other labels are not used."""
    return Target(labels=(_NORMAL, positive), guard=guard)
