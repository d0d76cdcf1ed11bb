"""A run beside an earlier one of the same recipe: the figures of both in, a table out.

A results folder may hold `before.json`, the results.json of a run on other data or settings; the page then has a table of the
models that both runs have. The test images differ, so that nothing is tested: a row says where the figures lie.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from training.evaluation.metrics import Figure, interval
from training.markdown import Table

__all__ = ["BEFORE", "ModelRow", "beside"]

BEFORE = "before.json"


@dataclass(frozen=True, kw_only=True)
class ModelRow:
    """Figures of one model on the test images of its run."""

    n: int
    accuracy: Figure
    macro_f: Figure
    macro_auc: Figure

    def cells(self) -> tuple[str, ...]:
        """Return the cells of a table."""
        return (str(self.n), *(interval(f) for f in (self.accuracy, self.macro_f, self.macro_auc)))


def beside(before: Mapping[str, ModelRow], after: Mapping[str, ModelRow], title: str) -> dict[str, Table]:
    """Return the table of the models that both runs have; nothing if there are none."""
    rows = tuple((name, *before[name].cells(), *row.cells()) for name, row in after.items() if name in before)
    columns = ("n", "accuracy", "macro-F", "macro-AUC")
    head = ("model", *(f"before: {c}" for c in columns), *(f"now: {c}" for c in columns))
    note = (
        "Before: the results of `before.json`, of the same recipe on other data. The two runs have other test images, so that a "
        "difference is of the data as much as of the model."
    )
    return {"before": Table(title=title, head=head, rows=rows, note=note)} if rows else {}
