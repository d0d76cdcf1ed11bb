"""How an ensemble combines its members' logits and decides: values of the manifest, with the shapes of their parameters.

`cxr_edge.ops.combine` computes them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from cxr_edge.specs.json_fields import (
    each,
    exactly,
    field_names,
    inside,
    is_share,
    require,
    require_number,
    require_object,
    require_shape,
)

__all__ = ["STRATEGIES", "Combination", "Decision"]


STRATEGIES = ("voting", "average", "weighted-average", "stacking", "flannel")


SUM_TOLERANCE = 1e-3  # of probabilities and weights as a person may have rounded them


@dataclass(frozen=True, kw_only=True)
class Combination:
    """How the members' logits (members, labels) become the ensemble's probabilities (labels).

    First each member's logits are divided by its `member_temperatures` entry and soft-maxed: P (members, labels). Then
    - `voting`: share of members whose top label it is; a tie goes to the higher mean probability;
    - `average`, `weighted-average`: mean of P, or with `weights` (members, sum 1);
    - `stacking`: softmax of dense(relu(dense(P flattened))): hidden_weight (hidden, members*labels), hidden_bias
      (hidden), output_weight (labels, hidden), output_bias (labels);
    - `flannel`: f = P flattened; w = tanh(module_weight (members, n*n) @ outer(f, f) flattened + module_bias
      (members)), n = members*labels; softmax of sum_i w_i P_i.
    Last the result's log is divided by `temperature` and soft-maxed (not for voting, whose shares stay).
    `parameters` holds exactly the arrays of the strategy, as nested lists.
    """

    strategy: Literal["voting", "average", "weighted-average", "stacking", "flannel"]
    member_temperatures: tuple[float, ...]
    temperature: float
    parameters: dict[str, Any]

    def __post_init__(self) -> None:
        require(self.strategy in STRATEGIES, "strategy", f"one of {', '.join(STRATEGIES)}", self.strategy)
        for i, value in enumerate(self.member_temperatures):
            require_number(value, f"member_temperatures[{i}]", "a number above 0", lambda v: v > 0)
        require_number(self.temperature, "temperature", "a number above 0", lambda v: v > 0)
        with inside("parameters"):
            found = exactly(self.parameters, _parameter_shapes(self.strategy, members=1, labels=1))
        if self.strategy == "weighted-average":
            self._check_weights(found["weights"])

    def check_sizes(self, *, members: int, labels: int) -> None:
        """Raise BundleError unless the parameters fit so many members and labels."""
        given = len(self.member_temperatures)
        require(given == members, "member_temperatures", f"{members} numbers, one a member", f"{given} numbers")
        hidden = 0
        for name, shape in _parameter_shapes(self.strategy, members, labels).items():
            with inside("parameters"):
                wanted = tuple(hidden if n == _HIDDEN and hidden else None if n == _HIDDEN else n for n in shape)
                lengths = require_shape(self.parameters[name], name, wanted)
            hidden = lengths[shape.index(_HIDDEN)] if _HIDDEN in shape else hidden

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "member_temperatures": list(self.member_temperatures)}

    @classmethod
    def from_json(cls, value: object) -> Combination:
        found = exactly(value, field_names(cls))
        return cls(**{**found, "member_temperatures": each(found, "member_temperatures")})

    @staticmethod
    def _check_weights(weights: object) -> None:
        require_shape(weights, "parameters.weights", (None,))
        good = isinstance(weights, list | tuple) and min(weights) >= 0 and abs(sum(weights) - 1) <= SUM_TOLERANCE
        require(good, "parameters.weights", "numbers of 0 or more whose sum is 1", weights)


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The decision is the most probable label among those whose probability reaches their threshold (0 where none is
    given); if none does, the most probable one, flagged `below_threshold`. A decision whose probability is below
    `uncertain_below` is flagged `uncertain`.
    """

    thresholds: dict[str, float]
    uncertain_below: float

    def __post_init__(self) -> None:
        for label, value in require_object(self.thresholds, "thresholds").items():
            require_number(value, f"thresholds.{label}", "a number from 0 to 1", is_share)
        require_number(self.uncertain_below, "uncertain_below", "a number from 0 to 1", is_share)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: object) -> Decision:
        return cls(**exactly(value, field_names(cls)))


_HIDDEN = -1  # in a shape: the size of stacking's hidden layer, which the arrays themselves say


def _parameter_shapes(strategy: str, members: int, labels: int) -> dict[str, tuple[int, ...]]:
    scores = members * labels
    if strategy == "weighted-average":
        return {"weights": (members,)}
    if strategy == "stacking":
        return {
            "hidden_weight": (_HIDDEN, scores),
            "hidden_bias": (_HIDDEN,),
            "output_weight": (labels, _HIDDEN),
            "output_bias": (labels,),
        }
    if strategy == "flannel":
        return {"module_weight": (members, scores * scores), "module_bias": (members,)}
    return {}
