"""Study of drift: statistics of exams come in; how often and how soon a `DriftMonitor` gives an alarm comes out.

Streams are drawn from real exams, one of each patient, and, for the promise itself, from random numbers without end.
Streams that are drawn again from the same patients show what becomes of these patients, not of others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr_edge.drift import DriftMonitor, Reference
from cxr_edge.drift.reference import LEAST_EXAMS, MOST_EXAMS

__all__ = [
    "SIZE_AND_FORMAT",
    "DriftStudy",
    "Exams",
    "Kept",
    "Noticed",
    "SameExams",
    "Streams",
    "changed_stream",
    "drawn_promise",
    "drawn_shift",
    "from_another",
    "same_patients",
]

SIZE_AND_FORMAT = ("image.width", "image.height", "image.aspect", "image.bits", "image.format")

WITHIN = 200  # exams within which a change is to be noticed
_LONGEST = 400  # exams of a changed stream

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Exams:
    """Statistics of N exams, one of each patient."""

    names: tuple[str, ...]
    values: Floats  # (N, statistics)

    def __len__(self) -> int:
        return len(self.values)

    def rows(self, chosen: npt.NDArray[Any]) -> Exams:
        """Return some of the exams, by mask or index."""
        return Exams(names=self.names, values=self.values[chosen])

    def without(self, names: Sequence[str]) -> Exams:
        """Return the exams without some of the statistics."""
        kept = [i for i, name in enumerate(self.names) if name not in names]
        return Exams(names=tuple(self.names[i] for i in kept), values=self.values[:, kept])

    def reference(self) -> Reference:
        """Return the exams as a reference."""
        return Reference.of_exams(
            [dict(zip(self.names, row, strict=True)) for row in self.values.tolist()], of="exams of the study"
        )


@dataclass(frozen=True, kw_only=True)
class Streams:
    """Result of one stream: exams after the change until the alarm, None without one, and what moved most."""

    exams: int | None
    moved: str = ""


@dataclass(frozen=True, kw_only=True)
class Noticed:
    """Exams until a change was noticed, over streams of the same exams in another order."""

    name: str
    reference_exams: int
    quiet: int  # exams before the change
    changed: int  # exams after it, at most
    streams: int
    noticed: int  # streams with an alarm
    within: int  # with one within 200 exams after the change
    early: int  # with one before the change
    median: float | None  # exams after the change until the alarm, of the streams that had one after it
    ninetieth: float | None  # percentile
    moved: str  # the statistic that was strongest at the alarm, most often


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Alarms on streams of independent exams like the reference's."""

    promised: float  # false_alarms
    streams: int
    exams: int  # of each
    alarms: int  # streams with an alarm


@dataclass(frozen=True, kw_only=True)
class SameExams:
    """Streams of exams that are like the reference's."""

    name: str
    reference_exams: int
    exams: int  # of each stream
    streams: int
    alarms: int
    highest: float  # log10 of the highest wealth in any stream; the alarm is at 4


@dataclass(frozen=True, kw_only=True)
class DriftStudy:
    """Results of `training.drift_study`."""

    bundle: str
    manifest_sha256: str
    seed: int
    statistics: tuple[str, ...]
    patients: Mapping[str, int]  # source -> patients that trained no network
    promise: tuple[Kept, ...]
    drawn: tuple[Noticed, ...]  # shifts of one statistic of random exams
    same: tuple[SameExams, ...]
    scanners: tuple[Noticed, ...]
    scanners_grays: tuple[Noticed, ...]  # without size and format
    hospitals: tuple[Noticed, ...]
    hospitals_grays: tuple[Noticed, ...]
    mixed: tuple[Noticed, ...]  # single hospitals against a reference of all
    engines: tuple[Noticed, ...] = ()  # unchanged images by engines built here, against a reference by fp32 networks
    cost_us: float = 0.0  # median of one exam
    machine: str = ""


def follow(monitor: DriftMonitor, quiet: Floats, changed: Floats) -> tuple[Streams, bool]:
    """Run one stream until its alarm. Returns it, and whether the alarm was before the change."""
    for row in quiet.tolist():
        monitor.add_row(tuple(row))
        if monitor.alarm is not None:
            return Streams(exams=None), True
    for k, row in enumerate(changed[:_LONGEST].tolist(), 1):
        monitor.add_row(tuple(row))
        if monitor.alarm is not None:
            return Streams(exams=k, moved=monitor.alarm.moved[0].name), False
    return Streams(exams=None), False


def _summary(name: str, found: Sequence[tuple[Streams, bool]], *, reference: int, quiet: int, changed: int) -> Noticed:
    exams = [s.exams for s, _ in found if s.exams is not None]
    moved = Counter(s.moved for s, _ in found if s.moved)
    return Noticed(
        name=name,
        reference_exams=reference,
        quiet=quiet,
        changed=min(changed, _LONGEST),
        streams=len(found),
        noticed=len(exams),
        within=sum(e <= WITHIN for e in exams),
        early=sum(early for _, early in found),
        median=float(np.median(exams)) if exams else None,
        ninetieth=float(np.percentile(exams, 90)) if exams else None,
        moved=moved.most_common(1)[0][0] if moved else "",
    )


def changed_stream(name: str, known: Exams, after: Exams, *, quiet: int, streams: int, seed: int) -> Noticed:
    """Draw streams: a reference and `quiet` exams of `known`, other patients each, then the exams of `after` in any order."""
    draws, found = np.random.default_rng(seed), []
    size = min(MOST_EXAMS, len(known) - quiet)
    for k in range(streams):
        order = draws.permutation(len(known))
        monitor = DriftMonitor(known.rows(order[:size]).reference(), seed=k)
        rest = known.values[order[size : size + quiet]]
        found.append(follow(monitor, rest, after.values[draws.permutation(len(after))]))
    return _summary(name, found, reference=size, quiet=quiet, changed=len(after))


def from_another(name: str, known: Exams, other: Exams, *, streams: int, seed: int) -> Noticed | None:
    """Draw streams of `other` against the reference `known`; None for too few exams to be one."""
    if len(known) < LEAST_EXAMS:
        return None
    return changed_stream(name, known, other, quiet=0, streams=streams, seed=seed)


def same_patients(name: str, exams: Exams, *, streams: int, seed: int) -> SameExams | None:
    """Divide the exams at random into a reference and a stream, again and again; None for too few exams."""
    size = min(MOST_EXAMS, len(exams) // 2)
    if size < LEAST_EXAMS:
        return None
    draws, highest = np.random.default_rng(seed), []
    for k in range(streams):
        order = draws.permutation(len(exams))
        monitor = DriftMonitor(exams.rows(order[:size]).reference(), seed=k)
        follow(monitor, exams.values[order[size:]], exams.values[:0])
        highest.append(monitor.report().evidence)
    alarms = sum(h >= 4 for h in highest)
    return SameExams(
        name=name,
        reference_exams=size,
        exams=len(exams) - size,
        streams=streams,
        alarms=alarms,
        highest=round(max(highest), 2),
    )


def _random_exams(draws: np.random.Generator, count: int, statistics: int) -> Floats:
    """Return exams whose statistics depend on each other; rounded, so that there are ties."""
    common = draws.normal(size=(count, 1))
    return np.asarray(np.round(0.6 * common + 0.8 * draws.normal(size=(count, statistics)), 1))


def _random_reference(draws: np.random.Generator, count: int, statistics: int) -> Reference:
    names = tuple(f"image.{i}" for i in range(statistics))
    return Exams(names=names, values=_random_exams(draws, count, statistics)).reference()


def drawn_promise(
    promised: Sequence[float], *, streams: int, exams: int, seed: int, reference: int = 300, statistics: int = 8
) -> tuple[Kept, ...]:
    """Count the alarms on streams of random numbers, each with a reference of its own, for several promises at once."""
    draws, evidence = np.random.default_rng(seed), []
    for k in range(streams):
        monitor = DriftMonitor(_random_reference(draws, reference, statistics), seed=k)
        for row in _random_exams(draws, exams, statistics).tolist():
            monitor.add_row(tuple(row))
        evidence.append(monitor.report().evidence)
    highest = 10.0 ** np.array(evidence)
    return tuple(Kept(promised=p, streams=streams, exams=exams, alarms=int((highest * p >= 1).sum())) for p in promised)


def drawn_shift(
    deviations: float, *, quiet: int, streams: int, seed: int, reference: int = 1000, statistics: int = 28
) -> Noticed:
    """Shift one of the statistics of random exams after `quiet` ones. deviations: the shift in standard deviations."""
    draws, found = np.random.default_rng(seed), []
    for k in range(streams):
        monitor = DriftMonitor(_random_reference(draws, reference, statistics), seed=k)
        changed = _random_exams(draws, _LONGEST, statistics)
        changed[:, 0] = np.round(changed[:, 0] + deviations, 1)
        found.append(follow(monitor, _random_exams(draws, quiet, statistics), changed))
    name = f"{deviations:g} standard deviations"
    return _summary(name, found, reference=reference, quiet=quiet, changed=_LONGEST)
