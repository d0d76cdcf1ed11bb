"""Screenings of given probabilities, decided by the rule of an operating point, for tests of the gate."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cxr_edge.ops.combine import decide, decide_findings
from cxr_edge.records import Roi, Screening, StageTimes, decision_text
from cxr_edge.specs.combination import Decision

__all__ = ["screenings"]

_TIMES = StageTimes(decode_ms=0, lungs_ms=0, preprocess_ms=0, members_ms=0, combine_ms=0)


def screenings(
    probabilities: npt.NDArray[np.floating], labels: tuple[str, ...], rule: Decision, *, findings: bool = False
) -> list[Screening]:
    """Return a screening of each row (images, labels). findings: the labels do not exclude each other."""
    found = []
    for row in probabilities.astype(np.float32):
        present = (
            decide_findings(row, labels, rule)[0] if findings else (decide(row, int(row.argmax()), labels, rule)[0],)
        )
        found.append(
            Screening(
                source="x",
                sha256="0" * 64,
                width_px=9,
                height_px=9,
                labels=labels,
                probabilities=tuple(float(p) for p in row),
                forced_decision=decision_text(present) if findings else present[0],
                findings=present if findings else None,
                members=(),
                roi=Roi.full(9, 9),
                flags=(),
                times=_TIMES,
            )
        )
    return found
