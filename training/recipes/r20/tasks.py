"""Label tasks of R20's stages: normal or abnormal, then normal or the guarded label; `R20Config.target` is the third."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from training.data.findings import LABELS
from training.data.guard import Guard
from training.data.targets import Target

__all__ = ["binary", "modality"]

_NORMAL = "normal"


def modality(labels: Iterable[str] = (), renamed: Mapping[str, str] | None = None) -> Target:
    """Return the task normal or abnormal, of any kind (R20's modality-specific training).

    labels: of the images, besides those of the published collections; own data have labels of their own.
    renamed: of the configuration; a label that counts as normal there does so here.
    """
    meanings = {label: label for label in sorted({*LABELS, *labels})} | dict(renamed or {})
    kinds = {label: _NORMAL if _NORMAL in (label, name) else "abnormal" for label, name in meanings.items()}
    return Target(labels=(_NORMAL, "abnormal"), renamed={k: v for k, v in kinds.items() if k != _NORMAL})


def binary(positive: str = "covid-19", guard: Guard | None = None) -> Target:
    """Return the task normal or `positive`; other labels are not used."""
    return Target(labels=(_NORMAL, positive), guard=guard)
