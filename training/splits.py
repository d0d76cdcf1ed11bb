"""Which images train, which choose, which judge: records and their groups in, one split and its leakage report out.

A group (a patient, or patients that share an image) stands on one side only, for the segmenter and the members alike, so
that a test patient is in nothing else. Strata are label and source; the order within one is drawn from a seed.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from cxr_edge.errors import InputError
from training.collections import Record

__all__ = ["SHARES", "SIDES", "LeakageReport", "Side", "check_leakage", "split"]

Side = Literal["train", "validation", "test"]
SIDES: tuple[Side, ...] = ("train", "validation", "test")
SHARES: Mapping[Side, float] = {"train": 0.72, "validation": 0.13, "test": 0.15}


@dataclass(frozen=True, kw_only=True)
class LeakageReport:
    """What was checked across the sides. A report with a leak is never made: `check_leakage` raises instead.

    same_image_pairs: pairs found, all on one side each. merged_patients: patients that were joined to another by a
    shared image. images: side -> "source/label" -> count.
    """

    patients: int
    groups: int
    merged_patients: int
    same_image_pairs: int
    images: dict[str, dict[str, int]]


def split(
    records: Sequence[Record], groups: Sequence[str], *, seed: int, shares: Mapping[Side, float] = SHARES
) -> list[Side]:
    """The side of each record. Within a stratum, large groups first, each to the side that lacks most images."""
    members: dict[str, list[int]] = defaultdict(list)
    for i, group in enumerate(groups):
        members[group].append(i)
    strata: dict[tuple[str, str], list[str]] = defaultdict(list)
    for group in sorted(members):
        strata[_stratum([records[i] for i in members[group]])].append(group)
    sides: list[Side] = ["train"] * len(records)
    for stratum in sorted(strata):
        for group, side in _deal(strata[stratum], members, random.Random(f"{seed}/{stratum}"), shares).items():
            for i in members[group]:
                sides[i] = side
    return sides


def _stratum(records: Sequence[Record]) -> tuple[str, str]:
    return Counter((r.label, r.source) for r in records).most_common(1)[0][0]


def _deal(
    names: Sequence[str], members: Mapping[str, Sequence[int]], rng: random.Random, shares: Mapping[Side, float]
) -> dict[str, Side]:
    order = rng.sample(list(names), len(names))
    order.sort(key=lambda g: -len(members[g]))
    lacking = {side: share * sum(len(members[g]) for g in names) for side, share in shares.items()}
    dealt: dict[str, Side] = {}
    for group in order:
        side = max(SIDES, key=lambda s: lacking[s])
        lacking[side] -= len(members[group])
        dealt[group] = side
    return dealt


def check_leakage(
    records: Sequence[Record],
    groups: Sequence[str],
    sides: Sequence[Side],
    pairs: Sequence[tuple[int, int]],
) -> LeakageReport:
    """Count what could leak. Raises InputError if a patient, a group or a pair of equal images stands on two sides."""
    for what, names in (("patient", [r.patient for r in records]), ("group", list(groups))):
        seen: dict[str, Side] = {}
        for name, side in zip(names, sides, strict=True):
            if seen.setdefault(name, side) != side:
                raise InputError(f"the split leaks: {what} {name} is in {seen[name]} and in {side}: split by group")
    for i, j in pairs:
        if sides[i] != sides[j]:
            raise InputError(
                f"the split leaks: {records[i].key} ({sides[i]}) and {records[j].key} ({sides[j]}) are the same image"
            )
    images = {
        side: Counter(f"{r.source}/{r.label}" for r, s in zip(records, sides, strict=True) if s == side)
        for side in SIDES
    }
    patients = {r.patient for r in records}
    return LeakageReport(
        patients=len(patients),
        groups=len(set(groups)),
        merged_patients=len(patients) - len(set(groups)),
        same_image_pairs=len(pairs),
        images={side: dict(sorted(counts.items())) for side, counts in images.items()},
    )
