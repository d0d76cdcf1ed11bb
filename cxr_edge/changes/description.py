"""Description of Modifications: every difference of two bundles' manifests, in words and by digest, in groups.

Two bundles with the facts about their networks come in, a `Description` comes out. Networks are compared by name, everything else
key by key; a key that has no words here is shown under its own name, so that nothing is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cxr_edge.bundle import Bundle
from cxr_edge.bundle.onnx_check import Network
from cxr_edge.changes.differences import ABSENT, Change, differences

__all__ = ["TITLES", "Description", "Group", "describe"]


@dataclass(frozen=True, kw_only=True)
class Group:
    """Modifications of one kind."""

    title: str
    changes: tuple[Change, ...]

    def lines(self) -> list[str]:
        """Return the title and the changes as text."""
        return [self.title, *(f"  {line}" for change in self.changes for line in change.lines())]

    def as_json(self) -> dict[str, Any]:
        return {"title": self.title, "changes": [c.as_json() for c in self.changes]}


@dataclass(frozen=True, kw_only=True)
class Description:
    """All differences of two bundles, in the order of the groups; groups without any are left out."""

    groups: tuple[Group, ...]

    def has(self, *titles: str) -> bool:
        """Return True if something changed in one of these groups."""
        return any(group.title in titles for group in self.groups)

    @property
    def behaviour(self) -> bool:
        """True if something changed that outputs depend on."""
        return self.has(*_BEHAVIOUR)

    def lines(self) -> list[str]:
        """Return the description as text."""
        if not self.groups:
            return ["Nothing: the manifests are equal in every key."]
        return [line for group in self.groups for line in group.lines()]

    def as_json(self) -> list[dict[str, Any]]:
        return [group.as_json() for group in self.groups]


# Titles of the groups by the manifest's top-level key.
TITLES = {
    "schema": "Version",
    "name": "Version",
    "version": "Version",
    "created": "Version",
    "counter": "Version",
    "intended_use": "Intended use",
    "labels": "Labels",
    "segmenter": "Networks",
    "members": "Networks",
    "checker": "Networks",
    "combination": "Combination",
    "decision": "Decision thresholds",
    "budget": "Error budget",
    "known_answers": "Test images of the bundle",
    "gate_set": "Test images of the bundle",
    "decoded_files": "Test images of the bundle",
    "reference": "Drift reference",
    "degraded": "Answers with members missing",
    "model_card": "Documents",
    "provenance": "Training and its data",
}
_OTHER, _PREPROCESSING, _LUNG_BOX, _REFUSALS = "Other keys", "Preprocessing", "Lung box", "Refusals"
_ORDER = tuple(
    dict.fromkeys(
        (
            "Version",
            "Intended use",
            "Labels",
            "Networks",
            _PREPROCESSING,
            _LUNG_BOX,
            "Combination",
            "Decision thresholds",
            "Error budget",
            _REFUSALS,
            "Training and its data",
            *TITLES.values(),
            _OTHER,
        )
    )
)
_BEHAVIOUR = (
    "Labels",
    "Networks",
    _PREPROCESSING,
    _LUNG_BOX,
    "Combination",
    "Decision thresholds",
    "Error budget",
    _REFUSALS,
    "Answers with members missing",
    _OTHER,
)

# Objects that are one modification where the other bundle has none.
_WHOLE = re.compile(r"provenance\..+|.+\.preprocess|checker\.checks\..+")

# Words for paths, the first that matches; {0} is what the brackets match.
_WORDS = tuple(
    (re.compile(pattern), words)
    for pattern, words in (
        (r"schema", "format of the manifest"),
        (r"counter", "release counter"),
        (r"intended_use", "intended use"),
        (r"combination\.strategy", "how the members are combined"),
        (r"combination\.temperature", "temperature of the ensemble"),
        (r"combination\.member_temperatures", "temperatures of the members"),
        (r"combination\.label_temperatures", "temperatures of the findings"),
        (r"combination\.activation", "labels exclude each other (softmax) or not (sigmoid)"),
        (r"combination\.parameters\.(.+)", "parameters of the combination, {0}"),
        (r"decision\.thresholds\.(.+)", "threshold of {0}"),
        (r"decision\.uncertain_below", "flagged as uncertain below"),
        (r"decision\.first", "decided at their threshold even if another label is more probable"),
        (r"budget\.max_wrong", "share of the answers with a label that may be wrong"),
        (r"budget\.confidence", "confidence of that"),
        (r"budget\.coverage", "share of the patients of a label whose prediction set holds it"),
        (r"budget\.fitted_on", "fitted on"),
        (r"budget\.labels\.(.+)\.answer_from", "{0} is answered from (none: never)"),
        (r"budget\.labels\.(.+)\.set_from", "{0} is in the prediction set from"),
        (r"budget\.labels\.(.+)\.cases", "cases of {0} it was fitted on"),
        (r"budget\.labels\.(.+)\.answered", "answers with {0} among these cases"),
        (r"budget\.labels\.(.+)\.wrong", "wrong ones of these answers with {0}"),
        (r"reference\.(path|sha256)", "statistics of the reference exams, {0}"),
        (r"model_card\.(path|sha256)", "model card, {0}"),
        (r"segmenter\.lung_box\.(.+)", "rule of the lung box, {0}"),
        (r"checker\.checks\.(.+)\.limit", "score from which an image is refused as {0} (up to it, if below)"),
        (r"checker\.checks\.(.+)", "check of an image, {0}"),
        (r"checker\.limits\.(.+)", "limit of an image, {0}"),
        (r"checker\.population", "patients that the bundle is made for"),
        (r"checker\.scores", "scores of the checker"),
        (r"(?:members\.)?(.+?)\.preprocess", "{0}: preprocessing"),
        (r"(?:members\.)?(.+?)\.preprocess\.(.+)", "{0}: {1}"),
        (r"(?:members\.)?(.+?)\.preprocess_digest", "{0}: digest of its preprocessing"),
        (r"(?:members\.)?(.+?)\.file\.sha256", "{0}: weights, SHA-256 of its ONNX file"),
        (r"(?:members\.)?(.+?)\.file\.path", "{0}: name of its ONNX file"),
        (r"(?:members\.)?(.+?)\.activation_ranges(?:\.(.+))?", "{0}: activation ranges for int8 builds {1}"),
        (r"(?:members\.)?(.+?)\.has_cam", "{0}: class activation maps"),
        (r"members\.(.+)\.(.+)", "{0}: {1}"),
        (r"provenance\.images\.(\w+)\.(.+)", "{0} images of {1}"),
        (r"provenance\.(.+)", "{0}"),
    )
)


def describe(old: Bundle, new: Bundle, before: Sequence[Network], after: Sequence[Network]) -> Description:
    """Return the description. before, after: the networks of both, from `check_networks`."""
    manifests = _comparable(old, new), _comparable(new, old)
    changes = [_worded(c) for c in differences(*manifests, whole=_WHOLE) if not c.key.startswith("metrics")]
    grouped: dict[str, list[Change]] = {}
    for change in [*_facts(old, new, before, after), *changes]:
        grouped.setdefault(_title(change.key), []).append(change)
    titles = sorted(grouped, key=_ORDER.index)
    return Description(groups=tuple(Group(title=t, changes=tuple(grouped[t])) for t in titles))


def _comparable(bundle: Bundle, other: Bundle) -> dict[str, Any]:
    """Return the manifest's JSON with its lists of named things as objects by name, and their order.

    Members that the other bundle lacks are left out: they are one modification each.
    """
    manifest = bundle.manifest.as_json()
    members, shared = manifest["members"], {m.name for m in other.manifest.members}
    manifest["members"] = {m["name"]: m for m in members if m["name"] in shared}
    manifest["members order"] = [m["name"] for m in members]
    if "checker" in manifest:
        checks = {check["code"]: check for check in manifest["checker"]["checks"]}
        manifest["checker"] = {**manifest["checker"], "checks": checks}
    manifest["known_answers"] = {answer["file"]["path"]: answer for answer in manifest["known_answers"]}
    if manifest["segmenter"] is None:
        del manifest["segmenter"]
    return manifest


def _facts(old: Bundle, new: Bundle, before: Sequence[Network], after: Sequence[Network]) -> Iterator[Change]:
    """Yield digests, added and removed networks, sizes of changed ones, and sums that single keys do not show."""
    if old.digest != new.digest:
        yield Change(key="version digest", words="SHA-256 of the manifest", old=old.digest, new=new.digest)
    facts = [_network_facts(bundle, networks) for bundle, networks in ((old, before), (new, after))]
    for name in dict.fromkeys((*facts[0], *facts[1])):
        yield from _network(name, facts[0].get(name), facts[1].get(name))
    for name in [n for n in facts[1] if n not in facts[0]]:
        for same in (n for n, f in facts[0].items() if f["SHA-256"] == facts[1][name]["SHA-256"]):
            yield Change(key=f"members.{name}", words="the same weights under another name", old=same, new=name)
    yield from _image_sums(old.manifest.provenance, new.manifest.provenance)


def _network(name: str, old: dict[str, Any] | None, new: dict[str, Any] | None) -> Iterator[Change]:
    if old is None or new is None:
        words = f"network {name} {'added' if old is None else 'removed'}"
        yield Change(key=f"members.{name}", words=words, old=old or ABSENT, new=new or ABSENT)
        return
    for fact in _SIZES:
        if old[fact] != new[fact]:
            yield Change(key=f"members.{name}.{fact}", words=f"{name}: {fact}", old=old[fact], new=new[fact])


_SIZES = ("parameters", "multiply-accumulates per image", "bytes", "ONNX opset")


def _network_facts(bundle: Bundle, networks: Sequence[Network]) -> dict[str, dict[str, Any]]:
    """Return facts about each network of a bundle by its name."""
    m = bundle.manifest
    entries = {"segmenter": m.segmenter, "checker": m.checker, **{member.name: member for member in m.members}}
    found = {}
    for network in networks:
        entry = entries[network.name]
        if entry is not None:
            sizes = (network.parameters, network.macs, network.size_bytes, network.opset)
            found[network.name] = {
                "architecture": getattr(entry, "architecture", network.name),
                **dict(zip(_SIZES, sizes, strict=True)),
                "SHA-256": entry.file.sha256,
                "preprocessing": entry.preprocess.digest(),
            }
    return found


def _image_sums(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    """Yield the numbers of images of each side of the split, where the provenance has them by source and label."""
    for side in ("train", "validation", "test"):
        sums = [_sum(facts.get("images"), side) for facts in (old, new)]
        if sums[0] != sums[1]:
            words = f"{side} images in all"
            yield Change(key=f"provenance.images.{side}", words=words, old=sums[0], new=sums[1])


def _sum(images: object, side: str) -> int | str:
    counts = images.get(side) if isinstance(images, dict) else None
    whole = isinstance(counts, dict) and all(type(n) is int for n in counts.values())
    return sum(counts.values()) if whole and isinstance(counts, dict) else ABSENT


def _worded(change: Change) -> Change:
    if change.key == "members order":
        return replace(change, words="members, in their order")
    for pattern, words in _WORDS:
        if match := pattern.fullmatch(change.key):
            return replace(change, words=words.format(*(group or "" for group in match.groups())).rstrip())
    return change


def _title(key: str) -> str:
    if re.search(r"\.preprocess(_digest$|\.|$)", key):
        return _PREPROCESSING
    if key.startswith("segmenter.lung_box"):
        return _LUNG_BOX
    if re.match(r"checker\.(checks|limits|population|scores)", key):
        return _REFUSALS
    return TITLES.get(re.split(r"[. ]", key, maxsplit=1)[0], _OTHER)
