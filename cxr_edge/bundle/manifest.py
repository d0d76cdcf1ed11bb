"""Dataclasses of `manifest.json`: the networks of a bundle, their combination and the decision rule.

`folder.Bundle` reads the file; training writes one with `Manifest.as_json`. Every dataclass validates itself, reading
rejects unknown and missing keys, and an error message names the key by its path in the file. docs/bundle-format.md
documents the same format.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal, TypeVar, get_args

from cxr_edge.bundle.decoded_file import DecodedFile
from cxr_edge.bundle.networks import Checker, FileRef, Member, Segmenter
from cxr_edge.errors import BundleError, InputError
from cxr_edge.records import NO_FINDING
from cxr_edge.specs.budget import ErrorBudget
from cxr_edge.specs.combination import SUM_TOLERANCE, Combination, Decision
from cxr_edge.specs.degraded import MOST_MODES, DegradedMode
from cxr_edge.specs.json_fields import (
    FieldError,
    error_prefix,
    field_names,
    is_share,
    read_field,
    read_list,
    require,
    require_integer,
    require_keys,
    require_number,
    require_object,
    require_text,
    show,
)
from cxr_edge.specs.lung_box import LungBoxRule
from cxr_edge.specs.outputs import COMBINED_KINDS
from cxr_edge.version import __version__

__all__ = [
    "MAX_COUNTER",
    "MULTI_LABEL_SCHEMA",
    "NO_FINDING",
    "SCHEMA",
    "Checker",
    "DecodedFile",
    "ErrorBudget",
    "FileRef",
    "GateKind",
    "GateSet",
    "KnownAnswer",
    "LungBoxRule",
    "Manifest",
    "Member",
    "Segmenter",
]

Value = TypeVar("Value")

SCHEMA = "cxr-edge-bundle/1"
# Of bundles with findings that do not exclude each other, or with a key of _SCHEMA_2_KEYS.
MULTI_LABEL_SCHEMA = "cxr-edge-bundle/2"

_SCHEMA_2_KEYS = (
    "checker",
    "budget",
    "reference",
    "gate_set",
    "decoded_files",
    "degraded",
)  # absent where there is none

MAX_COUNTER = 2**53 - 1  # which every reader of JSON keeps exactly


@dataclass(frozen=True, kw_only=True)
class KnownAnswer:
    """A synthetic image of the bundle with the outputs of the fp32 reference: lung box and probabilities."""

    file: FileRef
    roi: tuple[int, int, int, int]  # (x0, y0, x1, y1) in pixels of the image, half open
    probabilities: tuple[float, ...]  # one per label; sum 1 in a single-label bundle

    def __post_init__(self) -> None:
        require(isinstance(self.roi, tuple) and len(self.roi) == 4, "roi", "[x0, y0, x1, y1]", self.roi)
        for i, value in enumerate(self.roi):
            require_integer(value, f"roi[{i}]", least=0)
        x0, y0, x1, y1 = self.roi
        require(x0 < x1 and y0 < y1, "roi", "[x0, y0, x1, y1] with x0 < x1 and y0 < y1", self.roi)
        for i, share in enumerate(self.probabilities):
            require_number(share, f"probabilities[{i}]", "a number from 0 to 1", is_share)

    def as_json(self) -> dict[str, Any]:
        return {"file": self.file.as_json(), "roi": list(self.roi), "probabilities": list(self.probabilities)}

    @classmethod
    def from_json(cls, value: object) -> KnownAnswer:
        found = require_keys(value, field_names(cls))
        return cls(
            file=read_field(found, "file", FileRef.from_json),
            roi=read_list(found, "roi"),  # type: ignore[arg-type]  # its length is checked in __post_init__
            probabilities=read_list(found, "probabilities"),
        )


GateKind = Literal["surrogate", "images"]  # draws from a model of training images, or real images that may travel


@dataclass(frozen=True, kw_only=True)
class GateSet:
    """Images of the bundle on which engines are compared; `gate_set.read_gate_set` reads them."""

    file: FileRef
    kind: GateKind
    images: int
    counts: dict[str, int]  # label -> images of it: that it was drawn from, or that have it
    licence: str  # terms under which the images travel
    attribution: str  # whom they are of, or what they were drawn from

    def __post_init__(self) -> None:
        require(self.kind in get_args(GateKind), "kind", f"one of {', '.join(get_args(GateKind))}", self.kind)
        require_integer(self.images, "images", least=1)
        for label, count in require_object(self.counts, "counts").items():
            require_integer(count, f"counts.{label}", least=0)
        require_text(self.licence, "licence")
        require_text(self.attribution, "attribution")

    def as_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in field_names(type(self))} | {"file": self.file.as_json()}

    @classmethod
    def from_json(cls, value: object) -> GateSet:
        found = require_keys(value, field_names(cls))
        return cls(**{**found, "file": read_field(found, "file", FileRef.from_json)})


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The full manifest of a bundle."""

    name: str
    version: str
    created: str  # ISO 8601
    labels: tuple[str, ...]  # in the order of all logits and probabilities
    segmenter: Segmenter | None  # None: members get the full frame
    members: tuple[Member, ...]
    combination: Combination
    decision: Decision
    known_answers: tuple[KnownAnswer, ...]
    model_card: FileRef
    intended_use: str
    provenance: dict[str, Any]  # any JSON object; only displayed
    metrics: dict[str, Any]  # any JSON object; only displayed
    checker: Checker | None = None  # None: every image is answered
    budget: ErrorBudget | None = None  # None: every decision is an answer
    reference: FileRef | None = None  # JSON of the statistics that drift is measured against (`cxr_edge.drift`)
    gate_set: GateSet | None = None  # None: engines are compared on the known answers
    counter: int = 0  # of releases of this name: a box refuses a signed bundle with a lower one than it has seen
    decoded_files: tuple[DecodedFile, ...] = ()  # that a machine's libraries are compared with (`bundle.decode_check`)
    degraded: tuple[DegradedMode, ...] = ()  # of parts of the members; (): every member must answer

    def __post_init__(self) -> None:
        require_text(self.name, "name", longest=200)
        require_text(self.version, "version", longest=200)
        require(_is_time(self.created), "created", "an ISO 8601 time", self.created)
        require_integer(self.counter, "counter", least=0)
        require(self.counter <= MAX_COUNTER, "counter", f"at most {MAX_COUNTER}", self.counter)
        self._check_labels()
        require_text(self.intended_use, "intended_use")
        for key, facts in (("provenance", self.provenance), ("metrics", self.metrics)):
            require_object(facts, key)
            require(_is_json(facts), key, "an object that JSON can hold", facts)
        self._check_members()
        self._check_against_labels()
        self._check_degraded()

    @property
    def multi_label(self) -> bool:
        """True if the labels are findings, each present or absent; False if they exclude each other."""
        return self.combination.activation == "sigmoid"

    def reduced_to(self, members: tuple[str, ...]) -> Manifest:
        """Return the manifest of a degraded mode: its members alone, with their combination, decision and budget.

        Raises InputError if the bundle has no mode of exactly these members.
        """
        mode = next((mode for mode in self.degraded if mode.members == members), None)
        if mode is None:
            raise InputError(f"bundle {self.name!r} has no degraded mode of the members {', '.join(members) or 'none'}")
        return replace(
            self,
            members=tuple(m for m in self.members if m.name in members),
            combination=mode.combination,
            decision=mode.decision,
            budget=mode.budget,
            degraded=tuple(other for other in self.degraded if set(other.members) < set(members)),
        )

    def files(self) -> Iterator[tuple[str, FileRef]]:
        """Yield every file of the manifest with the path of its key: `("members[0].file", FileRef(...))`."""
        networks: list[tuple[str, Segmenter | Member]] = [("segmenter", self.segmenter)] if self.segmenter else []
        networks += [(f"members[{i}]", member) for i, member in enumerate(self.members)]
        for key, network in networks:
            yield f"{key}.file", network.file
            if network.activation_ranges is not None:
                yield f"{key}.activation_ranges", network.activation_ranges
        if self.checker is not None:
            yield "checker.file", self.checker.file
        if self.reference is not None:
            yield "reference", self.reference
        if self.gate_set is not None:
            yield "gate_set.file", self.gate_set.file
        for i, answer in enumerate(self.known_answers):
            yield f"known_answers[{i}].file", answer.file
        for i, decoded in enumerate(self.decoded_files):
            yield f"decoded_files[{i}].file", decoded.file
        yield "model_card", self.model_card

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object of manifest.json; `from_json` reads it."""
        optional = {name: getattr(self, name) for name in _SCHEMA_2_KEYS}
        present = {name: _optional_json(value) for name, value in optional.items() if value not in (None, ())}
        return {
            "schema": MULTI_LABEL_SCHEMA if self.multi_label or present or self.counter else SCHEMA,
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
            **present,
            **({"counter": self.counter} if self.counter else {}),
            "provenance": self.provenance,
            "metrics": self.metrics,
        }

    @classmethod
    def from_json(cls, value: object) -> Manifest:
        """Read an object that `as_json` returned.

        Raises BundleError with the path of the invalid key, or ContractError if a spec does not match its stored digest.
        """
        given = require_object(value, "")
        _check_schema(given)
        if given["schema"] == SCHEMA:
            _check_schema_1(given)
        found = require_keys({**dict.fromkeys(_SCHEMA_2_KEYS), "counter": 0, **given}, [*field_names(cls), "schema"])
        del found["schema"]
        return cls(
            **{
                **found,
                "labels": read_list(found, "labels"),
                "segmenter": read_field(found, "segmenter", lambda v: None if v is None else Segmenter.from_json(v)),
                "members": read_list(found, "members", Member.from_json),
                "combination": read_field(found, "combination", Combination.from_json),
                "decision": read_field(found, "decision", Decision.from_json),
                "known_answers": read_list(found, "known_answers", KnownAnswer.from_json),
                "model_card": read_field(found, "model_card", FileRef.from_json),
                "checker": read_field(found, "checker", lambda v: None if v is None else Checker.from_json(v)),
                "budget": read_field(found, "budget", lambda v: None if v is None else ErrorBudget.from_json(v)),
                "reference": read_field(found, "reference", lambda v: None if v is None else FileRef.from_json(v)),
                "gate_set": read_field(found, "gate_set", lambda v: None if v is None else GateSet.from_json(v)),
                "decoded_files": _optional_list(found, "decoded_files", DecodedFile.from_json),
                "degraded": _optional_list(found, "degraded", DegradedMode.from_json),
            }
        )

    def _check_labels(self) -> None:
        least = 1 if self.multi_label else 2
        for i, label in enumerate(self.labels):
            require_text(label, f"labels[{i}]", longest=64)
            valid = not self.multi_label or ("+" not in label and label != NO_FINDING)
            require(valid, f"labels[{i}]", f"without a + and not {NO_FINDING!r} in a multi-label bundle", label)
        distinct = len(set(self.labels)) == len(self.labels) >= least
        require(distinct, "labels", f"{least} or more different texts", self.labels)

    def _check_members(self) -> None:
        require(len(self.members) >= 1, "members", "a list of 1 or more", self.members)
        names = [m.name.lower() for m in self.members]  # they name engine files, also on case-insensitive systems
        for i, name in enumerate(names):
            require(
                name not in names[:i], f"members[{i}].name", "different from every other member's, ignoring case", name
            )
        for i, member in enumerate(self.members):
            valid = self.segmenter is not None or member.preprocess.region == "frame"
            key = f"members[{i}].preprocess.region"
            require(valid, key, "'frame' in a bundle without a segmenter", member.preprocess.region)
        self._check_outputs()

    def _check_outputs(self) -> None:
        activation = self.combination.activation
        kind = COMBINED_KINDS[activation]
        for i, member in enumerate(self.members):
            expected = f"{show(kind)} with the combination's activation {show(activation)}"
            require(member.output == kind, f"members[{i}].output", expected, member.output)

    def _check_against_labels(self) -> None:
        self._check_point(len(self.members), self.combination, self.decision, self.budget)
        if self.gate_set is not None:
            require(
                list(self.gate_set.counts) == list(self.labels),
                "gate_set.counts",
                f"of {list(self.labels)}",
                list(self.gate_set.counts),
            )
        for i, answer in enumerate(self.known_answers):
            count, key = len(answer.probabilities), f"known_answers[{i}].probabilities"
            require(count == len(self.labels), key, f"{len(self.labels)} numbers, one per label", f"{count} numbers")
            normalized = self.multi_label or abs(sum(answer.probabilities) - 1) <= SUM_TOLERANCE
            require(normalized, key, "numbers whose sum is 1", answer.probabilities)

    def _check_point(
        self, members: int, combination: Combination, decision: Decision, budget: ErrorBudget | None
    ) -> None:
        """Check what decides of so many members, or of all, against the labels."""
        with error_prefix("combination"):
            combination.check_sizes(members=members, labels=len(self.labels))
        for label in decision.thresholds:
            require(label in self.labels, "decision.thresholds", f"of labels among {list(self.labels)}", label)
        empty = not (self.multi_label and decision.first)
        require(
            empty,
            "decision.first",
            "empty in a multi-label bundle, whose findings are decided one by one",
            decision.first,
        )
        if budget is None:
            return
        require(not self.multi_label, "budget", "absent in a multi-label bundle", "a budget")
        for label in budget.labels:
            require(label in self.labels, "budget.labels", f"of labels among {list(self.labels)}", label)

    def _check_degraded(self) -> None:
        require(len(self.degraded) <= MOST_MODES, "degraded", f"a list of at most {MOST_MODES}", len(self.degraded))
        for i, mode in enumerate(self.degraded):
            with error_prefix(f"degraded[{i}]"):
                self._check_mode(mode)
                others = [other.members for other in self.degraded[:i]]
                require(mode.members not in others, "members", "other members than every mode before", mode.members)

    def _check_mode(self, mode: DegradedMode) -> None:
        names = tuple(m.name for m in self.members)
        part = mode.members == tuple(n for n in names if n in mode.members) and mode.members != names
        require(part, "members", f"a part of {list(names)}, in this order", list(mode.members))
        activation = self.combination.activation
        same = mode.combination.activation == activation
        require(same, "combination.activation", f"{show(activation)}, as of all members", mode.combination.activation)
        self._check_point(len(mode.members), mode.combination, mode.decision, mode.budget)
        kept = (mode.budget is None) == (self.budget is None)
        require(kept, "budget", "there where the bundle has one, and nowhere else", "one" if mode.budget else "none")
        require(mode.guard in (None, *self.labels), "guard", f"null or one of {list(self.labels)}", mode.guard)


def _optional_json(value: Any) -> Any:
    return [item.as_json() for item in value] if isinstance(value, tuple) else value.as_json()


def _optional_list(found: dict[str, Any], key: str, read: Callable[[Any], Value]) -> tuple[Value, ...]:
    """Return the items of a list that may be absent; one that is there is not empty."""
    if found[key] is None:
        return ()
    items = read_list(found, key, read)
    require(len(items) >= 1, key, "a list of 1 or more, or absent", found[key])
    return items


def _check_schema_1(found: dict[str, Any]) -> None:
    """Reject what schema 1 did not have: programs of its time would ignore, or refuse, how the labels are decided."""
    combination = found.get("combination")
    inner = combination if isinstance(combination, dict) else {}
    keys = [f"combination.{key}" for key in ("activation", "label_temperatures") if key in inner]
    for key in [*keys, *(key for key in (*_SCHEMA_2_KEYS, "counter") if key in found)]:
        raise FieldError(key, f"is a key of {MULTI_LABEL_SCHEMA}, and the schema is {SCHEMA}")


def _check_schema(found: dict[str, Any]) -> None:
    schema = found.get("schema")
    version = re.fullmatch(r"cxr-edge-bundle/([0-9]{1,6})", schema) if isinstance(schema, str) else None
    if version is None:
        raise FieldError("schema", f"must be {show(SCHEMA)}, got {show(schema)}: this is no cxr-edge bundle")
    if schema not in (SCHEMA, MULTI_LABEL_SCHEMA):
        raise BundleError(
            f"manifest.json: the bundle has schema {schema}; this cxr-edge ({__version__}) is too old for it, "
            f"it reads {SCHEMA} and {MULTI_LABEL_SCHEMA}: install a newer cxr-edge, or export the bundle again with this one"
        )


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
