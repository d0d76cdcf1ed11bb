"""Plan: promises that a number of cases can keep, before any is collected: a budget in, exact bounds as lines of text out."""

from __future__ import annotations

from typing import Any

from cxr_edge.calibration import Promise
from cxr_edge.calibration.conformal import rank_of_limit
from cxr_edge.ops.binomial import least_cases, most_wrong, upper_bound

__all__ = ["PLANNED", "least_for_sets", "needed_cases", "plan_as_json", "plan_lines"]

PLANNED = (50, 100, 200, 500)
_OBSERVED = (0.0, 0.02, 0.05)  # shares of wrong answers among the cases
_ANSWERED = (0.9, 0.7, 0.5)  # shares of a label's cases that are answered with it


def least_for_sets(coverage: float) -> int:
    """Return the fewest cases of a label with which its prediction sets exclude it anywhere."""
    n = 1
    while rank_of_limit(n, coverage) == 0:
        n += 1
    return n


def needed_cases(promise: Promise) -> int:
    """Return the fewest cases of a label with which it can be answered and excluded at all."""
    return max(least_cases(promise.max_wrong, promise.confidence), least_for_sets(promise.coverage))


def plan_as_json(promise: Promise) -> dict[str, Any]:
    """Return the plan as a JSON object."""
    return {
        "max_wrong": promise.max_wrong,
        "confidence": promise.confidence,
        "coverage": promise.coverage,
        "least_cases_of_a_label": needed_cases(promise),
        "least_answers": {str(w): least_cases(promise.max_wrong, promise.confidence, w) for w in range(5)},
        "least_cases_for_sets": least_for_sets(promise.coverage),
        "least_cases_without_the_guarded_label": least_cases(_called(promise), promise.confidence),
        "cases": {str(n): _row(n, promise) for n in PLANNED},
    }


def _row(n: int, promise: Promise) -> dict[str, Any]:
    rank = rank_of_limit(n, promise.coverage)
    bounds = {f"{share:g}": upper_bound(round(share * n), n, promise.confidence) for share in _OBSERVED}
    return {
        "most_wrong_answers": most_wrong(n, promise.max_wrong, promise.confidence),
        "shown_with_wrong_share": {share: round(bound, 6) for share, bound in bounds.items()},
        # Coverage over draws of the cases is a beta variable, whose lower bound is a binomial's.
        "coverage_at_least": None if not rank else round(1 - upper_bound(rank - 1, n, promise.confidence), 6),
    }


def plan_lines(promise: Promise) -> list[str]:
    """Return the plan as text."""
    wrong, sure, coverage = promise.max_wrong, promise.confidence, promise.coverage
    lines = [
        f"Promise: at most {wrong:.1%} of the answers of a label are wrong (confidence {sure:.0%} for each label), and its",
        f"prediction sets hold the true label for {coverage:.1%} of its patients. A case is a patient; only one image counts.",
        "",
        "cases with that decision   may be wrong   with 0 %, 2 %, 5 % of them wrong, this is shown   sets cover at least",
    ]
    for n in PLANNED:
        row = _row(n, promise)
        most, least = row["most_wrong_answers"], row["coverage_at_least"]
        shown = ", ".join(f"{bound:.1%}" for bound in row["shown_with_wrong_share"].values())
        may = "too few" if most is None else f"{most}"
        lines.append(
            f"{n:24d}   {may:>12s}   {f'at most {shown}':>49s}   {'too few' if least is None else f'{least:.1%}':>19s}"
        )
    faultless = ", ".join(f"{least_cases(wrong, sure, w)} with {w}" for w in range(4))
    rows = ", ".join(f"{_collected(promise, share)} where {share:.0%} are answered" for share in _ANSWERED)
    lines += [
        "",
        f"Answers that are needed before a label is answered at all: {faultless} wrong.",
        f"Cases of each label to collect, if none of its answers is wrong: {rows}.",
        f"Cases of a label below which its sets exclude nothing: {least_for_sets(coverage)}.",
        f"Cases without a guarded label (such as normals), so that at most {_called(promise):.1%} of such are called it: "
        f"{least_cases(_called(promise), sure)} with no false call, {least_cases(_called(promise), sure, 1)} with one.",
        "Labels without cases are never answered. Nothing is promised for other scanners, other patients, or another "
        "frequency of",
        "the labels than among the cases: collect consecutive patients of the site, one image each.",
    ]
    return lines


def _called(promise: Promise) -> float:
    return promise.max_wrong if promise.max_called is None else promise.max_called


def _collected(promise: Promise, answered: float) -> int:
    """Return the cases of a label of which this share makes enough answers."""
    return -int(-least_cases(promise.max_wrong, promise.confidence) // answered)
