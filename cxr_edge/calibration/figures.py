"""Figures of an error budget on cases with known labels: predictions and limits in, counts with exact intervals out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr_edge.calibration.fit import LabelledCases
from cxr_edge.ops.binomial import exact_interval
from cxr_edge.specs.budget import ErrorBudget
from cxr_edge.specs.combination import Decision

__all__ = ["Counted", "LabelCounts", "Outcomes", "counted", "outcomes", "share_text"]

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """Outcome of each of N cases."""

    decided: npt.NDArray[np.int64]  # (N,), label indices
    answered: Mask  # (N,)
    sets: Mask  # (N, labels): the label is in the prediction set


@dataclass(frozen=True, kw_only=True)
class LabelCounts:
    """Counts of one label; an answer is a decision that was answered."""

    cases: int  # with this true label
    others: int  # without it
    answers: int  # with this label
    wrong: int  # of these
    in_set: int  # cases of the label whose prediction set holds it

    def __add__(self, other: LabelCounts) -> LabelCounts:
        return LabelCounts(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    @property
    def sensitivity(self) -> tuple[int, int]:
        """Cases of the label that were answered with it."""
        return self.answers - self.wrong, self.cases

    @property
    def specificity(self) -> tuple[int, int]:
        """Other cases that were not answered with it."""
        return self.others - self.wrong, self.others


@dataclass(frozen=True, kw_only=True)
class Counted:
    """Counts over a set of cases; two of them can be added."""

    cases: int
    answered: int
    wrong: int  # of the answers
    in_sets: int  # labels in all prediction sets together
    labels: Mapping[str, LabelCounts]

    def __add__(self, other: Counted) -> Counted:
        return Counted(
            cases=self.cases + other.cases,
            answered=self.answered + other.answered,
            wrong=self.wrong + other.wrong,
            in_sets=self.in_sets + other.in_sets,
            labels={label: row + other.labels[label] for label, row in self.labels.items()},
        )

    @property
    def set_size(self) -> float:
        """Mean number of labels in a prediction set."""
        return self.in_sets / self.cases if self.cases else float("nan")

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object: counts, and shares with exact 95 % intervals."""
        labels = {
            label: {
                "cases": row.cases,
                "answers": row.answers,
                "wrong": _share_json(row.wrong, row.answers),
                "sensitivity": _share_json(*row.sensitivity),
                "specificity": _share_json(*row.specificity),
                "covered": _share_json(row.in_set, row.cases),
            }
            for label, row in self.labels.items()
        }
        return {
            "cases": self.cases,
            "answered": _share_json(self.answered, self.cases),
            "wrong": _share_json(self.wrong, self.answered),
            "set_size": round(self.set_size, 6) if self.cases else None,
            "labels": labels,
        }


def outcomes(cases: LabelledCases, decision: Decision, budget: ErrorBudget | None) -> Outcomes:
    """Return what a screener with this operating point gives; without a budget it answers everything, and sets are whole."""
    decided = cases.decided(decision)
    if budget is None:
        everything = np.ones(cases.probabilities.shape, dtype=bool)
        return Outcomes(decided=decided, answered=np.ones(len(decided), dtype=bool), sets=everything)
    limits = [budget.labels.get(label) for label in cases.labels]
    answer_from = [np.inf if one is None or one.answer_from is None else one.answer_from for one in limits]
    set_from = [0.0 if one is None else one.set_from for one in limits]
    own = cases.probabilities[np.arange(len(decided)), decided]
    return Outcomes(
        decided=decided,
        answered=own >= np.array(answer_from, dtype=np.float32)[decided],
        sets=cases.probabilities >= np.array(set_from, dtype=np.float32),
    )


def counted(cases: LabelledCases, decision: Decision, budget: ErrorBudget | None) -> Counted:
    """Return the counts over all cases."""
    found = outcomes(cases, decision, budget)
    wrong = found.answered & (found.decided != cases.true)
    return Counted(
        cases=len(cases.true),
        answered=int(found.answered.sum()),
        wrong=int(wrong.sum()),
        in_sets=int(found.sets.sum()),
        labels={label: _label(cases, found, wrong, k) for k, label in enumerate(cases.labels)},
    )


def _label(cases: LabelledCases, found: Outcomes, wrong: Mask, k: int) -> LabelCounts:
    own, answers = cases.true == k, found.answered & (found.decided == k)
    return LabelCounts(
        cases=int(own.sum()),
        others=int((~own).sum()),
        answers=int(answers.sum()),
        wrong=int((answers & wrong).sum()),
        in_set=int(found.sets[own, k].sum()),
    )


def share_text(hits: int, n: int) -> str:
    """Format a share with its exact 95 % interval and counts: `4.0 % [1.1, 9.9] (4/100)`; a dash for none."""
    if not n:
        return "-"
    low, high = exact_interval(hits, n)
    return f"{100 * hits / n:.1f} % [{100 * low:.1f}, {100 * high:.1f}] ({hits}/{n})"


def _share_json(hits: int, n: int) -> dict[str, Any]:
    if not n:
        return {"value": None, "low": None, "high": None, "hits": hits, "n": n}
    low, high = exact_interval(hits, n)
    return {"value": round(hits / n, 6), "low": round(low, 6), "high": round(high, 6), "hits": hits, "n": n}
