"""Error budget on test patients: predictions and limits in, coverage, answered share and errors by group out.

A budget holds for patients like those that fitted it. The groups show where it does not: a source, an age or a view whose
figures differ from all patients together is what an average hides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from cxr_edge.calibration import LabelledCases, one_per_patient
from cxr_edge.calibration.figures import Counted, counted
from cxr_edge.specs.budget import ErrorBudget
from cxr_edge.specs.combination import Decision
from training.data.records import Record
from training.evaluation.gaps import ATTRIBUTES
from training.evaluation.metrics import Figure, interval, proportion
from training.json_records import ROUNDED
from training.markdown import table

__all__ = [
    "BudgetFigures",
    "BudgetGroup",
    "BudgetLabel",
    "budget_figures",
    "budget_section",
    "budget_table",
    "group_of",
]

_TOGETHER = "all"

# Attribute -> group of a record, in the order of the tables.
_GROUPS: Mapping[str, Callable[[Record], str]] = {
    "source": lambda record: record.source,
    "age": lambda record: ATTRIBUTES["age"](record) if record.adult else "child",
    "view": ATTRIBUTES["view"],
    "sex": ATTRIBUTES["sex"],
}


@dataclass(frozen=True, kw_only=True)
class BudgetLabel:
    """Figures of one label."""

    cases: int
    covered: Figure  # cases of the label whose prediction set holds it
    found: Figure  # cases of the label that are answered with it
    wrong: Figure  # answers with the label that are wrong


@dataclass(frozen=True, kw_only=True)
class BudgetGroup:
    """Figures of one group of patients."""

    cases: int
    answered: Figure
    wrong: Figure  # of the answers
    covered: Figure  # prediction sets that hold the true label
    set_size: float = field(metadata=ROUNDED)  # labels in a prediction set, mean
    labels: Mapping[str, BudgetLabel]

    @classmethod
    def of(cls, found: Counted) -> BudgetGroup:
        """Return the figures of counts."""
        covered = sum(row.in_set for row in found.labels.values())
        labels = {
            label: BudgetLabel(
                cases=row.cases,
                covered=proportion(row.in_set, row.cases),
                found=proportion(*row.sensitivity),
                wrong=proportion(row.wrong, row.answers),
            )
            for label, row in found.labels.items()
        }
        return cls(
            cases=found.cases,
            answered=proportion(found.answered, found.cases),
            wrong=proportion(found.wrong, found.answered),
            covered=proportion(covered, found.cases),
            set_size=found.set_size,
            labels=labels,
        )


@dataclass(frozen=True, kw_only=True)
class BudgetFigures:
    """Figures of a bundle's error budget, one image of each patient."""

    max_wrong: float
    confidence: float
    coverage: float
    fitted_on: str
    groups: Mapping[str, Mapping[str, BudgetGroup]]  # attribute -> group; the attribute `all` has the one group `all`

    @property
    def together(self) -> BudgetGroup:
        """All patients."""
        return self.groups[_TOGETHER][_TOGETHER]


def group_of(attribute: str, record: Record) -> str:
    """Return the group of a record: its source, age band, view or sex."""
    return _GROUPS[attribute](record)


def budget_figures(
    cases: LabelledCases, records: Sequence[Record], decision: Decision, budget: ErrorBudget, *, seed: int
) -> BudgetFigures:
    """Return the figures of `budget` on cases, by group. records: of the cases, row by row. seed: chooses one image of each."""
    chosen = one_per_patient(cases.patients, seed=seed)
    own, kept = cases.only(chosen), [records[i] for i in chosen]

    def group(rows: npt.NDArray[np.bool_]) -> BudgetGroup:
        return BudgetGroup.of(counted(own.only(rows), decision, budget))

    groups = {_TOGETHER: {_TOGETHER: group(np.ones(len(kept), dtype=bool))}}
    for attribute, name_of in _GROUPS.items():
        names = np.array([name_of(r) for r in kept], dtype=np.str_)
        groups[attribute] = {str(name): group(names == name) for name in np.unique(names)}
    return BudgetFigures(
        max_wrong=budget.max_wrong,
        confidence=budget.confidence,
        coverage=budget.coverage,
        fitted_on=budget.fitted_on,
        groups=groups,
    )


def budget_section(found: BudgetFigures | None) -> list[str]:
    """Return the section of a page or model card; empty without a budget."""
    if found is None:
        return []
    answered = sum(row.wrong.n > 0 for row in found.together.labels.values())
    together = max(0.0, 1 - max(answered, 1) * (1 - found.confidence))
    return [
        "## Answers and abstentions",
        f"Error budget: of the answers with a label at most {found.max_wrong:.1%} are wrong (confidence "
        f"{found.confidence:.0%} for "
        f"each label, so {together:.0%} or more for the {answered} that are answered together), and the prediction set "
        "of a patient "
        f"holds the true label with a probability of {found.coverage:.1%}, for each label. Fitted on {found.fitted_on}. What the "
        "limits do on test patients, one image of each, with exact 95 % intervals:",
        _labels_table(found.together),
        budget_table(found),
        "**The budget holds for patients like those that fitted it, and a group that differs from the first line shows where it "
        "does not.** It does not hold at another hospital, on another scanner, or where a label is more or less frequent; "
        "`cxr-edge calibrate` fits it to cases of a site. A patient has one image here; findings that are no label are left out.",
    ]


def _labels_table(group: BudgetGroup) -> str:
    rows = (
        [label, row.cases, interval(row.covered), interval(row.found), interval(row.wrong)]
        for label, row in group.labels.items()
    )
    return table(["label", "cases", "in its prediction set", "answered with it", "wrong among its answers"], rows)


def budget_table(found: BudgetFigures) -> str:
    """Return the table by group."""
    rows = (
        [
            name if attribute == _TOGETHER else f"{attribute}: {name}",
            row.cases,
            interval(row.answered),
            interval(row.wrong),
            interval(row.covered),
            f"{row.set_size:.2f}",
        ]
        for attribute, groups in found.groups.items()
        for name, row in groups.items()
    )
    head = ["patients", "cases", "answered", "wrong among answers", "true label in the set", "labels in the set, mean"]
    return table(head, rows)
