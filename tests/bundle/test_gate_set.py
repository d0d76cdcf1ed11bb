"""The gate set of a bundle: written, read again, and every damage that is refused with what to do."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cxr_edge.bundle import Bundle, file_ref, write_bundle
from cxr_edge.bundle.gate_file import GateFile, pack_images, pack_surrogate
from cxr_edge.bundle.gate_set import attach_gate_set, read_gate_set
from cxr_edge.bundle.manifest import GateSet, Manifest
from cxr_edge.cli import main
from cxr_edge.errors import BundleError
from tests.builders.toy_bundle import FINDINGS, LABELS, build_toy_bundle
from tests.bundle.test_surrogate import SIZE, model

TERMS = {"licence": "CC0-1.0", "attribution": "drawn for tests"}


def real(labels=LABELS, truth=(0, None, 3)) -> GateFile:
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 256, (20 + i, 30), dtype=np.uint8) for i in range(3)]
    shares = np.full((3, len(labels)), 1 / len(labels))
    return pack_images(images, truth, labels, shares, [labels[0]] * 3)


def surrogate() -> GateFile:
    size = replace(SIZE, labels=4)
    own = model(size, texture=np.zeros((4, 2, 16), np.uint8))
    return pack_surrogate(own, [0, 1, 3], LABELS, np.eye(4)[[0, 1, 2]], list(LABELS[:3]))


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return build_toy_bundle(tmp_path / "toy", known_answers=False)


@pytest.fixture
def gated(bundle: Bundle) -> Bundle:
    return attach_gate_set(bundle, real(), **TERMS, provenance={"made_by": "tests"})


def test_a_bundle_without_a_gate_set_has_none(bundle):
    assert read_gate_set(bundle) is None
    assert "gate_set" not in bundle.manifest.as_json()


def test_real_images_come_back(gated):
    found = read_gate_set(gated)
    assert found is not None
    assert (found.kind, found.truth, found.decisions) == ("images", (0, None, 3), ("normal",) * 3)
    assert [(i.width_px, i.height_px) for i in found.images] == [(30, 20), (30, 21), (30, 22)]
    assert np.array_equal(found.images[0].pixels, np.random.default_rng(1).integers(0, 256, (20, 30), dtype=np.uint8))
    assert found.probabilities.dtype == np.float32
    entry = gated.manifest.gate_set
    assert (entry.images, entry.counts) == (3, {"normal": 1, "bacterial": 0, "viral": 0, "covid-19": 1})
    assert gated.manifest.as_json()["schema"] == "cxr-edge-bundle/2"
    assert gated.manifest.provenance["gate_set"] == {"made_by": "tests"}


def test_a_surrogate_comes_back_as_images(bundle):
    found = read_gate_set(attach_gate_set(bundle, surrogate(), **TERMS))
    assert found is not None
    assert (found.kind, found.truth) == ("surrogate", (0, 1, 3))
    assert found.images[0].pixels.shape == (32, 32)
    assert found.images[1].source == "gate set, image 2"


def test_findings_have_a_truth_for_each(tmp_path):
    bundle = build_toy_bundle(tmp_path / "toy", multi_label=True, known_answers=False)
    gated = attach_gate_set(bundle, real(FINDINGS, ((1, 0, 1), (0, 0, 0), None)), **TERMS)
    assert gated.manifest.gate_set.counts == {"effusion": 1, "nodule": 0, "opacity": 1}
    assert read_gate_set(gated).truth == ((1, 0, 1), (0, 0, 0), None)


def test_truth_of_the_other_kind_of_bundle_is_refused(bundle):
    file = real(LABELS, ((1, 0, 0, 0), None, None))
    with pytest.raises(
        BundleError, match="truth must be of findings in a multi-label bundle, and of one label in another"
    ):
        read_gate_set(attach_gate_set(bundle, file, **TERMS))


def test_a_second_one_replaces_the_first(gated):
    changed = attach_gate_set(gated, surrogate(), **TERMS)
    assert changed.manifest.gate_set.kind == "surrogate"
    assert "gate_set" not in changed.manifest.provenance
    assert [p.name for p in changed.root.glob("*gate*")] == ["gate.set"]


def test_schema_1_has_no_gate_set(gated):
    document = {**json.loads((gated.root / "manifest.json").read_text()), "schema": "cxr-edge-bundle/1"}
    with pytest.raises(BundleError, match="gate_set is a key of cxr-edge-bundle/2"):
        Manifest.from_json(document)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "photos"}, "gate_set.kind must be one of surrogate, images"),
        ({"images": 0}, "gate_set.images must be a whole number, 1 or more"),
        ({"counts": {"normal": 1}}, "gate_set.counts must be of "),
        ({"counts": dict.fromkeys(LABELS, -1)}, "gate_set.counts.normal must be a whole number"),
        ({"licence": " "}, "gate_set.licence must be a printable text"),
        ({"attribution": ""}, "gate_set.attribution must be a printable text"),
        ({"size": 3}, "gate_set.size is not a key"),
    ],
)
def test_values_that_the_manifest_refuses(gated, change, message):
    document = json.loads((gated.root / "manifest.json").read_text())
    document["gate_set"].update(change)
    with pytest.raises(BundleError, match=message):
        Manifest.from_json(document)


def damaged(gated: Bundle, content: bytes) -> Bundle:
    """Return the bundle with another gate set under its own SHA-256."""
    (gated.root / "gate.set").write_bytes(content)
    entry = replace(gated.manifest.gate_set, file=file_ref(gated.root, "gate.set"))
    return write_bundle(gated.root, replace(gated.manifest, gate_set=entry))


def header(gated: Bundle, **changes: object) -> bytes:
    head, _, payload = (gated.root / "gate.set").read_bytes().partition(b"\n")
    return json.dumps({**json.loads(head), **changes}).encode() + b"\n" + payload


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": "cxr-edge-gate/9"}, "schema must be 'cxr-edge-gate/1'"),
        ({"labels": ["a", "b", "c", "d"]}, r"labels are \['a', 'b', 'c', 'd'\], those of the bundle"),
        ({"truth": [0, None, 9]}, r"truth\[2\] must be a label's index"),
        ({"truth": [0, None, True]}, r"truth\[2\] must be a label's index"),
        ({"truth": []}, "truth must be a list of 1 to 2000"),
        ({"truth": [0, 1, 3]}, "is not what the manifest says"),
        ({"probabilities": [[1]] * 3}, r"probabilities\[0\] must be 4 numbers"),
        ({"probabilities": [[2, 0, 0, 0]] * 3}, r"probabilities\[0\] must be numbers from 0 to 1"),
        ({"decisions": ["normal"]}, "decisions must be a list of 3"),
        ({"pixels_sha256": "0" * 64}, "pixels_sha256 is 000"),
        ({"sizes": [[30, 20]] * 3}, "must have a payload of 1800 bytes"),
        ({"sizes": [[100000, 100000]] * 3}, "sizes must be of 268435456 pixels at most"),
        ({"sizes": [[30]] * 3}, r"sizes\[0\] must be \[width, height\]"),
        ({"more": 1}, "more is not a key"),
    ],
)
def test_a_file_that_is_not_valid(gated, changes, message):
    with pytest.raises(BundleError, match=f"{message}.*make its gate set again"):
        read_gate_set(damaged(gated, header(gated, **changes)))


@pytest.mark.parametrize("payload", [b"", b"no zlib"])
def test_a_payload_that_is_not_compressed(gated, payload):
    head, _, _ = (gated.root / "gate.set").read_bytes().partition(b"\n")
    with pytest.raises(BundleError, match="payload"):
        read_gate_set(damaged(gated, head + b"\n" + payload))


def test_a_file_that_is_no_json(gated):
    with pytest.raises(BundleError, match="must be JSON in UTF-8"):
        read_gate_set(damaged(gated, b"\x00\xff"))


def test_inspect_shows_it(gated, capsys):
    assert main(["inspect", str(gated.root)]) == 0
    shown = capsys.readouterr().out
    assert (
        "3 real images (normal 1, bacterial 0, viral 0, covid-19 1) in gate.set; drawn for tests; licence: CC0-1.0"
        in shown
    )


def test_inspect_without_one(bundle, capsys):
    assert main(["inspect", str(bundle.root)]) == 0
    assert "none, engines are compared on the known answers" in capsys.readouterr().out


def test_inspect_refuses_a_damaged_one(gated, capsys):
    damaged(gated, header(gated, pixels_sha256="0" * 64))
    assert main(["inspect", str(gated.root)]) == 3
    assert "the pixels that this machine makes have" in capsys.readouterr().err


def test_entry_is_read_as_written(gated):
    assert GateSet.from_json(gated.manifest.gate_set.as_json()) == gated.manifest.gate_set
