"""Guarded label: the label with limited false alarms, and the subgroups of images on which they are counted.

In: the settings of a configuration (`training.config.BundleConfig`). Out: masks of records. A member's score, the decision
threshold and the safety table of the results use them, so that no training module names a label itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from training.data.records import Record

__all__ = ["Guard", "Subgroup"]

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Subgroup:
    """Images selected by label, or by a finding that is present, and age. `targets.check_names` refuses unknown labels."""

    label: str | None = None  # images with this label only; None: with any label
    adult: bool | None = None  # adults only (true) or children only (false); None: both
    without: tuple[str, ...] = ()  # labels that are left out

    @property
    def labels(self) -> frozenset[str]:
        """Labels that the subgroup names."""
        return frozenset(self.without) | (frozenset() if self.label is None else {self.label})

    def mask(self, records: Sequence[Record]) -> Mask:
        """Return the records that belong to the subgroup (N,)."""
        return np.array([self._contains(r) for r in records], dtype=bool)

    def _contains(self, record: Record) -> bool:
        return (
            (self.label is None or _has(record, self.label))
            and self.adult in (None, record.adult)
            and not any(_has(record, name) for name in self.without)
        )


def _has(record: Record, label: str) -> bool:
    """Return whether a record has a label; a finding that is unknown is not one that it has."""
    return record.label == label or (record.findings or {}).get(label) is True


@dataclass(frozen=True, kw_only=True)
class Guard:
    """A label with limited false alarms. Subgroups are by name; those that concern the label itself are left out."""

    label: str
    groups: Mapping[str, Subgroup] = field(default_factory=dict)  # limit false alarms: score, threshold, safety table
    watch: Mapping[str, Subgroup] = field(default_factory=dict)  # reported in the safety table only
    auc_groups: Mapping[str, Subgroup] = field(default_factory=dict)  # within which the label's AUC is reported

    def __post_init__(self) -> None:
        for name in ("groups", "watch", "auc_groups"):
            used = {k: g for k, g in getattr(self, name).items() if self.label not in (g.label, *g.without)}
            object.__setattr__(self, name, used)

    @property
    def labels(self) -> frozenset[str]:
        """Labels that the subgroups name."""
        groups = (*self.groups.values(), *self.watch.values(), *self.auc_groups.values())
        return frozenset().union(*(group.labels for group in groups))

    def negatives(self, group: Subgroup, records: Sequence[Record]) -> Mask:
        """Return the records of a subgroup that do not have the guarded label (N,)."""
        others: Mask = np.array([r.label != self.label for r in records], dtype=bool)
        return group.mask(records) & others

    def group_masks(self, records: Sequence[Record]) -> dict[str, Mask]:
        """Return the records of each subgroup that limits false alarms (N,), by name."""
        return {name: self.negatives(group, records) for name, group in self.groups.items()}
