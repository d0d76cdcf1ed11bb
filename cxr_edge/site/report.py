"""A finished calibration: figures before and after with what limits their worth, as text and JSON."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxr_edge.calibration.figures import Counted, share_text
from cxr_edge.names import printable
from cxr_edge.site.fit import FittedPoint

__all__ = ["SiteReport"]


@dataclass(frozen=True, kw_only=True)
class SiteReport:
    """Figures and files of a calibration."""

    out: Path  # folder of the new bundle
    version_before: str
    version: str
    engines: str  # that screened the cases
    cases: Mapping[str, int]  # by label
    patients: int
    point: FittedPoint
    before: Counted  # the old operating point, one image of each patient
    after: Counted  # out of fold
    notes: tuple[str, ...]

    @property
    def thresholds_text(self) -> str:
        """Thresholds of the decision, in words."""
        rows = [f"{label} from {value:g}" for label, value in self.point.decision.thresholds.items()]
        return (", ".join(rows) or "none") + (" (fitted here)" if self.point.threshold_fitted else " (unchanged)")

    @property
    def family_confidence(self) -> float:
        """Confidence with which all labels that are answered keep the promise together, at least (Bonferroni)."""
        budget = self.point.budget
        answered = sum(limits.answer_from is not None for limits in budget.labels.values())
        return max(0.0, 1 - max(answered, 1) * (1 - budget.confidence))

    def lines(self) -> list[str]:
        """Return the report as text."""
        budget, cases = self.point.budget, ", ".join(f"{n} {label}" for label, n in self.cases.items() if n)
        lines = [
            f"Bundle: {printable(self.out)}, version {self.version}",
            f"Cases: {cases}; {self.patients} patients; screened by {self.engines}",
            f"Promise: at most {budget.max_wrong:.1%} of the answers of a label are wrong (confidence "
            f"{budget.confidence:.0%} each), "
            f"sets cover {budget.coverage:.1%}",
            f"Thresholds: {self.thresholds_text}",
        ]
        for label, one in budget.labels.items():
            answered = "never answered" if one.answer_from is None else f"answered from {one.answer_from:g}"
            lines.append(f"  {label}: {answered}, in the prediction set from {one.set_from:.3f} ({one.cases} cases)")
        lines += [*_shown("before", self.before), *_shown("after, out of fold", self.after)]
        lines += [f"Note: {note}" for note in self.notes]
        return [*lines, f"Next: cxr-edge build-engine {shlex.quote(printable(self.out))}"]

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object of the report."""
        return {
            "bundle": str(self.out),
            "version": self.version,
            "version_before": self.version_before,
            "engines": self.engines,
            "cases": dict(self.cases),
            "patients": self.patients,
            "decision": self.point.decision.as_json(),
            "budget": self.point.budget.as_json(),
            "sharpness": round(self.point.sharpness, 6),
            "before": self.before.as_json(),
            "after": self.after.as_json(),
            "notes": list(self.notes),
        }


def _shown(title: str, found: Counted) -> list[str]:
    lines = [
        f"{title}: answered {share_text(found.answered, found.cases)}, of these wrong {share_text(found.wrong, found.answered)}"
    ]
    for label, row in found.labels.items():
        if row.cases:
            lines.append(
                f"  {label}: sensitivity {share_text(*row.sensitivity)}, specificity {share_text(*row.specificity)}, wrong among "
                f"its answers {share_text(row.wrong, row.answers)}"
            )
    return lines
