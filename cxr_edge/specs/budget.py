"""Error budget of a bundle, as stored in the manifest: from which probability on an answer is given at all.

Fitted by training on validation patients, or by `cxr-edge calibrate` on a site's own cases (`cxr_edge.calibration`).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from cxr_edge.specs.combination import Decision
from cxr_edge.specs.json_fields import (
    error_prefix,
    field_names,
    is_share,
    read_field,
    require,
    require_integer,
    require_keys,
    require_number,
    require_object,
    require_text,
)

__all__ = ["ErrorBudget", "LabelLimits", "OperatingPoint"]


@dataclass(frozen=True, kw_only=True)
class LabelLimits:
    """Limits of one label, with the cases that they are fitted on (one image of each patient)."""

    # The label is in the prediction set from this probability on: class-conditional split conformal prediction, so that the
    # true label is in the set with a probability of `coverage`, for each label. 0: always in it, for too few cases.
    set_from: float
    # A decision for the label is answered from this probability on: at most `max_wrong` of such answers are wrong, with a
    # probability of `confidence`. None: never, since no limit reaches that on the cases.
    answer_from: float | None
    cases: int  # with this true label
    answered: int  # cases with this decision from `answer_from` on
    wrong: int  # of these

    def __post_init__(self) -> None:
        require_number(self.set_from, "set_from", "a number from 0 to 1", is_share)
        if self.answer_from is not None:
            require_number(self.answer_from, "answer_from", "a number from 0 to 1, or null", is_share)
        for name in ("cases", "answered", "wrong"):
            require_integer(getattr(self, name), name, least=0)
        require(self.wrong <= self.answered, "wrong", f"at most answered = {self.answered}", self.wrong)

    def as_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in field_names(type(self))}

    @classmethod
    def from_json(cls, value: object) -> LabelLimits:
        return cls(**require_keys(value, field_names(cls)))


@dataclass(frozen=True, kw_only=True)
class ErrorBudget:
    """The promise, and the limits by which it is kept. Of labels without limits none is ever answered."""

    max_wrong: float  # share of the answers of a label that may be wrong
    confidence: float  # probability that the limits keep `max_wrong`, over draws of the cases
    coverage: float  # share of the images of a label whose prediction set holds the label
    fitted_on: str  # the cases, in words
    labels: dict[str, LabelLimits]

    def __post_init__(self) -> None:
        for name in ("max_wrong", "confidence", "coverage"):
            require_number(getattr(self, name), name, "a number above 0 and below 1", lambda v: 0 < v < 1)
        require_text(self.fitted_on, "fitted_on")
        require(bool(self.labels), "labels", "an object with one label or more", self.labels)

    def as_json(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in field_names(type(self))}
        return {**values, "labels": {label: limits.as_json() for label, limits in self.labels.items()}}

    @classmethod
    def from_json(cls, value: object) -> ErrorBudget:
        found = require_keys(value, field_names(cls))
        return cls(**{**found, "labels": read_field(found, "labels", _read_labels)})


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """Decision rule and error budget, moved together: int8 engines shift probabilities, and with them every limit."""

    decision: Decision
    budget: ErrorBudget | None

    def limits(self) -> dict[str, float | None]:
        """Return every limit by its name: `threshold LABEL`, `uncertain_below`, `set_from LABEL`, `answer_from LABEL`."""
        found: dict[str, float | None] = {f"threshold {k}": v for k, v in self.decision.thresholds.items()}
        found["uncertain_below"] = self.decision.uncertain_below
        for label, limits in ({} if self.budget is None else self.budget.labels).items():
            found |= {f"set_from {label}": limits.set_from, f"answer_from {label}": limits.answer_from}
        return found

    def digest(self) -> str:
        """Return the SHA-256 of its JSON, hexadecimal: equal for equal limits."""
        return hashlib.sha256(json.dumps(self.as_json(), sort_keys=True).encode()).hexdigest()

    def as_json(self) -> dict[str, Any]:
        return {"decision": self.decision.as_json(), "budget": None if self.budget is None else self.budget.as_json()}

    @classmethod
    def from_json(cls, value: object) -> OperatingPoint:
        found = require_keys(value, field_names(cls))
        return cls(
            decision=read_field(found, "decision", Decision.from_json),
            budget=read_field(found, "budget", lambda v: None if v is None else ErrorBudget.from_json(v)),
        )


def _read_labels(value: object) -> dict[str, LabelLimits]:
    limits = {}
    for label, found in require_object(value, "").items():
        with error_prefix(label):
            limits[label] = LabelLimits.from_json(found)
    return limits
