"""Each kind of modification is described in words, in its group; a key without words is shown under its own name."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from cxr_edge.bundle import Bundle, file_ref, write_bundle
from cxr_edge.bundle.manifest import Manifest
from cxr_edge.bundle.onnx_check import check_networks
from cxr_edge.changes import description
from cxr_edge.changes.description import Description, describe
from cxr_edge.specs.budget import ErrorBudget, LabelLimits
from cxr_edge.specs.combination import Decision
from tests.builders.toy_bundle import build_toy_bundle, member_model


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    bundle = build_toy_bundle(tmp_path_factory.mktemp("old") / "b", checker=True)
    images = {"train": {"a/normal": 10, "b/viral": 4}, "validation": {"a/normal": 2}}
    return write_bundle(bundle.root, replace(bundle.manifest, provenance={"images": images, "seed": 1}))


@pytest.fixture
def described(old: Bundle, tmp_path: Path) -> Callable[..., Description]:
    """Return a function that describes a bundle with other values in its manifest, all files the same."""

    def change(**changes: object) -> Description:
        root = Path(shutil.copytree(old.root, tmp_path / "new"))
        new = write_bundle(root, replace(old.manifest, **changes))  # type: ignore[arg-type]
        return describe(old, new, check_networks(old), check_networks(new))

    return change


def lines(found: Description) -> list[str]:
    return [line.strip() for line in found.lines()]


def test_nothing_changed(old: Bundle) -> None:
    found = describe(old, old, check_networks(old), check_networks(old))
    assert found.lines() == ["Nothing: the manifests are equal in every key."]
    assert found.as_json() == []
    assert not found.behaviour


_BUDGET = ErrorBudget(
    max_wrong=0.05,
    confidence=0.9,
    coverage=0.95,
    fitted_on="100 patients",
    labels={"normal": LabelLimits(set_from=0.1, answer_from=0.75, cases=50, answered=45, wrong=1)},
)


@pytest.mark.parametrize(
    ("group", "line", "change"),
    [
        ("Version", "version: 1 -> 2", lambda m: {"version": "2"}),
        (
            "Intended use",
            "intended use: Tests of cxr-edge. Its answers mean nothing. -> Other.",
            lambda m: {"intended_use": "Other."},
        ),
        (
            "Decision thresholds",
            "threshold of covid-19: 0.2 -> 0.3",
            lambda m: {"decision": Decision(thresholds={"covid-19": 0.3}, uncertain_below=0.5)},
        ),
        (
            "Decision thresholds",
            "threshold of viral: absent -> 0.1",
            lambda m: {"decision": Decision(thresholds={"covid-19": 0.2, "viral": 0.1}, uncertain_below=0.5)},
        ),
        (
            "Combination",
            "temperature of the ensemble: 1.5 -> 2",
            lambda m: {"combination": replace(m.combination, temperature=2.0)},
        ),
        (
            "Combination",
            "how the members are combined: weighted-average -> average",
            lambda m: {"combination": replace(m.combination, strategy="average", parameters={})},
        ),
        ("Error budget", "normal is answered from (none: never): absent -> 0.75", lambda m: {"budget": _BUDGET}),
        ("Error budget", "share of the answers with a label that may be wrong: absent -> 0.05", lambda m: {"budget": _BUDGET}),
        (
            "Refusals",
            "score from which an image is refused as turned (up to it, if below): 0.95 -> 0.5",
            lambda m: {"checker": _with_check(m, "turned", limit=0.5)},
        ),
        (
            "Refusals",
            "patients that the bundle is made for: any -> adults",
            lambda m: {"checker": replace(m.checker, population="adults")},
        ),
        (
            "Refusals",
            "check of an image, turned: code turned, score turned, limit 0.95, below no -> absent",
            lambda m: {"checker": replace(m.checker, checks=tuple(c for c in m.checker.checks if c.code != "turned"))},
        ),
        (
            "Lung box",
            "rule of the lung box, margin: 0.05 -> 0.1",
            lambda m: {"segmenter": replace(m.segmenter, lung_box=replace(m.segmenter.lung_box, margin=0.1))},
        ),
        (
            "Networks",
            "plain: architecture: toy plain -> VGG",
            lambda m: {"members": (replace(m.members[0], architecture="VGG"), *m.members[1:])},
        ),
        ("Networks", "network checker removed: architecture checker, parameters", lambda m: {"checker": None}),
        ("Training and its data", "train images in all: 14 -> 15", lambda m: {"provenance": _images(a=11, b=4)}),
        ("Training and its data", "train images of a/normal: 10 -> 11", lambda m: {"provenance": _images(a=11, b=4)}),
        ("Training and its data", "validation images in all: 2 -> absent", lambda m: {"provenance": _images(a=10, b=4)}),
        ("Test images of the bundle", "known_answers.known-fine.png", lambda m: {"known_answers": m.known_answers[:2]}),
    ],
)  # fmt: skip
def test_a_modification_is_in_its_group(
    described: Callable[..., Description],
    old: Bundle,
    group: str,
    line: str,
    change: Callable[[Manifest], dict[str, object]],
) -> None:
    found = described(**change(old.manifest))
    shown = [text.strip() for g in found.groups if g.title == group for text in g.lines()]
    assert any(text.startswith(line) for text in shown), "\n".join(found.lines())


def _with_check(manifest: Manifest, code: str, **changes: object) -> object:
    assert manifest.checker is not None
    checks = tuple(replace(c, **changes) if c.code == code else c for c in manifest.checker.checks)  # type: ignore[arg-type]
    return replace(manifest.checker, checks=checks)


def _images(*, a: int, b: int) -> dict[str, object]:
    return {"images": {"train": {"a/normal": a, "b/viral": b}}, "seed": 1}


def test_the_digest_of_the_manifest_is_always_there(described: Callable[..., Description]) -> None:
    found = described(version="2")
    assert [c.key for c in found.groups[0].changes] == ["version digest", "version"]
    assert not found.behaviour
    assert len(found.as_json()[0]["changes"][0]["old"]) == 64, "JSON has digests whole"


def test_other_weights_and_preprocessing(old: Bundle, tmp_path: Path) -> None:
    root = Path(shutil.copytree(old.root, tmp_path / "new"))
    member = old.manifest.members[0]
    spec = replace(member.preprocess, canvas_px=64, crop_px=64, median=True)
    onnx.save(member_model("plain", spec), root / "plain.onnx")
    members = (replace(member, preprocess=spec, file=file_ref(root, "plain.onnx")), *old.manifest.members[1:])
    new = write_bundle(root, replace(old.manifest, members=members))
    found = describe(old, new, check_networks(old), check_networks(new))
    text = lines(found)
    assert "plain: canvas_px: 48 -> 64" in text
    assert "plain: median: no -> yes" in text
    assert f"plain: digest of its preprocessing: {member.preprocess.digest()[:12]} -> {spec.digest()[:12]}" in text
    assert (
        f"plain: weights, SHA-256 of its ONNX file: {member.file.sha256[:12]} -> {members[0].file.sha256[:12]}" in text
    )
    assert any(line.startswith("plain: multiply-accumulates per image: 216,576 -> ") for line in text)
    assert found.behaviour
    assert found.has("Preprocessing")


def test_members_are_added_removed_and_renamed(old: Bundle, tmp_path: Path) -> None:
    root = Path(shutil.copytree(old.root, tmp_path / "new"))
    m = old.manifest
    members = (m.members[1], replace(m.members[0], name="vgg"))
    combination = replace(m.combination, parameters={"weights": [0.5, 0.5]}, member_temperatures=(1.0, 1.0))
    new = write_bundle(root, replace(m, members=members, combination=combination))
    text = lines(describe(old, new, check_networks(old), check_networks(new)))
    sha256 = m.members[0].file.sha256[:12]
    assert any(t.startswith("network plain removed: architecture toy plain, parameters 1,316") for t in text)
    assert any(t.startswith("network vgg added: absent -> architecture toy plain") and sha256 in t for t in text)
    assert any(t.startswith("network residual removed") for t in text)
    assert "the same weights under another name: plain -> vgg" in text
    assert "members, in their order: plain, depthwise, residual -> depthwise, vgg" in text
    assert not any(t.startswith("plain: ") for t in text), "one line for a removed network"


def test_labels_kind_and_schema(old: Bundle, tmp_path: Path) -> None:
    new = build_toy_bundle(tmp_path / "findings", multi_label=True)
    text = lines(describe(old, new, check_networks(old), check_networks(new)))
    assert "labels: normal, bacterial, viral, covid-19 -> effusion, nodule, opacity" in text
    assert "labels exclude each other (softmax) or not (sigmoid): absent -> sigmoid" in text
    back = lines(describe(new, old, check_networks(new), check_networks(old)))
    assert "temperatures of the findings: 1, 0.5, 2 -> absent" in back


def test_a_bundle_without_a_segmenter(old: Bundle, tmp_path: Path) -> None:
    new = build_toy_bundle(tmp_path / "bare", segmenter=False)
    text = lines(describe(old, new, check_networks(old), check_networks(new)))
    assert any(t.startswith("network segmenter removed: ") for t in text)
    assert "plain: region: lungs -> frame" in text


def test_every_key_of_a_manifest_has_its_group() -> None:
    """A new key of the manifest needs a title here, or it is shown under `Other keys`."""
    names = {f.name for f in dataclasses.fields(Manifest)} - {"metrics"}
    assert names <= set(description.TITLES), "metrics are part of the impact assessment"


def test_an_unknown_key_is_shown_under_its_name(old: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    as_json = Manifest.as_json
    other = replace(old, manifest=replace(old.manifest, version="2"))
    monkeypatch.setattr(Manifest, "as_json", lambda m: {**as_json(m), "novelty": {"a": int(m.version)}})
    found = describe(old, other, check_networks(old), check_networks(old))
    assert found.groups[-1].title == "Other keys"
    assert found.groups[-1].lines() == ["Other keys", "  novelty.a: 1 -> 2"]
    assert found.behaviour, "nobody knows what it does"
