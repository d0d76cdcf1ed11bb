"""Dataclasses of the networks in `manifest.json`: files, preprocessing and lung box rule.

They take parsed JSON and hold validated values; every preprocessing spec is compared with its stored digest. `manifest`
re-exports them.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from cxr_edge.errors import ContractError
from cxr_edge.specs.checks import POPULATIONS, Check, ImageLimits, read_checks
from cxr_edge.specs.json_fields import (
    FieldError,
    field_names,
    is_number,
    read_field,
    read_list,
    require,
    require_keys,
    require_object,
    require_text,
    show,
)
from cxr_edge.specs.lung_box import LungBoxRule
from cxr_edge.specs.outputs import COMBINED_KINDS, OUTPUT_KINDS, OutputKind
from cxr_edge.specs.preprocess import PreprocessSpec

__all__ = ["Checker", "FileRef", "Member", "Segmenter"]

# A member's name is also the name of its engine files, next to the segmenter's.
_MEMBER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_RESERVED_NAME = "segmenter"
_DEFAULT_KIND = COMBINED_KINDS["softmax"]  # which is not written
_PATH_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._ -]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class FileRef:
    """Reference to a file of the bundle."""

    path: str  # relative to the bundle's folder, with forward slashes
    sha256: str  # of its bytes, hexadecimal

    def __post_init__(self) -> None:
        require_text(self.path, "path", longest=200)
        require(
            all(_PATH_PART.fullmatch(part) for part in self.path.split("/")),
            "path",
            "relative to the bundle's folder and stay inside it: names of letters, digits, '.', '_', '-' and blanks, "
            "none starting with '.', joined by '/'",
            self.path,
        )
        valid = isinstance(self.sha256, str) and _SHA256.fullmatch(self.sha256) is not None
        require(valid, "sha256", "64 lower-case hexadecimal digits", self.sha256)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: object) -> FileRef:
        return cls(**require_keys(value, field_names(cls)))


@dataclass(frozen=True, kw_only=True)
class Segmenter:
    """The lung segmenter. ONNX input `image` (N, 1, S, S) float32, output `mask` (N, 1, S, S) lung probabilities."""

    file: FileRef
    preprocess: PreprocessSpec  # the full frame (region `frame`), uncropped, one channel
    lung_box: LungBoxRule
    activation_ranges: FileRef | None = None  # JSON of measured ranges for int8 builds (compiler/calibrate.py)

    def __post_init__(self) -> None:
        p = self.preprocess
        require(p.region == "frame", "preprocess.region", "'frame' for the segmenter, which finds the box", p.region)
        require(p.channels == 1, "preprocess.channels", "1 for the segmenter", p.channels)
        require(
            p.crop_px == p.canvas_px,
            "preprocess.crop_px",
            f"canvas_px = {p.canvas_px} for the segmenter, whose mask covers the frame",
            p.crop_px,
        )

    def as_json(self) -> dict[str, Any]:
        return {
            "file": self.file.as_json(),
            **_preprocess_as_json(self.preprocess),
            "lung_box": self.lung_box.as_json(),
            "activation_ranges": _optional_as_json(self.activation_ranges),
        }

    @classmethod
    def from_json(cls, value: object) -> Segmenter:
        found = require_keys(value, [*field_names(cls), "preprocess_digest"])
        return cls(
            file=read_field(found, "file", FileRef.from_json),
            preprocess=_read_preprocess(found, "segmenter"),
            lung_box=read_field(found, "lung_box", LungBoxRule.from_json),
            activation_ranges=read_field(found, "activation_ranges", _optional_file),
        )


@dataclass(frozen=True, kw_only=True)
class Checker:
    """The network that decides whether an image is one that the bundle is made for, with the limits of its scores.

    ONNX input `image` (N, 1, S, S) float32, output `scores` (N, len(scores)). It runs in ONNX Runtime on the CPU from its fp32
    file on every machine; an image is refused, not answered, where a check holds.
    """

    file: FileRef
    preprocess: PreprocessSpec  # the full frame; where it equals the segmenter's, both share one tensor
    scores: tuple[str, ...]  # names of the output's columns
    checks: tuple[Check, ...]
    limits: ImageLimits
    population: str = "any"  # the patients that the bundle is made for: one of POPULATIONS

    def __post_init__(self) -> None:
        region = self.preprocess.region
        require(region == "frame", "preprocess.region", "'frame' for the checker, which sees the whole image", region)
        require(self.preprocess.channels == 1, "preprocess.channels", "1 for the checker", self.preprocess.channels)
        for i, name in enumerate(self.scores):
            require_text(name, f"scores[{i}]", longest=64)
        distinct = len(set(self.scores)) == len(self.scores) >= 1
        require(distinct, "scores", "1 or more different texts", self.scores)
        for i, check in enumerate(self.checks):
            require(check.score in self.scores, f"checks[{i}].score", f"one of {list(self.scores)}", check.score)
        require(self.population in POPULATIONS, "population", f"one of {', '.join(POPULATIONS)}", self.population)

    def as_json(self) -> dict[str, Any]:
        return {
            "file": self.file.as_json(),
            **_preprocess_as_json(self.preprocess),
            "scores": list(self.scores),
            "checks": [check.as_json() for check in self.checks],
            "limits": self.limits.as_json(),
            "population": self.population,
        }

    @classmethod
    def from_json(cls, value: object) -> Checker:
        found = require_keys(value, [*field_names(cls), "preprocess_digest"])
        return cls(
            file=read_field(found, "file", FileRef.from_json),
            preprocess=_read_preprocess(found, "checker"),
            scores=read_list(found, "scores"),
            checks=read_checks(found),
            limits=read_field(found, "limits", ImageLimits.from_json),
            population=found["population"],
        )


@dataclass(frozen=True, kw_only=True)
class Member:
    """One classifier of the ensemble. ONNX input `image` (N, C, H, W), output `logits` (N, labels)."""

    name: str  # letters, digits, '.', '_' and '-'; unique in the bundle; also the name of the engine files
    architecture: str  # for display
    file: FileRef
    preprocess: PreprocessSpec
    # Whether there is an output `cam` (N, labels, h, w): the class activation map, whose mean over h and w plus the bias
    # is the logit.
    has_cam: bool
    activation_ranges: FileRef | None = None  # as for the segmenter
    output: OutputKind = _DEFAULT_KIND  # what `logits` holds; in a multi-label bundle `multi-label-logits`

    def __post_init__(self) -> None:
        valid = isinstance(self.name, str) and _MEMBER_NAME.fullmatch(self.name) is not None
        require(valid, "name", "1 to 64 letters, digits, '.', '_' and '-', beginning with a letter or digit", self.name)
        require(self.name.lower() != _RESERVED_NAME, "name", f"different from {_RESERVED_NAME!r}", self.name)
        require_text(self.architecture, "architecture")
        require(isinstance(self.has_cam, bool), "has_cam", "true or false", self.has_cam)
        require(self.output in OUTPUT_KINDS, "output", f"one of {', '.join(OUTPUT_KINDS)}", self.output)
        if self.output not in COMBINED_KINDS.values():
            raise FieldError("output", _not_combined(self.output))

    def as_json(self) -> dict[str, Any]:
        declared = {} if self.output == _DEFAULT_KIND else {"output": self.output}
        return {
            "name": self.name,
            "architecture": self.architecture,
            "file": self.file.as_json(),
            **_preprocess_as_json(self.preprocess),
            "has_cam": self.has_cam,
            "activation_ranges": _optional_as_json(self.activation_ranges),
            **declared,
        }

    @classmethod
    def from_json(cls, value: object) -> Member:
        found = {"output": _DEFAULT_KIND, **require_object(value, "")}  # the one key that may be absent
        found = require_keys(found, [*field_names(cls), "preprocess_digest"])
        return cls(
            name=found["name"],
            architecture=found["architecture"],
            file=read_field(found, "file", FileRef.from_json),
            preprocess=_read_preprocess(found, found["name"]),
            has_cam=found["has_cam"],
            activation_ranges=read_field(found, "activation_ranges", _optional_file),
            output=found["output"],
        )


def _not_combined(kind: str) -> str:
    """Return what to do about a kind that no combination takes: they begin with a softmax, or the sigmoid of each label."""
    remedy = {
        "softmax-probabilities": "export the network without its softmax",
        "multi-label-probabilities": "export the network without its sigmoids",
        "logit": "declare a bundle of one finding (activation sigmoid), or export two columns, (-z/2, z/2) for one logit z",
        "mask": "a network that gives a mask is the segmenter of a bundle",
    }[kind]
    kinds = " or ".join(map(show, COMBINED_KINDS.values()))
    return (
        f"must be {kinds} in a bundle, whose combinations begin with a softmax or a sigmoid, got {show(kind)}: {remedy}"
    )


_TYPE_NAMES = {str: "a text", int: "a whole number", bool: "true or false", list: "a list of numbers"}


def _json_type(hint: Any) -> type:
    """Return the JSON type of a field of PreprocessSpec: str, int, bool, or list for a tuple."""
    values = get_args(hint)
    if get_origin(hint) is Literal:
        return type(values[0])
    return list if values else hint


_PREPROCESS_TYPES = {name: _json_type(hint) for name, hint in get_type_hints(PreprocessSpec).items()} | {
    "arithmetic": int
}


def _read_preprocess(found: dict[str, Any], network: object) -> PreprocessSpec:
    spec = read_field(found, "preprocess", _preprocess_from_json)
    if found["preprocess_digest"] != spec.digest():
        raise ContractError(
            f"manifest.json: the preprocessing of {show(network)} was altered: its digest is {spec.digest()}, but "
            f"preprocess_digest is {show(found['preprocess_digest'])}; export the bundle again"
        )
    return spec


def _preprocess_from_json(value: object) -> PreprocessSpec:
    found = require_keys(value, _PREPROCESS_TYPES)
    for key, kind in _PREPROCESS_TYPES.items():
        require(type(found[key]) is kind, key, _TYPE_NAMES[kind], found[key])  # `is`: JSON's true is not a whole number
    for key in ("mean", "std"):
        for i, item in enumerate(found[key]):
            require(is_number(item), f"{key}[{i}]", "a finite number", item)
    try:
        return PreprocessSpec.from_json(found)
    except ContractError as error:
        message = str(error).removeprefix(_SPEC_ERROR_PREFIX)
        if message == str(error):
            raise
        raise FieldError(*message.split(" ", 1)) from None


_SPEC_ERROR_PREFIX = "preprocess spec: "  # of PreprocessSpec's errors; the key and the reason follow


def _preprocess_as_json(spec: PreprocessSpec) -> dict[str, Any]:
    return {"preprocess": spec.as_json(), "preprocess_digest": spec.digest()}


def _optional_file(value: object) -> FileRef | None:
    return None if value is None else FileRef.from_json(value)


def _optional_as_json(value: FileRef | None) -> dict[str, Any] | None:
    return None if value is None else value.as_json()
