"""What a training is asked: the labels of the collections in, the labels of one task out.

R20 asks the same images three questions in turn: normal or abnormal (to learn what X-rays look like), normal or COVID-19,
and normal, bacterial or COVID-19.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from cxr_edge.errors import InputError
from training.data.findings import LABELS
from training.data.records import Record

__all__ = ["ABNORMAL", "Target", "binary", "check_labels", "modality"]

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
        if unknown := {*self.renamed, *self.partial} - LABELS:
            raise InputError(f"no collection has the labels {sorted(unknown)}; known are {sorted(LABELS)}")

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
    return Target(labels=("normal", ABNORMAL), renamed=dict.fromkeys(sorted(LABELS - {"normal"}), ABNORMAL))


def binary(positive: str = "covid-19") -> Target:
    """Normal or `positive`; all else takes no part."""
    return Target(labels=("normal", positive))


def check_labels(target: Target, train: Iterable[Record], *, least: int = 1) -> None:
    """Raises InputError for a label of which fewer than `least` of the training images are sure, naming it and the sources.

    A network would learn the other labels and report good figures all the same.
    """
    train = list(train)
    counts = Counter(target.truth(r.label) for r in train)
    few = [f"{counts[k]} of {label}" for k, label in enumerate(target.labels) if counts[k] < least]
    if few:
        read = Counter(f"{r.source}/{r.label}" for r in train)
        found = ", ".join(f"{name} {n}" for name, n in sorted(read.items())) or "none"
        raise InputError(
            f"the task {' / '.join(target.labels)} has {' and '.join(few)} among its training images, expected {least} or "
            f"more of each label; training images by source: {found}. Read a collection that holds the label, or take it "
            "out of `labels`"
        )
