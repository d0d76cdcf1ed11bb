"""Builds of multi-label bundles: the gate compares finding by finding, names the one that is wrong, and refuses its engine."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import numpy_helper

from cxr_edge import engines
from cxr_edge.bundle import Bundle, write_bundle
from cxr_edge.compiler import candidates, ensemble, samples
from cxr_edge.compiler.build_bundle import build
from cxr_edge.compiler.comparison import output_comparison
from cxr_edge.compiler.known_answers import add_known_answers
from cxr_edge.compiler.parity import (
    PER_OUTPUT,
    TRUE_FINDINGS,
    Findings,
    Limits,
    ParityResult,
    compare_ensemble_findings,
    compare_findings,
)
from cxr_edge.decoding.decode import decode
from cxr_edge.engines import BuildSettings
from cxr_edge.screening.screener import Screener
from tests.builders.toy_bundle import FINDINGS, build_toy_bundle

Values = npt.NDArray[np.float64]
Damage = Callable[[Values], Values]

LIMITS = Limits(max_loss=0.01)
THRESHOLDS = (0.5, 0.3, 0.1)


def flipped(columns: Values) -> Values:
    """Turn the sign of the second finding's logit, or the side of its probability."""
    centre = 0.0 if columns.min() < 0 else 1.0
    return np.stack([columns[:, 0], centre - columns[:, 1], columns[:, 2]], axis=1)


def swapped(columns: Values) -> Values:
    return columns[:, [1, 0, 2]]


def constant(columns: Values) -> Values:
    return np.stack([columns[:, 0], np.full(len(columns), np.median(columns[:, 1])), columns[:, 2]], axis=1)


DAMAGES = [flipped, swapped, constant]


def logits(images: int = 60) -> Values:
    """Findings of which one is frequent, one is present in a third and one is rare."""
    return np.asarray(np.random.default_rng(8).normal((0.5, -1.0, -4.0), (2.0, 1.5, 1.0), (images, 3)))


def sigmoid(values: Values) -> Values:
    return np.asarray(1 / (1 + np.exp(-values)))


def together(before: Values, after: Values, truth: npt.NDArray[np.int64] | None = None) -> ParityResult:
    findings = Findings(labels=FINDINGS, thresholds=THRESHOLDS, truth=truth)
    return compare_ensemble_findings(before, after, LIMITS, findings)


def test_equal_ensembles_pass() -> None:
    result = together(sigmoid(logits()), sigmoid(logits()))
    assert result.passed
    assert (result.agreement, result.auc_change, result.auc_against, result.worst_finding) == (
        1.0,
        0.0,
        PER_OUTPUT,
        None,
    )


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_wrong_ensemble_is_refused_and_the_finding_named(damage: Damage) -> None:
    result = together(sigmoid(logits()), damage(sigmoid(logits())))
    assert not result.passed
    assert result.worst_finding in ("effusion", "nodule")
    assert any(f"agreement on {result.worst_finding}" in reason for reason in result.reasons)
    assert "output" not in " ".join(result.reasons)


@pytest.mark.parametrize("images", [3, 60])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_wrong_member_is_refused_and_the_finding_named(damage: Damage, images: int) -> None:
    before = logits(images).astype(np.float32)
    compare = output_comparison(("multi-label-logits",), LIMITS, findings=FINDINGS)
    assert compare(list(before), list(before)).passed
    reasons = compare(list(before), list(damage(before).astype(np.float32))).reasons
    assert any("nodule" in reason or "effusion" in reason for reason in reasons)
    assert not any("output 1" in reason for reason in reasons)


def test_each_finding_is_decided_at_its_own_threshold() -> None:
    """A change from 0.32 to 0.28 is one of the second finding only, whose threshold is 0.3."""
    for finding, agreement in enumerate((1.0, 0.0, 1.0)):
        before = np.full((4, 3), 0.9)
        before[:, finding] = 0.32
        after = before.copy()
        after[:, finding] = 0.28
        result = together(before, after)
        assert result.agreement == agreement
        assert result.worst_finding == ("nodule" if agreement < 1 else None)


def test_a_tie_is_narrower_beside_a_threshold_near_0() -> None:
    findings = Findings(labels=("rare",), thresholds=(0.01,))
    at = np.full((10, 1), 0.01)
    assert compare_findings(at, at - 0.0003, LIMITS, findings).agreement == 1.0
    assert compare_findings(at, at - 0.0005, LIMITS, findings).agreement == 0.0


def test_the_worst_finding_decides_the_ensemble_by_its_own_limit() -> None:
    """Of 100 images one may change, a second may not; a member may lose three."""
    before = np.full((100, 3), 0.9)
    after = before.copy()
    after[:1, 1], before[:1, 1] = 0.28, 0.32
    assert together(before, after).passed
    after[:2, 1], before[:2, 1] = 0.28, 0.32
    assert together(before, after).reasons == ("agreement on nodule 0.980, at least 0.990 is required",)


def test_true_findings_are_the_order_if_they_are_known() -> None:
    before = sigmoid(logits())
    truth = np.random.default_rng(2).integers(0, 2, before.shape)
    result = together(before, before + 1e-4 * np.random.default_rng(3).normal(size=before.shape), truth)
    assert result.auc_against == TRUE_FINDINGS
    positive = before[:, 2] * np.where(truth[:, 2] == 1, 1.0, -1.0)  # ordered by truth: swapping it loses all
    ordered = np.stack([before[:, 0], before[:, 1], 0.01 + 0.01 * positive], axis=1)
    lost = np.stack([before[:, 0], before[:, 1], 0.01 - 0.01 * positive], axis=1)
    assert together(ordered, lost, truth).auc_change == pytest.approx(-1.0)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return build_toy_bundle(tmp_path_factory.mktemp("findings"), multi_label=True, activation_ranges=True)


def test_a_bundle_of_findings_is_built_in_int8_and_screens(bundle: Bundle, tmp_path: Path) -> None:
    report = build(bundle, BuildSettings(precision="int8", max_loss=0.9), tmp_path)
    assert report.complete
    assert report.ensemble is not None
    assert "multi-label-logits (declared by the bundle)" in "\n".join(report.lines())
    screener = Screener(bundle, engines.load(bundle, tmp_path))
    found = screener.screen(decode(bundle.file(bundle.manifest.known_answers[0].file)))
    expected = bundle.manifest.known_answers[0].probabilities
    assert found.probabilities == pytest.approx(expected, abs=0.3)
    assert found.findings is not None


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_wrong_engine_is_refused(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Damage
) -> None:
    """The compiled network differs in one finding, or in the order of two: no engine, and the reason names the finding."""

    def rewrite(recipe: Any, model: onnx.ModelProto, ranges: Any) -> onnx.ModelProto:
        return damaged(model, damage) if any(o.name == "cam" for o in model.graph.output) else model

    monkeypatch.setattr(candidates, "_rewrite", rewrite)
    report = build(bundle, BuildSettings(precision="fp32", max_loss=0.01), tmp_path)
    assert set(report.precisions) == {"segmenter"}
    rows = [r for r in report.rows if r.part != "segmenter"]
    assert {r.status for r in rows} == {"rejected"}
    assert all("nodule" in str(r.reason) or "effusion" in str(r.reason) for r in rows)
    assert not any("output" in str(r.reason).replace("raw output", "") for r in rows)


def damaged(model: onnx.ModelProto, damage: Damage) -> onnx.ModelProto:
    """Return the model with its last layer's columns damaged."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    biases = [t for t in changed.graph.initializer if tuple(t.dims) == (3,)]
    weights = [t for t in changed.graph.initializer if len(t.dims) == 4 and t.dims[0] == 3 and t.dims[2] == 1]
    assert (len(biases), len(weights)) == (1, 1)
    for tensor in (*biases, *weights):
        values = numpy_helper.to_array(tensor)
        columns = values.reshape(3, -1).T.copy()  # (.., findings)
        if damage is flipped:
            columns[:, 1] *= -1
        elif damage is swapped:
            columns = columns[:, [1, 0, 2]]
        elif len(values.shape) == 4:
            columns[:, 1] = 0
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(columns.T.reshape(values.shape)), tensor.name))
    return changed


def test_an_ensemble_that_is_wrong_together_is_refused(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its members pass one by one: only the comparison of the whole ensemble has the bundle's thresholds."""
    real = ensemble.compare_ensemble_findings

    def compare(before: Any, after: Any, limits: Limits, findings: Findings) -> ParityResult:
        assert findings.thresholds == (0.5, 0.5, 0.4)
        assert findings.labels == FINDINGS
        return real(before, after[::-1], limits, findings)

    monkeypatch.setattr(ensemble, "compare_ensemble_findings", compare)
    report = build(bundle, BuildSettings(precision="fp32"), tmp_path)
    assert not report.complete
    assert "the worst finding, on 3 images" in "\n".join(report.lines())
    assert "REJECTED: agreement on " in "\n".join(report.lines())


def test_folders_named_like_decisions_give_the_true_findings(bundle: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "xrays"
    for name, decision in (("smooth", "effusion+nodule"), ("coarse", "opacity"), ("fine", "no finding")):
        (folder / decision).mkdir(parents=True)
        shutil.copy(bundle.root / f"known-{name}.png", folder / decision)
    reference = engines.reference(bundle)
    truth = samples.from_folder(bundle, reference, folder, threads=1, limit=10).truth()
    assert truth is not None
    assert truth.tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]  # by the folders' names
    (folder / "effusion+cat").mkdir()
    cv2.imwrite(str(folder / "effusion+cat" / "a.png"), np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8))
    assert samples.from_folder(bundle, reference, folder, threads=1, limit=10).truth() is None


def test_known_answers_show_different_sets_of_findings(tmp_path: Path) -> None:
    """Of four phantoms two are chosen, one of each set that the threshold divides them into."""
    toy = build_toy_bundle(tmp_path, members=("plain",), segmenter=False, multi_label=True, known_answers=False)
    first = add_known_answers(toy, count=4, candidates=1)
    shares = np.array([a.probabilities for a in first.manifest.known_answers])
    finding = int(np.ptp(shares, axis=0).argmax())
    limits = {**dict.fromkeys(FINDINGS, 1.0), FINDINGS[finding]: float(np.median(shares[:, finding]))}
    rule = dataclasses.replace(first.manifest.decision, thresholds=limits)
    again = write_bundle(first.root, dataclasses.replace(first.manifest, decision=rule))
    answers = add_known_answers(again, count=2, candidates=2).manifest.known_answers
    assert sorted(a.probabilities[finding] >= limits[FINDINGS[finding]] for a in answers) == [False, True]
