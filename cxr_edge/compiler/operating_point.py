"""Operating point of an engine set: the manifest's limits, moved as far as the engines move the probabilities beside them.

Probabilities of the build's images by the fp32 reference and by the engines come in; a `FittedPoint` comes out: the decision
rule and error budget of these engines, and for each limit what was seen. Reduced precision shifts probabilities, and a limit
that stays where it was then decides other images. docs/decisions/0018-operating-points.md has how the rule was chosen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from cxr_edge.specs.budget import ErrorBudget, OperatingPoint
from cxr_edge.specs.combination import Decision

__all__ = ["LEAST_NEAR", "FittedPoint", "LimitFit", "LimitName", "Outputs", "fit_limit", "fit_point"]

LimitName = Literal["threshold", "uncertain_below", "set_from", "answer_from"]

LEAST_NEAR = 10  # images near a limit, below which it is never moved: fewer cannot tell a shift from chance
_NEAR = 1.0  # in log odds: of a limit of 0.5 from 0.27 to 0.73, of 0.9 from 0.77 to 0.96
_CHANCE = 0.01  # that changes without a common direction look as if they had one
_ROUNDING = 1e-4  # a smaller move is what fp32 sums in another order differ by
_LEAST_ODDS = 1e-6  # probabilities of 0 and 1 have no log odds

Values = npt.NDArray[np.floating]


@dataclass(frozen=True, kw_only=True)
class LimitFit:
    """One limit of the manifest, and what the images show of it."""

    name: LimitName
    label: str | None  # None: of all labels
    manifest: float
    engines: float  # the same where it was not moved
    near: int  # images within `_NEAR` of it, by the reference
    changed: int  # images on another side of it than by the reference, if it were not moved
    changed_if_moved: int  # the same at `engines`

    @property
    def moved(self) -> bool:
        return self.engines != self.manifest

    @property
    def title(self) -> str:
        return self.name if self.label is None else f"{self.name} {self.label}"


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """Probabilities of N images by the reference and by the engines, and the reference's decisions at the manifest's limits."""

    labels: tuple[str, ...]
    multi_label: bool
    reference: Values  # (N, labels)
    engines: Values  # (N, labels)
    decided: npt.NDArray[np.bool_]  # (N, labels): the decided label, or the present findings


@dataclass(frozen=True, kw_only=True)
class FittedPoint:
    """Operating point of engines."""

    point: OperatingPoint
    limits: tuple[LimitFit, ...]

    @property
    def moved(self) -> bool:
        """True if the point differs from the manifest's."""
        return any(limit.moved for limit in self.limits)


def fit_point(manifest: OperatingPoint, outputs: Outputs, *, drawn: bool = False) -> FittedPoint:
    """Return the operating point of the engines: each limit moved as `fit_limit` does.

    drawn: the images are drawings, whose probabilities need not shift as those of X-rays do: no limit is moved.
    """
    limits = tuple(
        _fit(name, label, value, outputs.reference[rows], outputs.engines[rows], drawn=drawn)
        for name, label, value, rows in _limits(manifest, outputs)
    )
    return FittedPoint(point=_with_limits(manifest, limits), limits=limits)


def fit_limit(reference: Values, engines: Values, limit: float) -> float:
    """Return the limit of the engines' probabilities (n) that `limit` is of the reference's.

    It is `limit` moved by the median change, in log odds, of the probabilities near it; and `limit` itself where fewer than
    LEAST_NEAR images lie near it, where their changes have no common direction, or where more images would change sides.
    """
    near = _near(reference, limit)
    changes = _log_odds(engines[near]) - _log_odds(reference[near])
    if near.sum() < LEAST_NEAR or _by_chance(changes) > _CHANCE:
        return limit
    moved = round(float(1 / (1 + np.exp(-(_log_odds(np.array(limit)) + np.median(changes))))), 6)
    worse = _changed(reference, engines, limit, moved) > _changed(reference, engines, limit, limit)
    return limit if worse or abs(moved - limit) < _ROUNDING else moved


def _by_chance(changes: Values) -> float:
    """Return the probability that as many changes have one direction if each has either with probability 1/2 (sign test)."""
    up, down = int((changes > 0).sum()), int((changes < 0).sum())
    n = up + down
    one_side = sum(math.comb(n, k) for k in range(max(up, down), n + 1))
    return min(1.0, one_side / (1 << (n - 1))) if n else 1.0  # of whole numbers, which do not overflow


def _fit(
    name: LimitName, label: str | None, limit: float, reference: Values, engines: Values, *, drawn: bool
) -> LimitFit:
    moved = limit if drawn else fit_limit(reference, engines, limit)
    return LimitFit(
        name=name,
        label=label,
        manifest=limit,
        engines=moved,
        near=int(_near(reference, limit).sum()),
        changed=_changed(reference, engines, limit, limit),
        changed_if_moved=_changed(reference, engines, limit, moved),
    )


def _limits(
    point: OperatingPoint, outputs: Outputs
) -> Iterator[tuple[LimitName, str | None, float, npt.NDArray[np.bool_]]]:
    """Yield each limit above 0 with the probabilities that are compared with it, a mask (N, labels)."""
    decision, columns = point.decision, {label: k for k, label in enumerate(outputs.labels)}
    thresholds = {k: decision.threshold_of(k) for k in outputs.labels} if outputs.multi_label else decision.thresholds
    found: list[tuple[LimitName, str | None, float | None, npt.NDArray[np.bool_]]] = [
        ("threshold", label, value, _column(outputs, columns[label])) for label, value in thresholds.items()
    ]
    found.append(("uncertain_below", None, decision.uncertain_below, outputs.decided))
    for label, limits in ({} if point.budget is None else point.budget.labels).items():
        column = _column(outputs, columns[label])
        found.append(("set_from", label, limits.set_from, column))
        found.append(("answer_from", label, limits.answer_from, column & outputs.decided))
    yield from ((name, label, value, mask) for name, label, value, mask in found if value)


def _column(outputs: Outputs, column: int) -> npt.NDArray[np.bool_]:
    mask = np.zeros(outputs.decided.shape, dtype=bool)
    mask[:, column] = True
    return mask


def _near(reference: Values, limit: float) -> npt.NDArray[np.bool_]:
    return np.abs(_log_odds(reference) - _log_odds(np.array(limit))) <= _NEAR


def _changed(reference: Values, engines: Values, before: float, after: float) -> int:
    """Return how many of the images are on another side; limits are compared as float32, as the decision rule does."""
    return int(((reference >= np.float32(before)) != (engines >= np.float32(after))).sum())


def _log_odds(share: Values) -> npt.NDArray[np.float64]:
    clipped = np.clip(share.astype(np.float64), _LEAST_ODDS, 1 - _LEAST_ODDS)
    return np.asarray(np.log(clipped) - np.log1p(-clipped))


def _with_limits(point: OperatingPoint, limits: Sequence[LimitFit]) -> OperatingPoint:
    """Return the operating point with the moved limits in place of the manifest's."""
    moved = {(limit.name, limit.label): limit.engines for limit in limits if limit.moved}
    return OperatingPoint(
        decision=_decision(point.decision, moved), budget=None if point.budget is None else _budget(point.budget, moved)
    )


def _decision(decision: Decision, moved: dict[tuple[LimitName, str | None], float]) -> Decision:
    thresholds = {label: value for (name, label), value in moved.items() if name == "threshold" and label is not None}
    return replace(
        decision,
        thresholds={**decision.thresholds, **thresholds},
        uncertain_below=moved.get(("uncertain_below", None), decision.uncertain_below),
    )


def _budget(budget: ErrorBudget, moved: dict[tuple[LimitName, str | None], float]) -> ErrorBudget:
    labels = {
        label: replace(
            limits,
            set_from=moved.get(("set_from", label), limits.set_from),
            answer_from=moved.get(("answer_from", label), limits.answer_from),
        )
        for label, limits in budget.labels.items()
    }
    return replace(budget, labels=labels)
