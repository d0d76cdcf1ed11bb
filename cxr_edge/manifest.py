"""`manifest.json` as values: what a bundle says about its networks, their combination and the decision.

`bundle` reads and checks the folder around it; training writes one with `Manifest.as_json`. Every dataclass checks
itself, reading refuses unknown and missing keys, and a message names the key by its path in the file.
docs/bundle-format.md is the prose of this module.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any, Literal

from cxr_edge import __version__
from cxr_edge._json_fields import (
    FieldError,
    each,
    exactly,
    inside,
    nested,
    require,
    require_integer,
    require_number,
    require_object,
    require_shape,
    require_text,
    show,
)
from cxr_edge._manifest_networks import FileRef, LungBoxRule, Member, Segmenter
from cxr_edge.errors import BundleError

__all__ = [
    "SCHEMA",
    "STRATEGIES",
    "Combination",
    "Decision",
    "FileRef",
    "KnownAnswer",
    "LungBoxRule",
    "Manifest",
    "Member",
    "Segmenter",
]

SCHEMA = "cxr-edge-bundle/1"

STRATEGIES = ("voting", "average", "weighted-average", "stacking", "flannel")

_SUM_TOLERANCE = 1e-3  # of probabilities and weights as a person may have rounded them


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
        found = exactly(value, _names(cls))
        return cls(**{**found, "member_temperatures": each(found, "member_temperatures")})

    @staticmethod
    def _check_weights(weights: object) -> None:
        require_shape(weights, "parameters.weights", (None,))
        good = isinstance(weights, list | tuple) and min(weights) >= 0 and abs(sum(weights) - 1) <= _SUM_TOLERANCE
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
            require_number(value, f"thresholds.{label}", "a number from 0 to 1", _is_share)
        require_number(self.uncertain_below, "uncertain_below", "a number from 0 to 1", _is_share)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: object) -> Decision:
        return cls(**exactly(value, _names(cls)))


@dataclass(frozen=True, kw_only=True)
class KnownAnswer:
    """A synthetic image of the bundle and what the fp32 reference answers to it: lung box and probabilities.

    roi: (x0, y0, x1, y1) in pixels of the image, half open.
    """

    file: FileRef
    roi: tuple[int, int, int, int]
    probabilities: tuple[float, ...]

    def __post_init__(self) -> None:
        require(isinstance(self.roi, tuple) and len(self.roi) == 4, "roi", "[x0, y0, x1, y1]", self.roi)
        for i, value in enumerate(self.roi):
            require_integer(value, f"roi[{i}]", least=0)
        x0, y0, x1, y1 = self.roi
        require(x0 < x1 and y0 < y1, "roi", "[x0, y0, x1, y1] with x0 < x1 and y0 < y1", self.roi)
        for i, share in enumerate(self.probabilities):
            require_number(share, f"probabilities[{i}]", "a number from 0 to 1", _is_share)
        good = abs(sum(self.probabilities) - 1) <= _SUM_TOLERANCE
        require(good, "probabilities", "numbers whose sum is 1", self.probabilities)

    def as_json(self) -> dict[str, Any]:
        return {"file": self.file.as_json(), "roi": list(self.roi), "probabilities": list(self.probabilities)}

    @classmethod
    def from_json(cls, value: object) -> KnownAnswer:
        found = exactly(value, _names(cls))
        return cls(
            file=nested(found, "file", FileRef.from_json),
            roi=each(found, "roi"),  # type: ignore[arg-type]  # its length is checked in __post_init__
            probabilities=each(found, "probabilities"),
        )


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The whole manifest. segmenter None: members see the whole frame.

    created: ISO 8601. provenance, metrics: any JSON objects; cxr-edge only shows them.
    """

    name: str
    version: str
    created: str
    labels: tuple[str, ...]
    segmenter: Segmenter | None
    members: tuple[Member, ...]
    combination: Combination
    decision: Decision
    known_answers: tuple[KnownAnswer, ...]
    model_card: FileRef
    intended_use: str
    provenance: dict[str, Any]
    metrics: dict[str, Any]

    def __post_init__(self) -> None:
        require_text(self.name, "name", longest=200)
        require_text(self.version, "version", longest=200)
        require(_is_time(self.created), "created", "a time as ISO 8601 writes it", self.created)
        for i, label in enumerate(self.labels):
            require_text(label, f"labels[{i}]", longest=64)
        distinct = len(set(self.labels)) == len(self.labels) >= 2
        require(distinct, "labels", "2 or more different texts", self.labels)
        require_text(self.intended_use, "intended_use")
        for key, facts in (("provenance", self.provenance), ("metrics", self.metrics)):
            require_object(facts, key)
            require(_is_json(facts), key, "an object that JSON can hold", facts)
        self._check_members()
        self._check_against_labels()

    def files(self) -> Iterator[tuple[str, FileRef]]:
        """Every file the manifest names, with the path of its key: `("members[0].file", FileRef(...))`."""
        networks: list[tuple[str, Segmenter | Member]] = [("segmenter", self.segmenter)] if self.segmenter else []
        networks += [(f"members[{i}]", member) for i, member in enumerate(self.members)]
        for key, network in networks:
            yield f"{key}.file", network.file
            if network.activation_ranges is not None:
                yield f"{key}.activation_ranges", network.activation_ranges
        for i, answer in enumerate(self.known_answers):
            yield f"known_answers[{i}].file", answer.file
        yield "model_card", self.model_card

    def as_json(self) -> dict[str, Any]:
        """The JSON object of manifest.json; `from_json` reads it."""
        return {
            "schema": SCHEMA,
            "name": self.name,
            "version": self.version,
            "created": self.created,
            "intended_use": self.intended_use,
            "labels": list(self.labels),
            "segmenter": None if self.segmenter is None else self.segmenter.as_json(),
            "members": [m.as_json() for m in self.members],
            "combination": self.combination.as_json(),
            "decision": self.decision.as_json(),
            "known_answers": [k.as_json() for k in self.known_answers],
            "model_card": self.model_card.as_json(),
            "provenance": self.provenance,
            "metrics": self.metrics,
        }

    @classmethod
    def from_json(cls, value: object) -> Manifest:
        """Read `as_json`'s form. Raises BundleError that names the key by its path, or ContractError for a spec whose
        digest is not the one beside it.
        """
        _check_schema(require_object(value, ""))
        found = exactly(value, [*_names(cls), "schema"])
        del found["schema"]
        return cls(
            **{
                **found,
                "labels": each(found, "labels"),
                "segmenter": nested(found, "segmenter", lambda v: None if v is None else Segmenter.from_json(v)),
                "members": each(found, "members", Member.from_json),
                "combination": nested(found, "combination", Combination.from_json),
                "decision": nested(found, "decision", Decision.from_json),
                "known_answers": each(found, "known_answers", KnownAnswer.from_json),
                "model_card": nested(found, "model_card", FileRef.from_json),
            }
        )

    def _check_members(self) -> None:
        require(len(self.members) >= 1, "members", "a list of 1 or more", self.members)
        names = [m.name.lower() for m in self.members]  # engines become files, also where case is not told apart
        for i, name in enumerate(names):
            require(name not in names[:i], f"members[{i}].name", "unlike every other member's, case aside", name)
        for i, member in enumerate(self.members):
            good = self.segmenter is not None or member.preprocess.region == "frame"
            key = f"members[{i}].preprocess.region"
            require(good, key, "'frame' in a bundle without a segmenter", member.preprocess.region)

    def _check_against_labels(self) -> None:
        with inside("combination"):
            self.combination.check_sizes(members=len(self.members), labels=len(self.labels))
        for label in self.decision.thresholds:
            require(label in self.labels, "decision.thresholds", f"of labels among {list(self.labels)}", label)
        for i, answer in enumerate(self.known_answers):
            count, key = len(answer.probabilities), f"known_answers[{i}].probabilities"
            require(count == len(self.labels), key, f"{len(self.labels)} numbers, one a label", f"{count} numbers")


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


def _check_schema(found: dict[str, Any]) -> None:
    schema = found.get("schema")
    version = re.fullmatch(r"cxr-edge-bundle/([0-9]{1,6})", schema) if isinstance(schema, str) else None
    if version is None:
        raise FieldError("schema", f"must be {show(SCHEMA)}, got {show(schema)}: this is no cxr-edge bundle")
    if schema != SCHEMA:
        raise BundleError(
            f"manifest.json: the bundle has schema {schema}, and this cxr-edge ({__version__}) is too old for it, "
            f"it reads {SCHEMA}: install a newer cxr-edge, or export the bundle again with this one"
        )


def _names(cls: Any) -> list[str]:
    return [f.name for f in fields(cls)]


def _is_share(value: float) -> bool:
    return 0 <= value <= 1


def _is_time(value: object) -> bool:
    try:
        datetime.fromisoformat(str(value).replace("Z", "+00:00"))  # Python 3.10 does not read the Z
    except ValueError:
        return False
    return isinstance(value, str)


def _is_json(value: object) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True
