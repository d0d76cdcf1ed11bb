"""A drift report in words and as a table: a `DriftReport` comes in, lines of text go out."""

from __future__ import annotations

from collections.abc import Iterator

from cxr_edge.drift import Alarm, DriftReport, Moved, StatisticDrift
from cxr_edge.drift.statistics import GROUPS, group_of, shown
from cxr_edge.names import printable

__all__ = ["drift_lines", "drift_table"]

_MAX_MOVED = 6
_WORDS = {"up": "is higher", "down": "is lower", "spread": "is spread otherwise"}
_HEAD = ("statistic", "reference", "now", "above", "evidence", "alarm at exam")


def drift_lines(report: DriftReport) -> Iterator[str]:
    """Yield the note for the end of a report: no alarm, or its exam and what moved."""
    of = f"{report.reference_exams} reference exams ({printable(report.reference)})"
    if report.alarm is None:
        yield f"drift: none found in {report.exams} exams, compared with {of}"
        return
    alarm = report.alarm
    name = f" ({printable(alarm.source)})" if alarm.source else ""
    yield f"DRIFT: exams are no longer like the {of}; noticed at exam {alarm.exam}{name}. {_kinds(alarm)}"
    for moved in alarm.moved[:_MAX_MOVED]:
        yield f"  {_change(moved)}"
    if len(alarm.moved) > _MAX_MOVED:
        yield f"  and {len(alarm.moved) - _MAX_MOVED} more"
    yield "  Find the cause before you rely on further answers: docs/drift.md."


def drift_table(report: DriftReport) -> Iterator[str]:
    """Yield a line for each statistic, the strongest evidence first, below a head. The alarm is at `report.limit`."""
    rows = [_HEAD, *(_row(s) for s in report.statistics)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (f"{row[0]:<{widths[0]}}", *(f"{c:>{w}}" for c, w in zip(row[1:], widths[1:], strict=True)))
        yield "  ".join(cells)


def _row(s: StatisticDrift) -> tuple[str, ...]:
    m = s.moved
    medians = (shown(m.name, m.reference_median), shown(m.name, m.median))
    return (m.name, *medians, f"{m.above:.0%}", f"{max(s.evidence, -9.9):.1f}", str(s.alarm_exam or ""))


def _change(moved: Moved) -> str:
    medians = (
        f"median now {shown(moved.name, moved.median)}, in the reference {shown(moved.name, moved.reference_median)}"
    )
    return f"{printable(moved.name)} {_WORDS[moved.direction]}: {medians}"


def _kinds(alarm: Alarm) -> str:
    """Say which kinds of statistics moved, since the remedy depends on them."""
    groups = list(dict.fromkeys(group_of(m.name) for m in alarm.moved))
    return f"Moved: {', '.join(GROUPS[g] for g in groups)}."
