"""Degraded modes of a bundle, as stored in the manifest: what decides when one or two members cannot.

Each subset of the members has its own combination, decision rule and error budget, fitted beforehand on the patients that fitted
those of all members, and its figures on them beside the figures of all members.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any

from cxr_edge.specs.budget import ErrorBudget, OperatingPoint
from cxr_edge.specs.combination import Combination, Decision
from cxr_edge.specs.json_fields import (
    field_names,
    is_share,
    read_field,
    read_list,
    require,
    require_integer,
    require_keys,
    require_number,
    require_text,
)

__all__ = [
    "MOST_MEMBERS",
    "MOST_MODES",
    "CountedShare",
    "DegradedMode",
    "ModeFigures",
    "ModePoint",
    "degraded_subsets",
]

MOST_LACKING = 2  # members that a mode goes without
MOST_MEMBERS = 9  # of a bundle with modes
MOST_MODES = 45  # the subsets of so many members that lack one or two


@dataclass(frozen=True, kw_only=True)
class CountedShare:
    """A share of images, by its counts."""

    hits: int
    n: int

    def __post_init__(self) -> None:
        require_integer(self.n, "n", least=1)
        require_integer(self.hits, "hits", least=0)
        require(self.hits <= self.n, "hits", f"at most n = {self.n}", self.hits)

    @property
    def value(self) -> float:
        return self.hits / self.n

    def as_json(self) -> dict[str, Any]:
        return {"hits": self.hits, "n": self.n}

    @classmethod
    def from_json(cls, value: object) -> CountedShare:
        return cls(**require_keys(value, field_names(cls)))


@dataclass(frozen=True, kw_only=True)
class ModeFigures:
    """Figures of some members, or of all, on images with known labels."""

    images: int  # with one of the labels; of findings, with a known one
    macro_f1: float
    macro_auc: float | None  # None without images of two labels
    sensitivity: CountedShare | None  # of the guarded label; None without one
    specificity: CountedShare | None  # of the guarded label, on all images without it
    answered: CountedShare | None  # None without an error budget

    def __post_init__(self) -> None:
        require_integer(self.images, "images", least=1)
        require_number(self.macro_f1, "macro_f1", "a number from 0 to 1", is_share)
        if self.macro_auc is not None:
            require_number(self.macro_auc, "macro_auc", "a number from 0 to 1, or null", is_share)

    def by_name(self) -> dict[str, float]:
        """Return the figures that there are, by name."""
        shares = {name: getattr(self, name) for name in ("sensitivity", "specificity", "answered")}
        known = {name: share.value for name, share in shares.items() if share is not None}
        area = {} if self.macro_auc is None else {"macro_auc": self.macro_auc}
        return {"macro_f1": self.macro_f1, **area, **known}

    def as_json(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in field_names(type(self))}
        return {name: v.as_json() if isinstance(v, CountedShare) else v for name, v in values.items()}

    @classmethod
    def from_json(cls, value: object) -> ModeFigures:
        found = require_keys(value, field_names(cls))
        shares = {name: read_field(found, name, _optional_share) for name in ("sensitivity", "specificity", "answered")}
        return cls(**{**found, **shares})


@dataclass(frozen=True, kw_only=True)
class DegradedMode:
    """Calibration of a part of the members, for images that the others do not answer."""

    members: tuple[str, ...]  # those that answer, in the order of the bundle
    combination: Combination
    decision: Decision
    budget: ErrorBudget | None  # where the bundle has one; of one that cannot be kept no label is ever answered
    guard: str | None  # the label of sensitivity and specificity
    measured_on: str  # the images of the figures, in words
    figures: ModeFigures
    figures_of_all: ModeFigures  # of all members, on the same images

    def __post_init__(self) -> None:
        require(len(self.members) > 0, "members", "a list of 1 or more names", list(self.members))
        require_text(self.measured_on, "measured_on")
        if self.guard is not None:
            require_text(self.guard, "guard", longest=64)

    @property
    def point(self) -> OperatingPoint:
        return OperatingPoint(decision=self.decision, budget=self.budget)

    def cost(self) -> dict[str, float]:
        """Return its figures by name, and those of all members as NAME_of_all."""
        of_all = {f"{name}_of_all": value for name, value in self.figures_of_all.by_name().items()}
        return {**self.figures.by_name(), **of_all}

    def cost_in_words(self) -> str:
        """Return one clause: each figure, with that of all members in brackets."""
        titles = {"macro_f1": "macro-F1", "macro_auc": "macro-AUC", "answered": "answered"}
        titles |= {name: f"{self.guard} {name}" for name in ("sensitivity", "specificity")}
        whole = self.figures_of_all.by_name()
        pairs = [(titles[k], v, whole.get(k)) for k, v in self.figures.by_name().items()]
        listed = [f"{title} {v:.3f}" + ("" if w is None else f" ({w:.3f})") for title, v, w in pairs]
        return f"{', '.join(listed)} on {self.measured_on} (in brackets: of all members)"

    def as_json(self) -> dict[str, Any]:
        return {
            "members": list(self.members),
            "combination": self.combination.as_json(),
            "decision": self.decision.as_json(),
            "budget": None if self.budget is None else self.budget.as_json(),
            "guard": self.guard,
            "measured_on": self.measured_on,
            "figures": self.figures.as_json(),
            "figures_of_all": self.figures_of_all.as_json(),
        }

    @classmethod
    def from_json(cls, value: object) -> DegradedMode:
        found = require_keys(value, field_names(cls))
        return cls(
            members=read_list(found, "members"),
            combination=read_field(found, "combination", Combination.from_json),
            decision=read_field(found, "decision", Decision.from_json),
            budget=read_field(found, "budget", lambda v: None if v is None else ErrorBudget.from_json(v)),
            guard=found["guard"],
            measured_on=found["measured_on"],
            figures=read_field(found, "figures", ModeFigures.from_json),
            figures_of_all=read_field(found, "figures_of_all", ModeFigures.from_json),
        )


@dataclass(frozen=True, kw_only=True)
class ModePoint:
    """Operating point of a degraded mode with the engines of one machine."""

    members: tuple[str, ...]
    point: OperatingPoint

    def as_json(self) -> dict[str, Any]:
        return {"members": list(self.members), **self.point.as_json()}

    @classmethod
    def from_json(cls, value: object) -> ModePoint:
        found = require_keys(value, ["members", *field_names(OperatingPoint)])
        members: tuple[str, ...] = read_list(found, "members")
        return cls(members=members, point=OperatingPoint.from_json({k: found[k] for k in field_names(OperatingPoint)}))


def degraded_subsets(members: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """Return the subsets that lack one or two members, the largest first; none of one member or more than MOST_MEMBERS."""
    if len(members) > MOST_MEMBERS:
        return ()
    sizes = (n for n in (len(members) - 1, len(members) - MOST_LACKING) if n > 0)
    return tuple(subset for n in sizes for subset in combinations(members, n))


def _optional_share(value: object) -> CountedShare | None:
    return None if value is None else CountedShare.from_json(value)
