"""Result of one file by two bundles, reduced to what a comparison counts: screenings or failures in, two sides out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cxr_edge.names import json_name, printable
from cxr_edge.records import Failure, Screening

__all__ = ["FAILED", "UNANSWERED", "FilePair", "Side"]

FAILED = "failed"
UNANSWERED = ("abstained", "refused", FAILED)  # verdicts that are no decision


@dataclass(frozen=True, kw_only=True)
class Side:
    """Result of one bundle for one file."""

    verdict: str  # the decision if it is an answer; `abstained`, `refused` or `failed`
    decided: str | None  # by the decision rule, whatever the outcome; None of a failure
    label: str | None  # the label that `probability` is of: the decided one, or the most probable finding
    probability: float | None
    reason: str  # code of a refusal or abstention, sentence of a failure, else empty
    present: tuple[str, ...] = ()  # labels that an answer consists of

    @classmethod
    def of(cls, outcome: Screening | Failure) -> Side:
        """Return the side of a result."""
        if isinstance(outcome, Failure):
            return cls(verdict=FAILED, decided=None, label=None, probability=None, reason=outcome.reason)
        answered, label = outcome.decision is not None, outcome.leading_label
        return cls(
            verdict=outcome.outcome if outcome.decision is None else outcome.decision,
            decided=outcome.forced_decision,
            label=label,
            probability=round(float(outcome.probabilities[outcome.labels.index(label)]), 6),
            reason="" if outcome.reason is None else outcome.reason.code,
            present=outcome.present if answered else (),
        )

    def __str__(self) -> str:
        """Format as `normal 0.812`, or `abstained (uncertain_answer: normal 0.512)`."""
        shown = "" if self.label is None else f"{self.label} {self.probability:.3f}"
        if self.verdict == FAILED:
            return f"failed ({printable(self.reason)})"
        if self.verdict in UNANSWERED:
            return f"{self.verdict} ({self.reason}: {shown})"
        return shown if self.label == self.verdict else f"{self.verdict} ({shown})"

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object; a refused image has no probability in it, as in reports."""
        refused = self.verdict == "refused"
        return {
            "verdict": self.verdict,
            "decided": None if refused else self.decided,
            "label": None if refused else self.label,
            "probability": None if refused else self.probability,
            "reason": self.reason,
        }


@dataclass(frozen=True, kw_only=True)
class FilePair:
    """One file by the old and by the new bundle."""

    source: str
    old: Side
    new: Side
    shift: (
        float | None
    )  # largest change of a probability, over the labels of both; None if either side failed or refused it
    true: str | None = None  # the true decision, where it is known

    @classmethod
    def of(cls, source: str, old: Screening | Failure, new: Screening | Failure, true: str | None = None) -> FilePair:
        """Return the pair of two results."""
        return cls(source=source, old=Side.of(old), new=Side.of(new), shift=_shift(old, new), true=true)

    @property
    def failed(self) -> bool:
        """True if neither bundle has a result: the file cannot be read."""
        return self.old.verdict == self.new.verdict == FAILED

    @property
    def changed(self) -> bool:
        """True if the two give another verdict: another decision, or an answer in place of none, or the reverse."""
        return self.old.verdict != self.new.verdict

    @property
    def redecided(self) -> bool:
        """True if the decision rules decide otherwise, whether that is an answer or not."""
        return self.old.decided != self.new.decided

    def as_json(self) -> dict[str, Any]:
        shown, _ = json_name(self.source)
        return {
            "source": shown,
            "old": self.old.as_json(),
            "new": self.new.as_json(),
            "shift": self.shift,
            "changed": self.changed,
            **({} if self.true is None else {"true": self.true}),
        }


def _shift(old: Screening | Failure, new: Screening | Failure) -> float | None:
    if isinstance(old, Failure) or isinstance(new, Failure) or "refused" in (old.outcome, new.outcome):
        return None
    before, after = (dict(zip(s.labels, s.probabilities, strict=True)) for s in (old, new))
    return max((round(abs(after[k] - before[k]), 6) for k in before if k in after), default=None)
