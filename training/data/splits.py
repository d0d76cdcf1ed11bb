"""Splits into train, validation and test: records and their groups in, the side of each record and a leakage report out.

A group (a patient, or patients that share an image) is on one side only, for the segmenter and the members alike, so that no
test patient trains anything. Strata are label and source, or sets of findings (`finding_strata`); within a stratum groups are
ordered by a hash of seed and name.
Preset `code` may split images instead, as both papers' code does: then the report lists patients on two sides.
"""

from __future__ import annotations

import math
from bisect import bisect
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import accumulate
from typing import Literal, TypeVar

from cxr_edge.errors import InputError
from training.data.finding_strata import finding_strata, with_every_finding
from training.data.records import Record

__all__ = [
    "FLANNEL_SHARES",
    "R20_SHARES",
    "SHARES",
    "SIDES",
    "LeakageReport",
    "Preset",
    "Side",
    "Unit",
    "check_leakage",
    "check_plan",
    "check_unit",
    "cramers_v",
    "deal",
    "split",
]

Part = TypeVar("Part", bound=Hashable)
# `unseen`: of no side of the split; `Run.samples` gives it to images of sources that a configuration leaves out of training.
Side = Literal["train", "validation", "test", "unseen"]
Unit = Literal["group", "image"]
Preset = Literal["sane", "paper", "code"]
SIDES: tuple[Side, ...] = ("train", "validation", "test")
SHARES: Mapping[Side, float] = {"train": 0.72, "validation": 0.13, "test": 0.15}
# R20, III.A: 90 % for training and 10 % for testing, and 10 % of the training part validates.
R20_SHARES: Mapping[Side, float] = {"train": 0.81, "validation": 0.09, "test": 0.10}
# FLANNEL, III: 4:1, and five folds of the training part validate in turn (`training.data.folds`).
FLANNEL_SHARES: Mapping[Side, float] = {"train": 0.8, "validation": 0.0, "test": 0.2}

_EXAMPLES = 10


@dataclass(frozen=True, kw_only=True)
class LeakageReport:
    """Leakage between the sides of a split. Only preset `code` may have a leak; otherwise `check_leakage` raises."""

    preset: Preset
    patients: int
    groups: int
    merged_patients: int  # joined to another patient by a shared image
    same_image_pairs: int
    images: dict[str, dict[str, int]]  # side -> "source/label" -> count
    sources: dict[str, dict[str, int]]  # side -> source -> images
    patients_by_side: dict[str, int]  # a patient on two sides counts on both
    # Cramer's V between label and source; 1 if the source determines the label (or, with fewer sources than labels, the label
    # the source); None for a single label or source.
    label_and_source: float | None
    label_by_source: float  # accuracy of a prediction of the label by the source alone
    divided_patients: int  # on two sides
    divided_patient_examples: tuple[str, ...]
    divided_pairs: int  # equal images on two sides
    divided_pair_examples: tuple[tuple[str, str], ...]

    @property
    def leaks(self) -> bool:
        """True if a patient or an image is on two sides."""
        return self.divided_patients > 0 or self.divided_pairs > 0


def split(
    records: Sequence[Record],
    groups: Sequence[str],
    *,
    seed: int,
    shares: Mapping[Side, float] = SHARES,
    unit: Unit = "group",
) -> list[Side]:
    """Return the side of each record. The shares cut the groups of a stratum, ordered by a hash of seed and name.

    A side's share of a stratum is met within the size of its largest group, and one image more or less moves the cuts by less
    than its own size: when data grow, nearly all images keep their side. shares: per side, sum 1. unit: "image" splits images
    independently of their patients, which leaks. Raises InputError for other shares or units.
    """
    check_plan(shares, unit)
    parts = {side: shares[side] for side in SIDES if shares[side] > 0}
    return deal(records, groups if unit == "group" else [r.key for r in records], seed=seed, shares=parts)


def deal(records: Sequence[Record], groups: Sequence[str], *, seed: int, shares: Mapping[Part, float]) -> list[Part]:
    """Return the part of each record. Groups stay whole; shares are met within each stratum of label, or findings, and source."""
    members: dict[str, list[int]] = defaultdict(list)
    for i, group in enumerate(groups):
        members[group].append(i)
    by_group = {group: [records[i] for i in members[group]] for group in sorted(members)}
    several = any(r.findings is not None for r in records)
    names = finding_strata(by_group) if several else {group: _stratum(own) for group, own in by_group.items()}
    strata: dict[tuple[str, str], list[str]] = defaultdict(list)
    for group in by_group:
        strata[names[group]].append(group)
    dealt: dict[str, Part] = {}
    for stratum in sorted(strata):
        dealt |= _deal(strata[stratum], members, seed, shares)
    if several:
        dealt = with_every_finding(dealt, by_group, shares, seed=seed)
    return [dealt[group] for group in groups]


def check_plan(shares: Mapping[Side, float], unit: Unit) -> None:
    """Raise InputError for an unknown unit, and for shares that lack a side or do not sum to 1."""
    check_unit(unit)
    right = set(shares) == set(SIDES) and all(0 <= s <= 1 for s in shares.values())
    if not right or not math.isclose(sum(shares.values()), 1):
        raise InputError(f"the shares {dict(shares)}: expected one from 0 to 1 for each of {', '.join(SIDES)}, sum 1")


def check_unit(unit: str) -> None:
    """Raise InputError for an unknown unit."""
    if unit not in ("group", "image"):
        raise InputError(f"a split by {unit!r}: expected 'group', or 'image' with preset 'code'")


def _stratum(records: Sequence[Record]) -> tuple[str, str]:
    return Counter((r.label, r.source) for r in records).most_common(1)[0][0]


def _deal(
    names: Sequence[str], members: Mapping[str, Sequence[int]], seed: int, shares: Mapping[Part, float]
) -> dict[str, Part]:
    parts, edges = list(shares), list(accumulate(shares.values()))
    total, before = sum(len(members[g]) for g in names), 0
    dealt: dict[str, Part] = {}
    for group in sorted(names, key=lambda g: sha256(f"{seed}/{g}".encode()).digest()):
        middle = (before + len(members[group]) / 2) / total
        dealt[group] = parts[bisect(edges[:-1], middle)]
        before += len(members[group])
    return dealt


def check_leakage(
    records: Sequence[Record],
    groups: Sequence[str],
    sides: Sequence[Side],
    pairs: Sequence[tuple[int, int]],
    *,
    preset: Preset = "sane",
) -> LeakageReport:
    """Count what leaks and what could. pairs: indices of images that are the same.

    Raises InputError if a patient, a group or a pair of equal images stands on two sides, unless the preset is `code`.
    """
    patients = [r.patient for r in records]
    divided = _divided(patients, sides)
    pairs_apart = [(i, j) for i, j in pairs if sides[i] != sides[j]]
    if preset != "code":
        _refuse("patient", divided)
        _refuse("group", _divided(groups, sides))
        _refuse_pairs(records, sides, pairs_apart)
    labels, sources = [r.label for r in records], [r.source for r in records]
    return LeakageReport(
        preset=preset,
        patients=len(set(patients)),
        groups=len(set(groups)),
        merged_patients=len(set(patients)) - len(set(groups)),
        same_image_pairs=len(pairs),
        images=_by_side([f"{r.source}/{r.label}" for r in records], sides),
        sources=_by_side(sources, sides),
        patients_by_side={side: len(counts) for side, counts in _by_side(patients, sides).items()},
        label_and_source=cramers_v(labels, sources),
        label_by_source=_guessed(labels, sources),
        divided_patients=len(divided),
        divided_patient_examples=tuple(divided)[:_EXAMPLES],
        divided_pairs=len(pairs_apart),
        divided_pair_examples=tuple((records[i].key, records[j].key) for i, j in pairs_apart[:_EXAMPLES]),
    )


def _divided(names: Sequence[str], sides: Sequence[Side]) -> dict[str, list[Side]]:
    """Return the names that are on several sides, with the sides in order of appearance."""
    seen: dict[str, list[Side]] = defaultdict(list)
    for name, side in zip(names, sides, strict=True):
        if side not in seen[name]:
            seen[name].append(side)
    return {name: found for name, found in sorted(seen.items()) if len(found) > 1}


def _refuse(what: str, divided: Mapping[str, Sequence[Side]]) -> None:
    for name, found in divided.items():
        more = f", and {len(divided) - 1} more" if len(divided) > 1 else ""
        raise InputError(f"the split leaks: {what} {name} is in {' and in '.join(found)}{more}: split by group")


def _refuse_pairs(records: Sequence[Record], sides: Sequence[Side], pairs: Sequence[tuple[int, int]]) -> None:
    for i, j in pairs:
        raise InputError(
            f"the split leaks: {records[i].key} ({sides[i]}) and {records[j].key} ({sides[j]}) are the same image: "
            "split by groups of patients that share images"
        )


def _by_side(names: Sequence[str], sides: Sequence[Side]) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter[str]] = {side: Counter() for side in SIDES}
    for name, side in zip(names, sides, strict=True):
        counts[side][name] += 1
    return {side: dict(sorted(found.items())) for side, found in counts.items()}


def cramers_v(first: Sequence[str], second: Sequence[str]) -> float | None:
    """Cramer's V (0 to 1, no bias correction) between two namings of the same things; None if one names them all alike."""
    rows, columns, cells = Counter(first), Counter(second), Counter(zip(first, second, strict=True))
    freedom = min(len(rows), len(columns)) - 1
    if freedom < 1:
        return None
    # Sum of n_ij^2 / (n_i n_j), less 1, is chi-squared over n.
    return min(
        1.0, math.sqrt(max(0.0, sum(n * n / (rows[a] * columns[b]) for (a, b), n in cells.items()) - 1) / freedom)
    )


def _guessed(labels: Iterable[str], sources: Iterable[str]) -> float:
    """Return the accuracy of predicting the most frequent label of each source."""
    by_source: dict[str, Counter[str]] = defaultdict(Counter)
    for label, source in zip(labels, sources, strict=True):
        by_source[source][label] += 1
    total = sum(sum(c.values()) for c in by_source.values())
    return sum(max(c.values()) for c in by_source.values()) / total if total else 0.0
