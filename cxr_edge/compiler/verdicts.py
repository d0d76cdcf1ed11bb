"""Verdicts of screenings at an operating point: probabilities in; decisions, and which of them are answers, out.

The gate compares them, and the report counts them by true label. Whether a checker refuses the image is left aside: it sees
the same image whatever the engines are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cxr_edge.bundle.manifest import Manifest
from cxr_edge.ops.combine import abstention, decide, decide_findings
from cxr_edge.records import Screening
from cxr_edge.specs.budget import OperatingPoint

__all__ = ["Verdicts", "probabilities_of"]


@dataclass(frozen=True, kw_only=True)
class Verdicts:
    """Decisions on N images of K labels."""

    decided: npt.NDArray[np.bool_]  # (N, K): the decided label, or the present findings
    answered: npt.NDArray[np.bool_]  # (N,): False where the error budget abstains; all True without one

    @classmethod
    def at(cls, point: OperatingPoint, screenings: Sequence[Screening]) -> Verdicts:
        """Return the verdicts on screenings that were made at another operating point."""
        present = [_present(point, s) for s in screenings]
        return cls._of(point, screenings, present)

    @classmethod
    def made(cls, point: OperatingPoint, screenings: Sequence[Screening]) -> Verdicts:
        """Return the verdicts on screenings that were made at this operating point."""
        return cls._of(point, screenings, [s.present for s in screenings])

    @classmethod
    def of_probabilities(
        cls, point: OperatingPoint, manifest: Manifest, probabilities: npt.NDArray[np.float32]
    ) -> Verdicts:
        """Return the verdicts on probabilities (N, K). Of equal highest ones the first label counts as the winner."""
        labels, decision, budget = manifest.labels, point.decision, point.budget
        present = [
            decide_findings(row, labels, decision)[0]
            if manifest.multi_label
            else (decide(row, int(row.argmax()), labels, decision)[0],)
            for row in probabilities
        ]
        answered = [
            budget is None or abstention(row, own[0], labels, budget) is None
            for row, own in zip(probabilities, present, strict=True)
        ]
        decided = [[label in own for label in labels] for own in present]
        return cls(decided=np.array(decided, dtype=bool), answered=np.array(answered, dtype=bool))

    @classmethod
    def _of(
        cls, point: OperatingPoint, screenings: Sequence[Screening], present: Sequence[tuple[str, ...]]
    ) -> Verdicts:
        pairs = list(zip(screenings, present, strict=True))
        return cls(
            decided=np.array([[label in own for label in s.labels] for s, own in pairs], dtype=bool),
            answered=np.array([_is_answered(point, s, own) for s, own in pairs], dtype=bool),
        )


def probabilities_of(screenings: Sequence[Screening]) -> npt.NDArray[np.float32]:
    """Return the probabilities (N, K), as float32: decision limits are compared so."""
    return np.array([s.probabilities for s in screenings], dtype=np.float32)


def _present(point: OperatingPoint, s: Screening) -> tuple[str, ...]:
    shares = np.asarray(s.probabilities, dtype=np.float32)
    if s.findings is not None:
        return decide_findings(shares, s.labels, point.decision)[0]
    # The winner of the combination breaks ties of the highest probability, which only voting has: it was decided then.
    decided = s.labels.index(s.forced_decision)
    winner = decided if shares[decided] == shares.max() else int(shares.argmax())
    return (decide(shares, winner, s.labels, point.decision)[0],)


def _is_answered(point: OperatingPoint, s: Screening, present: tuple[str, ...]) -> bool:
    if point.budget is None:
        return True
    shares = np.asarray(s.probabilities, dtype=np.float32)
    return abstention(shares, present[0], s.labels, point.budget) is None
