"""Label tasks: a collection's label in, the label index, the set of possible labels or the findings of one task out.

A recipe can train several tasks in turn on the same images, as R20 does (`training.recipes.r20.tasks`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

import numpy as np
import numpy.typing as npt

from cxr_edge.errors import InputError
from training.data.dataset import Sample
from training.data.finding_counts import check_finding_sides, truth_of
from training.data.findings import LABELS
from training.data.guard import Guard
from training.data.records import Record
from training.data.splits import SIDES, Side

__all__ = ["Target", "check_labels", "check_names", "check_sides"]


@dataclass(frozen=True, kw_only=True)
class Target:
    """Mapping of the collections' labels to the labels of one task."""

    labels: tuple[str, ...]  # of the task, in order
    renamed: Mapping[str, str] = field(default_factory=dict)  # collection's label -> the task's, where they differ
    # Collection's label -> labels of the task, one of which is the true one; such images train and are not evaluated.
    partial: Mapping[str, Sequence[str]] = field(default_factory=dict)
    guard: Guard | None = None  # the label with limited false alarms, one of the task's
    multi_label: bool = (
        False  # the labels are findings, each present, absent or unknown; then the fields between are empty
    )

    def __post_init__(self) -> None:
        if self.multi_label:
            self._check_findings()
            return
        named = {*self.renamed.values(), *(name for names in self.partial.values() for name in names)}
        if len(set(self.labels)) < 2 or not named <= set(self.labels):
            raise InputError(f"a task has two labels or more, and renames to those only; got {self}")
        if self.guard is not None and self.guard.label not in self.labels:
            raise InputError(
                f"the guarded label is one of the task's, {', '.join(self.labels)}; got {self.guard.label!r}"
            )

    def _check_findings(self) -> None:
        if not self.labels or len(set(self.labels)) < len(self.labels) or self.renamed or self.partial or self.guard:
            raise InputError(
                f"a task of findings has one or more, and neither renamed, partial nor guarded labels; got {self}"
            )

    @property
    def named(self) -> frozenset[str]:
        """Labels of images that the task names besides its own."""
        return frozenset({*self.renamed, *self.partial}) | (frozenset() if self.guard is None else self.guard.labels)

    def label_index(self, label: str) -> int:
        """Return the index of the task's label, or -1 if the label is none of the task's or only partly known."""
        name = self.renamed.get(label, label)
        return self.labels.index(name) if name in self.labels else -1

    def target_mask(self, label: str) -> npt.NDArray[np.bool_]:
        """Return the possible labels as booleans (labels,): one, several, or none if such images are not used."""
        names = self.partial.get(label, (self.renamed.get(label, label),))
        return np.array([name in names for name in self.labels])

    def is_trained(self, record: Record) -> bool:
        """Return whether an image can train: one of its possible labels, or a finding of it, is the task's."""
        return self.is_evaluated(record) if self.multi_label else bool(self.target_mask(record.label).any())

    def is_evaluated(self, record: Record) -> bool:
        """Return whether an image validates and is tested: its label, or a finding of it, is known and the task's."""
        if self.multi_label:
            return bool(np.isfinite(truth_of([record], self.labels)).any())
        return self.label_index(record.label) >= 0


def check_names(named: Collection[str], known: Collection[str]) -> None:
    """Raise InputError if a configuration has a label that is neither in `known` nor of a published collection.

    named: labels of subgroups, `renamed` and `partial`. known: the labels of the images.
    """
    known = {*known, *LABELS}
    if unknown := sorted(set(named) - known):
        near = [match for name in unknown for match in get_close_matches(name, known, n=1)]
        hint = f" (did you mean {', '.join(near)}?)" if near else ""
        raise InputError(f"no collection has the labels {unknown}{hint}; known are {sorted(known)}")


def check_labels(target: Target, train: Iterable[Record], *, min_images: int = 1) -> None:
    """Raise InputError if a label has fewer than `min_images` training images, with the counts per source.

    Otherwise a network would learn the other labels only and still report good figures.
    """
    train = list(train)
    counts = Counter(target.label_index(r.label) for r in train)
    few = [f"{counts[k]} of {label}" for k, label in enumerate(target.labels) if counts[k] < min_images]
    if few:
        read = Counter(f"{r.source}/{r.label}" for r in train)
        found = ", ".join(f"{name} {n}" for name, n in sorted(read.items())) or "none"
        raise InputError(
            f"the task {' / '.join(target.labels)} has {' and '.join(few)} among its training images, expected {min_images} or "
            f"more of each label; training images by source: {found}. Read a collection that holds the label, or take it "
            "out of `labels`"
        )


def _refuse_findings(samples: Sequence[Sample]) -> None:
    if several := [s.record for s in samples if s.record.findings is not None]:
        raise InputError(
            f"{len(several)} images, such as {several[0].key}, have findings that do not exclude each other: set "
            'multi_label = true (and guard = ""), or give data with one label per image'
        )


# Consequence of no image, and of one patient, on a side. Without training images a run is refused.
_CONSEQUENCES: Mapping[Side, tuple[str, str]] = {
    "train": ("", "it is learnt from this patient alone"),
    "validation": (
        "no epoch, temperature or threshold is selected for it",
        "epoch, temperature and threshold are selected for it by this patient alone",
    ),
    "test": ("it has no figures", "its figures are those of one patient"),
}


def check_sides(target: Target, samples: Sequence[Sample], *, min_images: int = 1) -> list[str]:
    """Return a sentence for each label without images, or with one patient only, on a side.

    Raises InputError as `check_names`, as `check_labels` for the side `train`, and if another side has no image of any label.
    """
    if target.multi_label:
        return check_finding_sides(target.labels, samples, min_images=min_images)
    _refuse_findings(samples)
    check_names(target.named, {s.record.label for s in samples})
    check_labels(target, [s.record for s in samples if s.side == "train"], min_images=min_images)
    known = [(s.side, target.label_index(s.record.label), s.group) for s in samples]
    warnings = []
    for side in SIDES:
        images = Counter(k for own, k, _ in known if own == side and k >= 0)
        if not images:
            raise InputError(
                f"the side {side} has 0 images of {', '.join(target.labels)}: read more collections, or change the shares of the "
                "split"
            )
        patients = Counter(k for k, _ in {(k, group) for own, k, group in known if own == side})
        for k, label in enumerate(target.labels):
            if patients[k] < 2:
                count = f"1 patient ({images[k]} images)" if images[k] else "0 images"
                warnings.append(f"{label} has {count} on the side {side}: {_CONSEQUENCES[side][patients[k]]}")
    return warnings
