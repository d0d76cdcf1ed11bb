"""Floors at the end of a bundle's making: a bundle and results in; the bundle with the floors that it misses, or none, out."""

from __future__ import annotations

import sys

from cxr_edge.bundle import Bundle
from cxr_edge.errors import InputError
from training.bundles.card_words import BELOW_FLOOR
from training.bundles.write import add_facts, withdraw
from training.evaluation.finding_results import FindingsEvaluation
from training.evaluation.floors import check_floors, floors_of
from training.evaluation.results import Evaluation

__all__ = ["keep_above_floors"]


def keep_above_floors(bundle: Bundle, results: Evaluation | FindingsEvaluation, *, below_floor: bool) -> Bundle:
    """Return the bundle; with `below_floor` its provenance has the floors that are not met.

    Raises InputError for a floor that is not met, after the folder is no bundle any more.
    """
    try:
        missed = check_floors(results, below_floor=below_floor)
    except InputError:
        withdraw(bundle.root)
        raise
    for floor in floors_of(results):
        print(floor, file=sys.stderr)
    return add_facts(bundle, {BELOW_FLOOR: list(missed)}) if missed else bundle
