"""Keep a running comparison of exams with a bundle's reference: screenings come in one by one, a report comes out.

The promise: if the exams are like the reference's, each of another patient, in random order, the probability that there is ever
an alarm is at most `false_alarms`, however many exams follow and however often one looks. The promise is of the stream, over
draws of reference and stream. docs/drift.md derives it.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass
from math import log10
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr_edge.bundle import Bundle
from cxr_edge.drift import betting
from cxr_edge.drift.reference import Reference
from cxr_edge.drift.statistics import exam_statistics
from cxr_edge.errors import InputError
from cxr_edge.records import Image, Screening

__all__ = ["FALSE_ALARMS", "LEAST_SHOWN", "Alarm", "DriftMonitor", "DriftReport", "Moved", "Progress", "StatisticDrift"]

FALSE_ALARMS = 1e-4
LEAST_SHOWN = 20  # exams from which on a report says more than a coincidence

_RECENT = 200  # exams of the epoch before that the medians of a report may go back to
_AT_ALARM = 50  # exams before an alarm whose medians it tells
_NAMED_WRONGLY = 0.01  # probability that an alarm names any statistic that did not move
_KEY_DIGITS = 16  # of a picture's SHA-256, by which a repeated one is recognised
_LEAST_WEALTH = 1e-99

Row = tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Moved:
    """A statistic that departed from the reference."""

    name: str
    reference_median: float
    median: float  # now
    above: float  # share of the reference that is below the median now, ties by half: 0.5 where nothing moved

    @property
    def direction(self) -> str:
        """`up`, `down`, or `spread` where the median is about the same."""
        return "up" if self.above > 0.6 else "down" if self.above < 0.4 else "spread"

    def as_json(self) -> dict[str, Any]:
        medians = {"reference_median": self.reference_median, "median": self.median}
        return {"name": self.name, **medians, "above": round(self.above, 4), "direction": self.direction}


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """The first alarm of a stream."""

    exam: int  # its number, from 1
    moved: tuple[Moved, ...]  # medians of the last 50 exams at that time; the strongest first
    source: str = ""  # name of the exam's file; empty if it was in an earlier run

    def as_json(self) -> dict[str, Any]:
        return {"exam": self.exam, "source": self.source, "moved": [m.as_json() for m in self.moved]}


@dataclass(frozen=True, kw_only=True)
class StatisticDrift:
    """State of one statistic in a stream."""

    moved: Moved
    evidence: float  # log10 of its highest wealth for one unit of stake of all statistics; the alarm is at `limit`
    alarm_exam: int | None  # first exam at which this statistic gave the alarm

    def as_json(self) -> dict[str, Any]:
        return {**self.moved.as_json(), "evidence": round(self.evidence, 2), "alarm_exam": self.alarm_exam}


@dataclass(frozen=True, kw_only=True)
class DriftReport:
    """State of a stream."""

    exams: int
    repeated: int  # pictures that had been there before, not counted
    reference: str  # whose exams it is
    reference_exams: int
    recent: int  # exams that the medians are taken of, the last ones
    evidence: float  # of the strongest statistic
    limit: float  # 4 for one false alarm in 10,000 streams
    alarm: Alarm | None
    statistics: tuple[StatisticDrift, ...]  # the strongest evidence first

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object of this report."""
        return {
            "exams": self.exams,
            "repeated": self.repeated,
            "reference": self.reference,
            "reference_exams": self.reference_exams,
            "recent": self.recent,
            "evidence": round(self.evidence, 2),
            "limit": round(self.limit, 2),
            "alarm": None if self.alarm is None else self.alarm.as_json(),
            "statistics": [s.as_json() for s in self.statistics],
        }


@dataclass(kw_only=True)
class Progress:
    """Everything that a monitor must keep: `state` writes and reads it. Lists of statistics are in the reference's order."""

    exams: int = 0
    repeated: int = 0
    epoch: int = 0
    first: int = 0  # position in `rows` of the epoch's first exam
    rows: list[Row]  # of the epoch, after up to 200 of the one before it
    seen: list[str]  # beginnings of their pictures' SHA-256
    wealth: npt.NDArray[np.float64]  # (statistics, bets)
    highest: npt.NDArray[np.float64]  # (statistics,) highest wealth, times the shares of epoch and statistic
    alarm_exams: list[int]  # (statistics,) 0 for none
    alarm: Alarm | None = None


class DriftMonitor:
    """Compares a stream of exams with a reference. Thread-safe: exams count in the order in which they are added.

    false_alarms: probability that a stream like the reference ever gives an alarm. seed: for ties. Raises InputError for a
    probability that is not above 0 and below 1.
    """

    def __init__(self, reference: Reference, *, false_alarms: float = FALSE_ALARMS, seed: int = 1) -> None:
        if not 0 < false_alarms < 1:
            raise InputError(f"false_alarms is a probability above 0 and below 1, got {false_alarms!r}")
        self.reference = reference
        self.names = tuple(reference.statistics)
        self.false_alarms, self.seed = false_alarms, seed
        self._lock = threading.Lock()
        count = len(self.names)
        self.restore(
            Progress(
                rows=[],
                seen=[],
                wealth=betting.start(count),
                highest=np.full(count, _LEAST_WEALTH),
                alarm_exams=[0] * count,
            )
        )

    @classmethod
    def of_bundle(cls, bundle: Bundle) -> DriftMonitor | None:
        """Return a monitor with the bundle's reference, or None if it has none. Raises BundleError for an invalid one."""
        reference = Reference.of_bundle(bundle)
        return None if reference is None else cls(reference)

    @property
    def alarm(self) -> Alarm | None:
        """The first alarm, or None."""
        return self.progress.alarm

    def restore(self, progress: Progress) -> None:
        """Go on from a state (`state.read_state`), which the monitor then owns."""
        self.progress = progress
        self._sorted = [list(values) for values in self.reference.statistics.values()]
        for row in progress.rows[progress.first :]:
            for values, value in zip(self._sorted, row, strict=True):
                insort(values, value)
        self._seen = set(progress.seen)
        self._draws: tuple[int, npt.NDArray[np.float64]] | None = None

    def add(self, screening: Screening, image: Image) -> bool:
        """Count one exam; a picture that was counted before (by its SHA-256) is not, and gives False.

        image: the one that was screened. Raises InputError if the screening lacks a statistic of the reference.
        """
        found = exam_statistics(screening, image)
        try:
            row = tuple(found[name] for name in self.names)
        except KeyError as error:
            raise InputError(
                f"the screening has no statistic {error.args[0]}, which the reference has: use the monitor of the same bundle"
            ) from None
        return self.add_row(row, key=screening.sha256, source=screening.source)

    def add_row(self, row: Row, *, key: str = "", source: str = "") -> bool:
        """Count one exam by its statistics, in the order of `names`. key: recognises a repeated one; empty: it never is."""
        with self._lock:
            key = key[:_KEY_DIGITS]
            if key and key in self._seen:
                self.progress.repeated += 1
                return False
            self._count(row, key, source)
            return True

    def report(self) -> DriftReport:
        """Return the state of the stream."""
        with self._lock:
            p = self.progress
            evidence = np.log10(p.highest)
            moved = self._moved(len(p.rows))
            found = [
                StatisticDrift(moved=moved[i], evidence=float(evidence[i]), alarm_exam=p.alarm_exams[i] or None)
                for i in np.argsort(-evidence, kind="stable").tolist()
                if moved
            ]
            return DriftReport(
                exams=p.exams,
                repeated=p.repeated,
                reference=self.reference.of,
                reference_exams=self.reference.exams,
                recent=len(p.rows),
                evidence=float(evidence.max()),
                limit=-log10(self.false_alarms),
                alarm=p.alarm,
                statistics=tuple(found),
            )

    def _count(self, row: Row, key: str, source: str) -> None:
        p = self.progress
        if len(p.rows) - p.first == betting.EPOCH_EXAMS:
            self._next_epoch()
        exam = len(p.rows) - p.first
        share = betting.epoch_share(p.epoch) / len(self.names)
        wealth = betting.play(p.wealth, self._p_values(row, exam), exam) * share
        p.exams += 1
        p.rows.append(row)
        p.seen.append(key)
        self._seen.add(key)
        np.maximum(p.highest, wealth, out=p.highest)
        if wealth.max() * self.false_alarms >= 1:
            self._note_alarm(wealth, source)

    def _p_values(self, row: Row, exam: int) -> npt.NDArray[np.float64]:
        """Return the part of the values up to now that are below each of the row's, and add the row to them."""
        below, equal = [], []
        for values, value in zip(self._sorted, row, strict=True):
            position = bisect_left(values, value)
            end = bisect_right(values, value, position)
            below.append(position)
            equal.append(end - position + 1)
            values.insert(end, value)
        ranks = np.array(below) + np.array(equal) * self._uniform(exam)
        found: npt.NDArray[np.float64] = ranks / (self.reference.exams + exam + 1)
        return found

    def _uniform(self, exam: int) -> npt.NDArray[np.float64]:
        """Return random numbers (statistics,) that depend on seed, epoch and exam only, so that a state need not hold them."""
        block, row = divmod(exam, betting.START_EVERY)
        if self._draws is None or self._draws[0] != block:
            draws = np.random.default_rng([self.seed, self.progress.epoch, block])
            self._draws = block, draws.random((betting.START_EVERY, len(self.names)))
        drawn: npt.NDArray[np.float64] = self._draws[1][row]
        return drawn

    def _next_epoch(self) -> None:
        p = self.progress
        del p.rows[:-_RECENT], p.seen[:-_RECENT]
        p.first, p.epoch, p.wealth = len(p.rows), p.epoch + 1, betting.start(len(self.names))
        self.restore(p)

    def _note_alarm(self, wealth: npt.NDArray[np.float64], source: str) -> None:
        """Note which statistics give the alarm, and the first one with all that probably moved."""
        p = self.progress
        for i in np.flatnonzero(wealth * self.false_alarms >= 1).tolist():
            p.alarm_exams[i] = p.alarm_exams[i] or p.exams
        if p.alarm is None:
            moved = self._moved(_AT_ALARM)
            ordered = np.argsort(-wealth, kind="stable").tolist()
            count = int((wealth * max(_NAMED_WRONGLY, self.false_alarms) >= 1).sum())
            chosen = tuple(moved[i] for i in ordered[:count])
            p.alarm = Alarm(exam=p.exams, moved=chosen, source=source)

    def _moved(self, exams: int) -> list[Moved]:
        """Compare each statistic's median in the last exams with the reference; empty without exams."""
        rows = self.progress.rows[-exams:] if exams else []
        return [
            _compare(self.reference, name, values)
            for name, values in zip(self.names, zip(*rows, strict=True), strict=False)
        ]


def _compare(reference: Reference, name: str, values: Sequence[float]) -> Moved:
    median = sorted(values)[(len(values) - 1) // 2]
    known = reference.statistics[name]
    above = (bisect_left(known, median) + bisect_right(known, median)) / (2 * len(known))
    return Moved(name=name, reference_median=reference.median(name), median=median, above=above)
