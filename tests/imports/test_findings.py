"""Networks of several findings become multi-label bundles: import, engines in int8 through the gate, screening."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from cxr_edge.bundle import Bundle
from cxr_edge.cli import main
from cxr_edge.compiler import known_answers
from cxr_edge.engines import reference
from cxr_edge.errors import ContractError, InputError
from cxr_edge.imports.member_graph import Columns
from cxr_edge.imports.original import Original, read_original
from cxr_edge.imports.output_columns import columns_of_findings, label_logits, label_probabilities
from cxr_edge.imports.parity import measure_parity
from cxr_edge.imports.trained_input import PRESETS
from cxr_edge.ops.combine import sigmoid
from cxr_edge.screening.screener import Screener
from tests.imports.networks import Design, drawn, network, saved

WIDE = np.array([[-3.0, 2.0, 0.5], [4.0, -1.0, 2.0]])
UNIT = np.array([[0.2, 0.9, 0.4], [0.6, 0.1, 0.8]])
SOFT = np.array([[0.2, 0.7, 0.1], [0.6, 0.1, 0.3]])
THREE, TWO_OF_THREE = ("a", "b", "c"), ("a", "", "c")


@pytest.fixture(autouse=True)
def small_phantoms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_answers, "_SIDE_PX", 64)


def original(folder: Path, end: str | None = None, columns: int = 3) -> Original:
    return read_original(saved(network(Design(end=end, columns=columns)), folder), PRESETS["unit"])


@pytest.mark.parametrize(
    ("end", "raw", "labels", "declared", "expected"),
    [
        (None, WIDE, THREE, {}, Columns(kind="multi-label-logits", count=3, findings=(0, 1, 2))),
        ("Sigmoid", UNIT, TWO_OF_THREE, {}, Columns(kind="multi-label-probabilities", count=3, findings=(0, 2))),
        ("Sigmoid", UNIT[:, :1], ("a",), {}, Columns(kind="multi-label-probabilities", count=1, findings=(0,))),
        (None, WIDE[:, :1], ("a",), {}, Columns(kind="logit", count=1, findings=(0,))),
        (None, UNIT, THREE, {"choice": "multi-label-logits"}, Columns(kind="multi-label-logits", count=3, findings=(0, 1, 2))),
    ],
)  # fmt: skip
def test_meanings(tmp_path, end, raw, labels, declared, expected) -> None:  # type: ignore[no-untyped-def]
    assert columns_of_findings(original(tmp_path, end, raw.shape[1]), raw, labels, **declared) == expected


@pytest.mark.parametrize(
    ("end", "raw", "labels", "declared", "error", "message"),
    [
        (None, UNIT, THREE, {}, InputError, "fit multi-label-logits and multi-label-probabilities: declare one"),
        ("Softmax", SOFT, THREE, {}, ContractError, "softmax-probabilities, so its labels exclude each other: leave out --multi"),
        (None, WIDE, THREE, {"choice": "softmax-logits"}, ContractError, "softmax-logits, so its labels exclude each other"),
        ("Sigmoid", UNIT, ("a", "b"), {}, InputError, r"needs 3 labels, one per column .*leaves it out"),
    ],
)  # fmt: skip
def test_refused(tmp_path, end, raw, labels, declared, error, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=message):
        columns_of_findings(original(tmp_path, end, raw.shape[1]), raw, labels, **declared)


def test_values_for_the_findings() -> None:
    logits = Columns(kind="multi-label-logits", count=3, findings=(0, 2))
    shares = Columns(kind="multi-label-probabilities", count=3, findings=(0, 2))
    np.testing.assert_allclose(label_probabilities(logits, WIDE), 1 / (1 + np.exp(-WIDE[:, [0, 2]])))
    np.testing.assert_allclose(label_probabilities(shares, UNIT), UNIT[:, [0, 2]])
    found = label_logits(logits, WIDE)
    assert found is not None
    assert found.tolist() == WIDE[:, [0, 2]].tolist()
    assert label_logits(shares, UNIT) is None


def test_a_number_added_to_all_logits_is_a_difference_of_findings() -> None:
    """Before a softmax it would be none."""
    shifted = WIDE + 0.03
    values = (sigmoid(WIDE), sigmoid(shifted))
    names = ("a.png", "b.png")
    assert measure_parity("net", names, values, (WIDE, shifted), centred=False).logit == pytest.approx(0.03)
    assert measure_parity("net", names, values, (WIDE, shifted)).logit == pytest.approx(0.0, abs=1e-12)


@pytest.fixture
def xrays(tmp_path: Path) -> Path:
    folder = tmp_path / "xrays"
    folder.mkdir()
    for i, image in enumerate(drawn(5)):
        cv2.imwrite(str(folder / f"{i}.png"), image.pixels)
    return folder


def command(*words: object) -> int:
    return main(
        ["import", *map(str, words), "--multi-label", "--preprocess", "unit", "--image-count", "5", "--threads", "1"]
    )


def test_import_build_and_screen(tmp_path: Path, xrays: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From an ONNX file of three findings to a screening by int8 engines, by the commands alone."""
    net, out = saved(network(Design(end="Sigmoid")), tmp_path), tmp_path / "bundle"
    more = ("--images", xrays, "--threshold", "opacity=0.3")
    assert command(net, "--labels", "effusion,nodule,opacity", "--out", out, *more) == 0
    assert "multi-label-probabilities, with class activation map" in capsys.readouterr().out
    manifest = Bundle.open(out).manifest
    assert manifest.multi_label
    assert manifest.members[0].has_cam
    assert (manifest.labels, manifest.decision.thresholds) == (("effusion", "nodule", "opacity"), {"opacity": 0.3})
    card = (out / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "effusion from 0.5, nodule from 0.5, opacity from 0.3." in card
    assert "any other finding is not reported" in card
    assert main(["build-engine", str(out), "--precision", "int8", "--max-loss", "0.9"]) == 0
    assert "net multi-label-logits" in capsys.readouterr().out
    page = tmp_path / "page.html"
    assert main(["screen", str(xrays), "--bundle", str(out), "--json", "--html", str(page)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["run"]["thresholds"] == {"effusion": 0.5, "nodule": 0.5, "opacity": 0.3}
    for screening in found["results"]:
        limits = found["run"]["thresholds"]
        present = [label for label, p in screening["probabilities"].items() if p >= np.float32(limits[label])]
        assert screening["findings"] == present
        assert screening["decision"] == ("+".join(present) or "no finding")
    assert "<th>finding</th><th>net</th>" in page.read_text(encoding="utf-8")


def test_one_finding_is_one_label(tmp_path: Path, xrays: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net, out = saved(network(Design(columns=1)), tmp_path), tmp_path / "bundle"
    assert command(net, "--labels", "opacity", "--output", "logit", "--out", out) == 0
    assert main(["build-engine", str(out), "--precision", "fp32"]) == 0
    capsys.readouterr()
    assert main(["screen", str(xrays), "--bundle", str(out), "--json"]) == 0
    for result in json.loads(capsys.readouterr().out)["results"]:
        assert result["decision"] == ("opacity" if result["probabilities"]["opacity"] >= 0.5 else "no finding")


def test_the_gate_refuses_int8_that_changes_findings(tmp_path: Path, xrays: Path) -> None:
    net, out = saved(network(Design(end="Sigmoid", scale=4.0)), tmp_path), tmp_path / "bundle"
    assert command(net, "--labels", "effusion,nodule,opacity", "--out", out, "--images", xrays) == 0
    assert main(["build-engine", str(out), "--precision", "int8", "--max-loss", "0.000001"]) == 3


def test_several_networks_with_weights_and_a_column_left_out(tmp_path: Path) -> None:
    paths = [saved(network(Design(end="Sigmoid", columns=4), seed=i), tmp_path, f"{i}.onnx") for i in range(2)]
    (tmp_path / "weights.json").write_text("[3, 1]")
    out = tmp_path / "bundle"
    assert command(*paths, "--labels", "a,,b,c", "--combine", tmp_path / "weights.json", "--out", out) == 0
    bundle = Bundle.open(out)
    assert bundle.manifest.labels == ("a", "b", "c")
    assert bundle.manifest.combination.parameters == {"weights": [0.75, 0.25]}
    image = drawn()[0]
    screening = Screener(bundle, reference(bundle)).screen(image, heatmap=True)
    assert screening.heatmap is not None
    raw = [read_original(p, PRESETS["unit"]).run(image, screening.roi)[[0, 2, 3]] for p in paths]
    expected = 0.75 * raw[0] + 0.25 * raw[1]
    np.testing.assert_allclose(screening.probabilities, expected, atol=2e-3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--labels", "a,a,b"), "expected different findings"),
        (("--labels", ",,"), "expected different findings"),
        (("--labels", "a,b,c", "--column", "1"), "with --multi-label leave out columns by empty labels"),
        (("--labels", "a,b,c", "--threshold", "d=0.5"), "--threshold d=0.5: the labels are a, b, c"),
        (("--labels", "a,b,c", "--threshold", "a=2"), "expected a label, = and a number from 0 to 1"),
        (("--labels", "a,b,c", "--threshold", "0.5"), "expected a label, = and a number from 0 to 1"),
        (("--labels", "a+b,c,d"), "without a + and not 'no finding' in a multi-label bundle"),
    ],
)
def test_arguments_that_cannot_be_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    net = saved(network(Design(end="Sigmoid")), tmp_path)
    try:
        status = command(net, *words, "--out", tmp_path / "out")
    except SystemExit as error:
        status = int(str(error.code))
    assert status in (2, 3)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
