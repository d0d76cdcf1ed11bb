"""Strata of multi-label records: records by group in, the stratum of each group out, for splits into parts.

A stratum is a set of findings and a source. A set, or a set at one source, of too few groups to be dealt into parts is merged
with what it is nearest to: the same set without its most frequent finding, in the end its rarest finding at any source.
Afterwards every finding with enough patients is moved into the parts that lack it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from hashlib import sha256
from typing import TypeVar

from training.data.records import Record

__all__ = ["finding_strata", "findings_of_groups", "with_every_finding"]

Part = TypeVar("Part", bound=Hashable)
Stratum = tuple[str, str]  # findings joined by "+", and source; empty for none, and for any

_LEAST_GROUPS = 10  # of a stratum, so that validation and test have a group each


def findings_of_groups(members: Mapping[str, Sequence[Record]]) -> dict[str, frozenset[str]]:
    """Return the findings that are present in any image of each group."""
    return {
        name: frozenset(k for r in records for k, value in (r.findings or {}).items() if value)
        for name, records in members.items()
    }


def finding_strata(members: Mapping[str, Sequence[Record]]) -> dict[str, Stratum]:
    """Return the stratum of each group. members: name of a group -> its records."""
    present = findings_of_groups(members)
    frequency = Counter(name for names in present.values() for name in names)
    chains = {group: _chain(present[group], frequency, _source(members[group])) for group in sorted(members)}
    strata: dict[str, Stratum] = {}
    for step in range(max(map(len, chains.values()), default=0)):
        named = {g: chain[min(step, len(chain) - 1)] for g, chain in chains.items() if g not in strata}
        sizes = Counter(named.values())
        last = {g for g in named if step >= len(chains[g]) - 1}
        strata |= {g: stratum for g, stratum in named.items() if sizes[stratum] >= _LEAST_GROUPS or g in last}
    return strata


def _source(records: Sequence[Record]) -> str:
    return Counter(r.source for r in records).most_common(1)[0][0]


def _chain(present: frozenset[str], frequency: Mapping[str, int], source: str) -> list[Stratum]:
    """Return the strata that a group may belong to, the finest first."""
    rarest_first = sorted(present, key=lambda name: (frequency[name], name))
    sets = ["+".join(rarest_first[:n]) for n in range(len(rarest_first), 0, -1)] or [""]
    return [*((names, source) for names in sets), (sets[-1], "")]


def with_every_finding(
    parts: Mapping[str, Part], members: Mapping[str, Sequence[Record]], shares: Mapping[Part, float], *, seed: int
) -> dict[str, Part]:
    """Return the parts of the groups, a few of them moved, so that each part has each finding that has patients enough.

    A finding has enough if it has as many groups as there are parts. The part with the most gives one, unless that would take the
    last group of another finding.
    """
    dealt, present = dict(parts), findings_of_groups(members)
    groups: dict[str, list[str]] = defaultdict(list)
    for group in sorted(present, key=lambda g: sha256(f"{seed}/{g}".encode()).digest()):
        for name in present[group]:
            groups[name].append(group)
    for name in sorted(groups, key=lambda n: (len(groups[n]), n)):
        for part in shares:
            if len(groups[name]) >= len(shares) and all(dealt[g] != part for g in groups[name]):
                moved = _movable(groups[name], dealt, present, groups)
                dealt |= {} if moved is None else {moved: part}
    return dealt


def _movable(
    candidates: Sequence[str],
    dealt: Mapping[str, Part],
    present: Mapping[str, frozenset[str]],
    groups: Mapping[str, Sequence[str]],
) -> str | None:
    """Return a group of the part with the most candidates, none of whose findings has its last group there."""
    by_part: dict[Part, list[str]] = defaultdict(list)
    for group in candidates:
        by_part[dealt[group]].append(group)
    for part, own in sorted(by_part.items(), key=lambda item: -len(item[1])):
        for group in reversed(own):
            if all(sum(dealt[g] == part for g in groups[name]) > 1 for name in present[group]):
                return group
    return None
