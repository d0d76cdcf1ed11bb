"""Combination strategy and decision rule of an ensemble, as stored in the manifest.

The strategies and the shapes of their parameters are those of the native table (csrc/include/cxr/combine_math.h), against
which a manifest's parameters are checked here. `cxr_edge.ops.combine` computes the combination.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import cxr_edge._core as _core
from cxr_edge.specs.json_fields import (
    error_prefix,
    field_names,
    is_share,
    read_list,
    require,
    require_keys,
    require_number,
    require_object,
    require_shape,
)

__all__ = [
    "ACTIVATIONS",
    "DEFAULT_THRESHOLD",
    "STRATEGIES",
    "Activation",
    "Combination",
    "Decision",
    "parameter_shapes",
]

STRATEGIES = _core.COMBINATION_STRATEGIES
ACTIVATIONS = _core.COMBINATION_ACTIVATIONS

_OPTIONAL: dict[str, Any] = {"activation": "softmax", "label_temperatures": []}  # keys that may be absent

Activation = Literal["softmax", "sigmoid"]

DEFAULT_THRESHOLD = 0.5  # of a finding in a multi-label bundle

SUM_TOLERANCE = 1e-3  # of probabilities and weights that a person may have rounded


@dataclass(frozen=True, kw_only=True)
class Combination:
    """Combination of the members' logits (members, labels) into the ensemble's probabilities (labels).

    First the logits of each member are divided by its temperature and soft-maxed: P (members, labels). Then
    - `voting`: share of members with this top label; a tie goes to the higher mean probability;
    - `average`, `weighted-average`: mean of P, or the mean with `weights`;
    - `stacking`: softmax of dense(relu(dense(P flattened))), with hidden_* and output_*;
    - `flannel`: f = P flattened; w = tanh(module_weight @ outer(f, f) flattened + module_bias); softmax of sum_i w_i P_i.
    Finally the log of the result is divided by `temperature` and soft-maxed (not for voting, whose shares stay).

    With the activation `sigmoid` each label is a finding of its own, present or absent, and P is the sigmoid of each logit:
    - `voting`: share of members whose P is 0.5 or more;
    - `average`, `weighted-average`: as above; their logits follow;
    - `stacking`: as above, without the softmax;
    - `flannel`: w as above; sum_i w_i (2 P_i - 1), since a finding is a problem of two classes, 1 - P and P.
    Finally the sigmoid of the result divided by `temperature` and the label's own temperature (not for voting).
    """

    strategy: str  # one of STRATEGIES
    member_temperatures: tuple[float, ...]  # one per member
    temperature: float
    parameters: dict[str, Any]  # exactly the arrays of the strategy (`parameter_shapes`), as nested lists
    activation: Activation = "softmax"  # sigmoid: the labels do not exclude each other
    label_temperatures: tuple[float, ...] = ()  # sigmoid only: one per label; (): 1 for each

    def __post_init__(self) -> None:
        require(self.strategy in STRATEGIES, "strategy", f"one of {', '.join(STRATEGIES)}", self.strategy)
        for i, value in enumerate(self.member_temperatures):
            require_number(value, f"member_temperatures[{i}]", "a number above 0", lambda v: v > 0)
        require_number(self.temperature, "temperature", "a number above 0", lambda v: v > 0)
        self._check_activation()
        with error_prefix("parameters"):
            found = require_keys(self.parameters, parameter_shapes(self.strategy, members=1, labels=1))
        if self.strategy == "weighted-average":
            self._check_weights(found["weights"])

    def check_sizes(self, *, members: int, labels: int) -> None:
        """Raise BundleError unless the parameters fit these numbers of members and labels."""
        found = len(self.label_temperatures)
        require(
            found in {0, labels}, "label_temperatures", f"{labels} numbers, one per label, or none", f"{found} numbers"
        )
        actual = len(self.member_temperatures)
        require(actual == members, "member_temperatures", f"{members} numbers, one per member", f"{actual} numbers")
        hidden: int | None = None
        for name, shape in parameter_shapes(self.strategy, members=members, labels=labels).items():
            with error_prefix("parameters"):
                expected = tuple(hidden if n is None else n for n in shape)
                lengths = require_shape(self.parameters[name], name, expected)
            hidden = lengths[shape.index(None)] if None in shape else hidden

    def as_json(self) -> dict[str, Any]:
        values = {**asdict(self), "member_temperatures": list(self.member_temperatures)}
        values["label_temperatures"] = list(self.label_temperatures)
        return values if self.activation == "sigmoid" else {k: v for k, v in values.items() if k not in _OPTIONAL}

    @classmethod
    def from_json(cls, value: object) -> Combination:
        found = require_keys({**_OPTIONAL, **require_object(value, "")}, field_names(cls))
        for name in ("member_temperatures", "label_temperatures"):
            found[name] = read_list(found, name)
        return cls(**found)

    def _check_activation(self) -> None:
        require(self.activation in ACTIVATIONS, "activation", f"one of {', '.join(ACTIVATIONS)}", self.activation)
        for i, value in enumerate(self.label_temperatures):
            require_number(value, f"label_temperatures[{i}]", "a number above 0", lambda v: v > 0)
        allowed = self.activation == "sigmoid" or not self.label_temperatures
        require(allowed, "label_temperatures", "none with the activation softmax", self.label_temperatures)

    @staticmethod
    def _check_weights(weights: object) -> None:
        require_shape(weights, "parameters.weights", (None,))
        valid = isinstance(weights, list | tuple) and min(weights) >= 0 and abs(sum(weights) - 1) <= SUM_TOLERANCE
        require(valid, "parameters.weights", "numbers of 0 or more with the sum 1", weights)


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Decision rule: the most probable label among those that reach their threshold, labels of `first` before all others.

    If none does, the most probable label, flagged `below_threshold`. In a multi-label bundle each finding that reaches its
    threshold is present, and `first` is empty.
    """

    thresholds: dict[str, float]  # by label; 0 for a label without one, DEFAULT_THRESHOLD for a finding
    uncertain_below: float  # a decided label, or a present finding, with a lower probability is flagged `uncertain`
    # Labels that are decided when they reach their threshold, even if another is more probable.
    first: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        listed = isinstance(self.first, list | tuple) and all(isinstance(label, str) for label in self.first)
        require(listed, "first", "a list of labels", self.first)
        object.__setattr__(self, "first", tuple(self.first))
        for label, value in require_object(self.thresholds, "thresholds").items():
            require_number(value, f"thresholds.{label}", "a number from 0 to 1", is_share)
        require_number(self.uncertain_below, "uncertain_below", "a number from 0 to 1", is_share)
        for label in self.first:
            require(label in self.thresholds, "first", f"of labels with a threshold, {list(self.thresholds)}", label)

    def threshold_of(self, finding: str) -> float:
        """Return the threshold of a finding in a multi-label bundle."""
        return self.thresholds.get(finding, DEFAULT_THRESHOLD)

    def as_json(self) -> dict[str, Any]:
        values = {**asdict(self), "first": list(self.first)}
        return values if self.first else {k: v for k, v in values.items() if k != "first"}

    @classmethod
    def from_json(cls, value: object) -> Decision:
        found = {"first": (), **require_object(value, "")}  # the one key that may be absent
        return cls(**require_keys(found, field_names(cls)))


def parameter_shapes(strategy: str, *, members: int, labels: int) -> dict[str, tuple[int | None, ...]]:
    """Return the shapes of a strategy's parameters by name. None: a length that the arrays determine, the same in all."""
    return _core.combination_shapes(strategy, members=members, labels=labels)
