"""The site kit on sites that trained nothing: predictions on left-out images in, what was promised and what was found out.

Cases are drawn from the patients of a site again and again, an operating point is fitted to each draw as `cxr-edge calibrate`
does, and the patients that were not drawn show what it does. The draws of one site share its patients, so that their spread is
that of a calibration there, not that between hospitals, which the rows show.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from cxr_edge.calibration import LabelledCases, Promise, guarded_label, one_per_patient
from cxr_edge.calibration.figures import Counted, LabelCounts, outcomes
from cxr_edge.site.fit import PointRequest, apply_point, fit_point
from cxr_edge.site.plan import needed_cases
from cxr_edge.specs.combination import Decision
from training.evaluation.metrics import Figure, proportion
from training.json_records import ROUNDED

__all__ = ["KitRow", "KitSite", "Spread", "TrustResults", "kit_row"]

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
_EDGES = (0.025, 0.975)  # of the draws
_LEAST_OF_A_LABEL = 10  # answers, or cases, of a label in the rest of a site to count its share


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Mean over draws, with the range that 95 % of them have; NaN without any."""

    mean: float = field(metadata=ROUNDED)
    low: float = field(metadata=ROUNDED)
    high: float = field(metadata=ROUNDED)

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of values; NaN among them are left out."""
        known = np.array([v for v in values if not np.isnan(v)])
        if not len(known):
            return cls(mean=np.nan, low=np.nan, high=np.nan)
        low, high = np.quantile(known, _EDGES)
        return cls(mean=float(known.mean()), low=float(low), high=float(high))


@dataclass(frozen=True, kw_only=True)
class KitSite:
    """Predictions on one site, or on sites of a fold together, one image of each patient."""

    name: str
    about: str  # what the labels and sources are, and what it cannot show
    pooled: bool  # several sources together
    question: str  # labels that it distinguishes, in words
    cases: LabelledCases
    adult_normals: Mask  # (N,)
    decision: Decision  # of the networks, fitted without the site

    def only_guarded(self) -> KitSite:
        """Return the same site for the question whether a patient has the guarded label or not."""
        guard = guarded_label(self.decision) or ""
        k, own = self.cases.labels.index(guard), self.cases.probabilities[:, self.cases.labels.index(guard)]
        two = np.stack([np.float32(1) - own, own], axis=1)
        cases = LabelledCases(
            labels=(f"not {guard}", guard),
            probabilities=two,
            winners=two.argmax(axis=1),
            true=(self.cases.true == k).astype(np.int64),
            patients=self.cases.patients,
        )
        return replace(self, cases=cases, question=f"{guard} or not")

    def __post_init__(self) -> None:
        if len(one_per_patient(self.cases.patients, seed=0)) != len(self.cases.true):
            raise ValueError(f"{self.name}: a patient has several images")


@dataclass(frozen=True, kw_only=True)
class KitRow:
    """One site with one budget."""

    site: str
    about: str
    pooled: bool
    question: str
    max_wrong: float
    max_called: float
    patients: int
    labels: Mapping[str, int]  # cases of each label that occurs
    drawn: int  # cases of a draw
    draws: int
    silent: int  # draws on which no answer keeps the budget, so that `calibrate` refuses
    # Before, on all patients, without abstention.
    called_before: Figure  # adult normals called the guarded label
    found_before: Figure  # patients with the guarded label called so
    wrong_before: Figure  # decisions
    # After, on the patients that were not drawn.
    called: Spread  # adult normals answered with the guarded label
    others_called: Spread  # all patients without the label answered with it
    found: Spread  # patients with the guarded label answered with it
    unanswered: Spread
    wrong: Spread  # of all answers
    worst_label: Spread  # the highest share of wrong answers of a label
    covered: Spread  # prediction sets that hold the true label
    least_covered: Spread  # the lowest coverage of a label
    set_size: Spread
    # Share of all draws with a label whose answers in the rest are wrong more often than the budget says; the same of calls.
    broken: float = field(metadata=ROUNDED)
    calls_broken: float = field(metadata=ROUNDED)


@dataclass(frozen=True, kw_only=True)
class TrustResults:
    """Results of the study."""

    variants: tuple[str, ...]  # whose mean probabilities are the predictions
    guard: str
    found: float  # of the guarded label, among validation patients, by the rule before
    seed: int
    confidence: float
    coverage: float
    folds: Mapping[str, tuple[str, ...]]
    rows: tuple[KitRow, ...]
    left_out: tuple[str, ...]  # sources without a row of their own, with the reason
    reliability: Mapping[
        str, tuple[tuple[float, float, int], ...]
    ]  # images -> (mean top probability, share right, images)
    risk: Mapping[
        str, tuple[tuple[float, float], ...]
    ]  # site -> (share answered, share wrong of these), by top probability


def kit_row(site: KitSite, promise: Promise, *, drawn: int, draws: int, seed: int) -> KitRow:
    """Return the figures of `draws` calibrations on `drawn` patients of a site each."""
    guard = guarded_label(site.decision)
    if guard is None:
        raise ValueError("the study needs a decision with one guarded label")
    rng, k, found = np.random.default_rng(seed), site.cases.labels.index(guard), _Draws()
    for i in range(draws):
        rows = np.zeros(len(site.cases.true), dtype=bool)
        rows[rng.permutation(len(rows))[:drawn]] = True
        _one_draw(site, rows, promise, k, found, seed=seed + i)
    before = site.cases.decided(site.decision)
    own, normal = site.cases.true == k, site.adult_normals
    return KitRow(
        site=site.name,
        about=site.about,
        pooled=site.pooled,
        question=site.question,
        max_wrong=promise.max_wrong,
        max_called=promise.max_called or promise.max_wrong,
        patients=len(own),
        labels={label: n for label, n in site.cases.counts.items() if n},
        drawn=drawn,
        draws=draws,
        silent=found.silent,
        called_before=proportion(int((before[normal] == k).sum()), int(normal.sum())),
        found_before=proportion(int((before[own] == k).sum()), int(own.sum())),
        wrong_before=proportion(int((before != site.cases.true).sum()), len(own)),
        **{name: Spread.of(values) for name, values in found.values.items()},
        broken=float(np.mean(found.broken)),
        calls_broken=float(
            np.mean(np.array(found.values["others_called"]) > (promise.max_called or promise.max_wrong))
        ),
    )


class _Draws:
    """Figures of all draws so far."""

    def __init__(self) -> None:
        names = (
            "called",
            "others_called",
            "found",
            "unanswered",
            "wrong",
            "worst_label",
            "covered",
            "least_covered",
            "set_size",
        )
        self.values: dict[str, list[float]] = {name: [] for name in names}
        self.broken: list[bool] = []
        self.silent = 0


def _one_draw(site: KitSite, rows: Mask, promise: Promise, k: int, found: _Draws, *, seed: int) -> None:
    """Calibrate on the cases of `rows` as a user would, who gives up labels with too few of them, and count on the others."""
    cases, rest = site.cases.only(rows), site.cases.only(~rows)
    least = needed_cases(promise)
    never = [label for label, n in cases.counts.items() if n < least]
    request = PointRequest(decision=site.decision, promise=promise, never=never, temperature=False, seed=seed)
    point = fit_point(cases, request)
    done, seen = apply_point(rest, point), outcomes(rest, point.decision, point.budget)
    called = seen.answered & (seen.decided == k)
    guard, normal = done.labels[rest.labels[k]], site.adult_normals[~rows]
    found.silent += all(limits.answer_from is None for limits in point.budget.labels.values())
    values = {
        "called": _mean(called[normal]),
        "others_called": _mean(called[rest.true != k]),
        "found": _ratio(*guard.sensitivity),
        "unanswered": 1 - _ratio(done.answered, done.cases),
        "wrong": _ratio(done.wrong, done.answered),
        "worst_label": _worst_label(done),
        "covered": _ratio(sum(row.in_set for row in done.labels.values()), done.cases),
        "least_covered": _least_covered(done),
        "set_size": done.set_size,
    }
    for name, value in values.items():
        found.values[name].append(value)
    found.broken.append(any(row.wrong > promise.max_wrong * row.answers for row in _answered(done)))


def _answered(done: Counted) -> list[LabelCounts]:
    return [row for row in done.labels.values() if row.answers >= _LEAST_OF_A_LABEL]


def _worst_label(done: Counted) -> float:
    return max((row.wrong / row.answers for row in _answered(done)), default=float("nan"))


def _least_covered(done: Counted) -> float:
    known = [row for row in done.labels.values() if row.cases >= _LEAST_OF_A_LABEL]
    return min((row.in_set / row.cases for row in known), default=float("nan"))


def _mean(values: Mask) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _ratio(hits: int, n: int) -> float:
    return hits / n if n else float("nan")
