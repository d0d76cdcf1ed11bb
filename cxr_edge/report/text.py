"""Text report for a terminal: a block per image for a few images, a line per image for many.

Takes a text stream and results one by one. The report ends with the failures, their reasons and the counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from cxr_edge.drift import DriftMonitor
from cxr_edge.drift.monitor import LEAST_SHOWN
from cxr_edge.names import printable, printable_lines
from cxr_edge.records import Failure, Screening
from cxr_edge.report import RunInfo, TextStream, outcome_counts, shown_thresholds
from cxr_edge.report.drift import drift_lines
from cxr_edge.screening.screener import FileResult

__all__ = ["TextWriter", "block", "line"]

_BAR_LENGTH = 30
_BAR_CHARACTER, _PLAIN_BAR_CHARACTER = "█", "#"


class TextWriter:
    """Report writer for text. compact: one line per image instead of a block. drift: for a note at the end."""

    def __init__(self, stream: TextStream, run: RunInfo, *, compact: bool, drift: DriftMonitor | None = None) -> None:
        self._stream = stream
        self._drift = drift
        self._compact = compact
        self._bar = _bar_character(stream)
        self._thresholds = run.thresholds
        self._outcomes: Counter[str] = Counter()
        self._failures: list[Failure] = []
        print(f"{run.bundle} {run.version} ({run.digest[:12]}), {run.engines}", file=stream)
        print(run.machine, file=stream)
        for text in (run.note, "Research use only: not a medical device."):
            if text:
                print(printable_lines(text), file=stream)
        print(file=stream)
        if compact:
            print(f"{'decision':<12}{'prob.':>6}  {'ms':>7}  file", file=stream)

    def add(self, result: FileResult) -> None:
        """Print one screening; failures are printed together at the end."""
        outcome = result.outcome
        if isinstance(outcome, Failure):
            self._failures.append(outcome)
        else:
            self._outcomes[outcome.outcome] += 1
            text = line(outcome) if self._compact else block(outcome, bar=self._bar, thresholds=self._thresholds) + "\n"
            print(text, file=self._stream)

    def close(self) -> None:
        """Print the failures, the count, and the note on drift."""
        for failure in self._failures:
            print(f"failed: {printable(failure.source)}: {printable(failure.reason)}", file=self._stream)
        print(f"{outcome_counts(self._outcomes)}, {len(self._failures)} failed", file=self._stream)
        if self._drift is not None and (report := self._drift.report()).exams >= LEAST_SHOWN:
            for text in drift_lines(report):
                print(text, file=self._stream)


def line(s: Screening) -> str:
    """Return one line with decision or outcome, probability of the leading label, milliseconds, file and codes."""
    codes = [f.code for f in (*([s.reason] if s.reason else []), *s.flags)]
    share = "" if s.outcome == "refused" else f"{_probability(s):.2f}"
    listed = f"  [{', '.join(codes)}]" if codes else ""
    return f"{s.decision or s.outcome:<12}{share:>6}  {s.times.total_ms:>7.1f}  {printable(s.source)}{listed}"


def block(s: Screening, *, bar: str = _BAR_CHARACTER, thresholds: Sequence[float] | None = None) -> str:
    """Return all details of one screening in about ten lines.

    bar: character of the probability bars. thresholds: of the labels, of a multi-label bundle.
    """
    t, box = s.times, s.roi
    thresholds = shown_thresholds(s, thresholds)
    lines = [f"{printable(s.source)}  ({s.width_px} x {s.height_px} px)"]
    if s.reason is None:
        lines.append(f"  decision: {s.decision}")
    else:
        lines += [f"  {s.outcome}: {s.reason.message.removeprefix('Refused: ')} [{s.reason.code}]"]
    if s.outcome != "refused":
        lines += _scores(s, bar) if thresholds is None else _findings(s, bar, thresholds)
        lines += _members(s)
    if s.prediction_set is not None and s.outcome != "refused":
        lines.append(f"  not excluded: {', '.join(s.prediction_set) or 'none of the labels'}")
    if s.degraded is not None:
        lines.append(
            f"  DEGRADED: answered by {', '.join(s.degraded.answered)}, without {', '.join(s.degraded.missing)}"
        )
    lines.append(f"  lung box: x {box.x0}..{box.x1}, y {box.y0}..{box.y1}")
    if s.view:
        lines.append(f"  view: {s.view}{' (estimated)' if s.view_estimated else ''}")
    lines += [f"  note: {flag.message} [{flag.code}]" for flag in s.flags]
    lines.append(f"  time: {t.total_ms:.1f} ms ({t.describe()})")
    return "\n".join(lines)


def _members(s: Screening) -> list[str]:
    lines = []
    for member in s.members:
        scores = "  ".join(f"{label} {p:.2f}" for label, p in zip(s.labels, member.probabilities, strict=True))
        lines.append(f"  member {member.member}: {scores}")
    return lines


def _scores(s: Screening, bar: str) -> list[str]:
    pairs = zip(s.labels, s.probabilities, strict=True)
    return [f"  {label:<12}{p:>6.1%}  {bar * round(_BAR_LENGTH * p)}" for label, p in pairs]


def _findings(s: Screening, bar: str, thresholds: Sequence[float]) -> list[str]:
    """Return a line per finding: present or absent, its probability, and the threshold that this was compared with."""
    width = max(12, *(len(label) + 1 for label in s.labels))
    lines = []
    for label, p, threshold in zip(s.labels, s.probabilities, thresholds, strict=True):
        state, sign = ("present", ">=") if label in s.present else ("absent", "<")
        text = f"  {label:<{width}}{state:<8}{p:>6.1%} {sign:>2} {threshold:.1%}"
        lines.append(f"{text:<{width + 28}}{bar * round(_BAR_LENGTH * p)}".rstrip())
    return lines


def _probability(s: Screening) -> float:
    return s.probabilities[s.labels.index(s.leading_label)]


def _bar_character(stream: TextStream) -> str:
    """Return the block character, or a plain one where the stream's encoding lacks it."""
    try:
        _BAR_CHARACTER.encode(getattr(stream, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return _PLAIN_BAR_CHARACTER
    return _BAR_CHARACTER
