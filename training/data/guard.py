"""Guarded label: the label with limited false alarms, and the subgroups of images on which they are counted.

In: the settings of a configuration (`training.config.BundleConfig`). Out: masks of records. A member's score, the decision
threshold and the safety table of the results use them, so that no training module names a label itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from cxr_edge.errors import InputError
from training.data.findings import FRONTAL_VIEWS, projection
from training.data.records import Record
from training.json_records import OPTIONAL

__all__ = ["Guard", "Subgroup"]

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Subgroup:
    """Images selected by label, or by a finding that is present, and by what the collection states of view, age and sex.

    `targets.check_names` refuses unknown labels. Raises InputError for other values that cannot work.
    """

    label: str | None = None  # images with this label only; None: with any label
    adult: bool | None = None  # adults only (true) or children only (false); None: both
    without: tuple[str, ...] = ()  # labels that are left out
    view: str | None = field(default=None, metadata=OPTIONAL)  # AP or PA, as stated; None: any, stated or not
    age: tuple[float, float] | None = field(
        default=None, metadata=OPTIONAL
    )  # stated years: the first, and the end of the last
    sex: str | None = field(default=None, metadata=OPTIONAL)  # F or M, as stated
    # Least share that the figure of the group must show by its exact interval (`evaluation.floors`); None: only reported.
    floor: float | None = field(default=None, metadata=OPTIONAL)
    # Finding that the floor is of, in multi-label data only: its sensitivity if it is the `label`, else its specificity.
    of: str | None = field(default=None, metadata=OPTIONAL)

    def __post_init__(self) -> None:
        _require(self.view in (None, *FRONTAL_VIEWS), "view", "AP or PA", self.view)
        _require(self.sex in (None, "F", "M"), "sex", "F or M", self.sex)
        _require(self.age is None or _is_band(self.age), "age", "two numbers of years, [18, 40] for 18 to 39", self.age)
        _require(self.floor is None or 0 < self.floor < 1, "floor", "a share above 0 and below 1", self.floor)

    @property
    def labels(self) -> frozenset[str]:
        """Labels that the subgroup names."""
        return frozenset(self.without) | ({self.label, self.of} - {None})  # type: ignore[operator]

    def mask(self, records: Sequence[Record]) -> Mask:
        """Return the records that belong to the subgroup (N,)."""
        return np.array([self._contains(r) for r in records], dtype=bool)

    def _contains(self, record: Record) -> bool:
        return (
            (self.label is None or _has(record, self.label))
            and self.adult in (None, record.adult)
            and self.view in (None, projection(record.view))
            and self.sex in (None, record.sex)
            and (self.age is None or _in_band(record.age_years, self.age))
            and not any(_has(record, name) for name in self.without)
        )


def _require(valid: bool, name: str, expected: str, found: object) -> None:
    if not valid:
        raise InputError(f"{name} of a group is {expected}, got {found!r}: change it, or leave it out")


def _is_band(age: object) -> bool:
    numbers = isinstance(age, tuple) and len(age) == 2 and all(isinstance(v, int | float) for v in age)
    return numbers and 0 <= age[0] < age[1]  # type: ignore[index]


def _in_band(years: float | None, band: tuple[float, float]) -> bool:
    return years is not None and band[0] <= years < band[1]


def _has(record: Record, label: str) -> bool:
    """Return whether a record has a label; a finding that is unknown is not one that it has."""
    return record.label == label or (record.findings or {}).get(label) is True


@dataclass(frozen=True, kw_only=True)
class Guard:
    """A label with limited false alarms. Subgroups are by name; those that concern the label itself are left out.

    Only `watch` may have groups of images with the label: they are watched for its sensitivity.
    """

    label: str
    groups: Mapping[str, Subgroup] = field(default_factory=dict)  # limit false alarms: score, threshold, safety table
    watch: Mapping[str, Subgroup] = field(
        default_factory=dict
    )  # reported in the safety table, and compared with their floors
    auc_groups: Mapping[str, Subgroup] = field(default_factory=dict)  # within which the label's AUC is reported

    def __post_init__(self) -> None:
        for name in ("groups", "watch", "auc_groups"):
            used = {
                k: g for k, g in getattr(self, name).items() if self._concerns_others(g) or self._is_watched(name, g)
            }
            object.__setattr__(self, name, used)

    def _concerns_others(self, group: Subgroup) -> bool:
        return self.label not in (group.label, *group.without)

    def _is_watched(self, name: str, group: Subgroup) -> bool:
        return name == "watch" and group.label == self.label and self.label not in group.without

    @property
    def labels(self) -> frozenset[str]:
        """Labels that the subgroups name."""
        groups = (*self.groups.values(), *self.watch.values(), *self.auc_groups.values())
        return frozenset().union(*(group.labels for group in groups))

    def is_found_in(self, group: Subgroup) -> bool:
        """Return whether the figure of a watched group is the label's sensitivity; else it is its specificity."""
        return group.label == self.label

    def negatives(self, group: Subgroup, records: Sequence[Record]) -> Mask:
        """Return the records of a subgroup that do not have the guarded label (N,)."""
        others: Mask = np.array([r.label != self.label for r in records], dtype=bool)
        return group.mask(records) & others

    def group_masks(self, records: Sequence[Record]) -> dict[str, Mask]:
        """Return the records of each subgroup that limits false alarms (N,), by name."""
        return {name: self.negatives(group, records) for name, group in self.groups.items()}
