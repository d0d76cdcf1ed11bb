"""What a training is asked: the labels of the collections in, the labels of one task out.

R20 asks the same images three questions in turn: normal or abnormal (to learn what X-rays look like), normal or COVID-19,
and normal, bacterial or COVID-19.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from cxr_edge.errors import InputError
from training.collections import FINDINGS

__all__ = ["ABNORMAL", "Target", "binary", "modality"]

ABNORMAL = "abnormal"


@dataclass(frozen=True, kw_only=True)
class Target:
    """labels: of the task, in order. renamed: a collection's label -> the task's, where they differ. partial: a
    collection's label -> the task's labels that the truth may be among; such images train and are not judged.
    """

    labels: tuple[str, ...]
    renamed: Mapping[str, str] = field(default_factory=dict)
    partial: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        named = {*self.renamed.values(), *(name for names in self.partial.values() for name in names)}
        if len(set(self.labels)) < 2 or not named <= set(self.labels):
            raise InputError(f"a task has two labels or more, and renames to those only; got {self}")
        unknown = {*self.renamed, *self.partial} - {*FINDINGS.values()}
        if unknown:
            raise InputError(
                f"no collection has the labels {sorted(unknown)}; known are {sorted(set(FINDINGS.values()))}"
            )

    def truth(self, label: str) -> int:
        """Index of the task's label, or -1 if it is not known for sure."""
        name = self.renamed.get(label, label)
        return self.labels.index(name) if name in self.labels else -1

    def allowed(self, label: str) -> npt.NDArray[np.bool_]:
        """Which labels the truth may be (labels,): one, several, or none if such images take no part."""
        names = self.partial.get(label, (self.renamed.get(label, label),))
        return np.array([name in names for name in self.labels])


def modality() -> Target:
    """Normal or abnormal, of whatever kind."""
    others = sorted({*FINDINGS.values()} - {"normal"})
    return Target(labels=("normal", ABNORMAL), renamed=dict.fromkeys(others, ABNORMAL))


def binary(positive: str = "covid-19") -> Target:
    """Normal or `positive`; all else takes no part."""
    return Target(labels=("normal", positive))
