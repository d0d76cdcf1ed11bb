"""Section of a model card on a site's calibration: figures before and after in, Markdown out."""

from __future__ import annotations

import re

from cxr_edge.calibration.figures import Counted, share_text
from cxr_edge.site.report import SiteReport

__all__ = ["HEADING", "with_section"]

HEADING = "## Calibrated on site"


def with_section(card: str, report: SiteReport) -> str:
    """Return a card with the section of this calibration, in place of one of an earlier calibration."""
    before = re.split(rf"^{re.escape(HEADING)}$", card, maxsplit=1, flags=re.MULTILINE)[0].rstrip()
    return f"{before}\n\n{HEADING}\n\n{_section(report)}\n"


def _section(report: SiteReport) -> str:
    budget, point = report.point.budget, report.point
    labels = ", ".join(f"{n} {label}" for label, n in report.cases.items() if n)
    limits = [
        [label, one.cases, _number(one.set_from), "never" if one.answer_from is None else _number(one.answer_from)]
        for label, one in budget.labels.items()
    ]
    return "\n\n".join(
        [
            f"Version {report.version} is version {report.version_before} with the operating point of one site; the networks are "
            f"the same. Cases: {labels}; {report.patients} patients. Figures above this section are of version "
            f"{report.version_before} and its own test patients.",
            f"Promise: of the answers with a label at most {budget.max_wrong:.1%} are wrong (confidence "
            f"{budget.confidence:.0%} for "
            f"each label, so {report.family_confidence:.0%} for all together), and a prediction set holds the true label for "
            f"{budget.coverage:.1%} of its patients. **It holds for patients, scanners and a frequency of the labels "
            "like those of "
            "the cases, and for nothing else**: not at another hospital, not after a change of the scanner, not where a label is "
            "more or less frequent.",
            _table(["label", "cases", "in the prediction set from", "answered from"], limits),
            f"Thresholds: {report.thresholds_text}. Temperature: "
            + (
                f"fitted on {point.temperature_patients} other patients of the site."
                if point.temperature_patients
                else "unchanged."
            ),
            f"Before (version {report.version_before}) and after. An answer is a decision that was not abstained from. "
            "*After* is "
            "out of fold: each tenth of the patients by limits that the other nine tenths fitted. Shares with exact 95 % "
            "intervals, one image per patient.",
            _overall(report.before, report.after),
            _by_label(report.before, report.after),
            *(f"- {note}" for note in report.notes),
        ]
    )


def _overall(before: Counted, after: Counted) -> str:
    rows = [
        ["answered", share_text(before.answered, before.cases), share_text(after.answered, after.cases)],
        ["wrong among answers", share_text(before.wrong, before.answered), share_text(after.wrong, after.answered)],
        ["labels in a prediction set, mean", f"{before.set_size:.2f}", f"{after.set_size:.2f}"],
    ]
    return _table(["all cases", "before", "after"], rows)


def _by_label(before: Counted, after: Counted) -> str:
    rows = []
    for label, old in before.labels.items():
        new = after.labels[label]
        if not (old.cases or old.answers or new.answers):
            continue
        rows += [
            [
                f"{label}: wrong among its answers",
                share_text(old.wrong, old.answers),
                share_text(new.wrong, new.answers),
            ],
            [f"{label}: sensitivity", share_text(*old.sensitivity), share_text(*new.sensitivity)],
            [f"{label}: specificity", share_text(*old.specificity), share_text(*new.specificity)],
            [f"{label}: in its prediction set", share_text(old.in_set, old.cases), share_text(new.in_set, new.cases)],
        ]
    return _table(["by label", "before", "after"], rows)


def _table(head: list[str], rows: list[list[object]] | list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows)])


def _number(value: float) -> str:
    return f"{value:.4g}"
