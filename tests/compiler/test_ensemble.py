"""The whole ensemble at its operating points: moved limits give the same decisions, and the gate sees answers that change."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import numpy.typing as npt
import pytest

from cxr_edge.bundle.manifest import Manifest
from cxr_edge.compiler.ensemble import EnsembleResult, compare_at_points
from cxr_edge.compiler.parity import Limits
from cxr_edge.specs.budget import ErrorBudget, LabelLimits
from cxr_edge.specs.combination import Decision
from tests.builders.toy_bundle import FINDINGS, LABELS, build_toy_bundle
from tests.compiler.screenings import screenings

Values = npt.NDArray[np.float64]

RULE = Decision(thresholds={"covid-19": 0.3}, uncertain_below=0.0, first=("covid-19",))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder = tmp_path_factory.mktemp("plain")
    manifest = build_toy_bundle(folder, members=("plain",), segmenter=False, known_answers=False).manifest
    return dataclasses.replace(manifest, decision=RULE)


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder = tmp_path_factory.mktemp("findings")
    toy = build_toy_bundle(folder, members=("plain",), segmenter=False, known_answers=False, multi_label=True)
    return toy.manifest


def with_budget(manifest: Manifest, answer_from: float) -> Manifest:
    """Return the manifest with answers of the two labels that occur here."""
    own = LabelLimits(set_from=0.0, answer_from=answer_from, cases=9, answered=9, wrong=0)
    labels = {"normal": own, "covid-19": dataclasses.replace(own, answer_from=0.0)}
    budget = ErrorBudget(max_wrong=0.05, confidence=0.9, coverage=0.95, fitted_on="tests", labels=labels)
    return dataclasses.replace(manifest, budget=budget)


def rows(covid: Values) -> Values:
    """Return probabilities (images, labels): these of covid-19, the rest of normal."""
    found = np.zeros((len(covid), len(LABELS)))
    found[:, -1], found[:, 0] = covid, 1 - covid
    return found


def shifted(p: Values, by: float) -> Values:
    return np.asarray(1 / (1 + (1 - p) / p * np.exp(-by)))


def compared(
    manifest: Manifest, before: Values, after: Values, *, known: npt.NDArray[np.int8] | None = None, loss: float = 0.05
) -> EnsembleResult:
    of_findings = manifest.multi_label
    sides = [screenings(p, manifest.labels, manifest.decision, findings=of_findings) for p in (before, after)]
    unknown = np.full(before.shape, -1, np.int8)
    return compare_at_points(
        manifest, *sides, truth=None, known=unknown if known is None else known, limits=Limits(max_loss=loss)
    )


def spread(images: int = 300) -> Values:
    return np.random.default_rng(3).uniform(0.05, 0.95, images)


def test_moved_limits_give_the_same_decisions(plain: Manifest) -> None:
    p = spread()
    found = compared(plain, rows(p), rows(shifted(p, -0.3)), loss=0.9)
    assert found.report is not None
    assert found.point is not None
    assert found.point.decision.thresholds["covid-19"] == pytest.approx(shifted(np.array([0.3]), -0.3)[0], abs=1e-4)
    assert found.parity.agreement == 1.0
    assert (found.report.same_decision.hits, found.report.same_decision.n) == (300, 300)
    limit = found.report.limits[0]
    assert (limit.title, limit.changed_if_moved) == ("threshold covid-19", 0)
    assert limit.changed > 10


def test_few_images_move_nothing_and_the_gate_counts_their_decisions(plain: Manifest) -> None:
    p = np.r_[np.full(16, 0.9), np.full(4, 0.34)]
    found = compared(plain, rows(p), rows(shifted(p, -0.3)))
    assert found.point is None
    assert found.parity.agreement == 0.8
    assert "decision agreement 0.800, at least 0.950 is required" in found.parity.reasons
    assert found.report is not None
    text = "\n".join(found.report.lines())
    assert "Operating point: 0 of 1 limits moved for these engines; 1 had fewer than 10 images near them" in text
    assert "Decisions as by the fp32 networks: 0.800 [0.563, 0.943] (16/20)." in text


def test_the_gate_refuses_engines_that_answer_other_images(plain: Manifest) -> None:
    """The decisions are all the same: only the answers of images at 0.82 are lost."""
    manifest = with_budget(plain, 0.8)
    p = np.r_[np.full(15, 0.02), np.full(5, 0.18)]
    found = compared(manifest, rows(p), rows(np.where(p > 0.1, 0.23, p)))
    assert (found.parity.agreement, found.parity.answers) == (1.0, 0.75)
    assert found.parity.reasons == ("agreement on which images are answered 0.750, at least 0.950 is required",)
    assert found.report is not None
    assert str(found.report.same_answer) == "0.750 [0.509, 0.913] (15/20)"
    assert found.report.answered is not None
    assert [found.report.answered.reference.hits, found.report.answered.engines.hits] == [20, 15]


@pytest.mark.parametrize(("after", "agreement"), [(0.295, 1.0), (0.292, 0.0)])
def test_a_change_beside_a_limit_is_a_tie_for_the_gate_and_counted_in_the_report(
    plain: Manifest, after: float, agreement: float
) -> None:
    """TIE is 0.02 at 0.5, and 0.012 beside a threshold of 0.3. Nine images are too few to move it."""
    found = compared(plain, rows(np.full(9, 0.305)), rows(np.full(9, after)), loss=0.5)
    assert found.point is None
    assert found.parity.agreement == agreement
    assert found.report is not None
    assert found.report.same_decision.hits == 0


def test_sensitivity_and_specificity_before_and_after(plain: Manifest) -> None:
    p = spread()
    known = np.zeros((300, len(LABELS)), np.int8)
    known[:, -1], known[:, 0] = p > 0.5, p <= 0.5
    known[:10] = -1  # of files outside the labels' folders
    found = compared(with_budget(plain, 0.5), rows(p), rows(shifted(p, -0.3)), known=known, loss=0.9)
    assert found.report is not None
    (own,) = found.report.labels
    assert own.label == "covid-19"
    assert own.sensitivity.reference.n == int((p[10:] > 0.5).sum())
    assert own.sensitivity.reference.n + own.specificity.reference.n == 290
    assert own.specificity.engines == own.specificity.reference
    assert own.specificity.engines_at_manifest.hits > own.specificity.reference.hits
    assert found.report.right_answers is not None
    assert found.report.right_answers.reference.n <= 290
    text = "\n".join(found.report.lines())
    assert "With exact 95 % intervals, on images whose true label the folder names:" in text
    assert f"  specificity covid-19  {own.specificity.reference}" in text
    assert str(own.specificity.engines_at_manifest) in text
    assert "right answers" in text
    json.dumps(dataclasses.asdict(found.report), allow_nan=False)


def test_without_thresholds_the_report_has_all_labels(plain: Manifest) -> None:
    manifest = dataclasses.replace(plain, decision=Decision(thresholds={}, uncertain_below=0.0))
    known = np.zeros((20, len(LABELS)), np.int8)
    known[:, 0] = 1
    found = compared(manifest, rows(spread(20)), rows(spread(20)), known=known)
    assert found.report is not None
    assert [own.label for own in found.report.labels] == list(LABELS)
    assert str(found.report.labels[1].sensitivity.reference) == "-"


def test_thresholds_of_findings_move_too(findings: Manifest) -> None:
    p = np.stack([spread(), spread()[::-1], np.random.default_rng(4).uniform(0.05, 0.95, 300)], axis=1)
    found = compared(findings, p, shifted(p, 0.35), loss=0.9)
    assert found.point is not None
    assert set(found.point.decision.thresholds) == set(FINDINGS)
    assert found.parity.agreement == 1.0
    unmoved = dataclasses.replace(findings, decision=dataclasses.replace(findings.decision, thresholds={}))
    assert [limit.manifest for limit in compared(unmoved, p, p).report.limits[:3]] == [0.5] * 3  # type: ignore[union-attr]


def test_outputs_that_are_not_finite_have_a_reason_and_no_point(plain: Manifest) -> None:
    before = rows(spread(20))
    sides = [screenings(p, LABELS, RULE) for p in (before, np.where(np.arange(20)[:, None] == 3, np.nan, before))]
    known = np.full(before.shape, -1, np.int8)
    found = compare_at_points(plain, *sides, truth=None, known=known, limits=Limits())
    assert (found.point, found.report) == (None, None)
    assert "not finite" in found.parity.reasons[0]
