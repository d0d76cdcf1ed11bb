"""Comparison of a whole ensemble of engines with the reference, each at its own operating point.

Screenings of the build's images by the reference and by the engines come in; an `EnsembleResult` comes out: the engines'
operating point, the gate's verdict, and the figures for the report.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cxr_edge.bundle.manifest import Manifest
from cxr_edge.compiler.mode_points import fit_mode_points
from cxr_edge.compiler.operating_point import Outputs, fit_point
from cxr_edge.compiler.parity import (
    TIE,
    Agreement,
    Findings,
    Limits,
    ParityResult,
    compare_ensemble,
    compare_ensemble_findings,
    largest_shift,
    tie,
)
from cxr_edge.compiler.point_report import PointReport, point_report
from cxr_edge.compiler.verdicts import Verdicts, probabilities_of
from cxr_edge.records import Screening
from cxr_edge.specs.budget import OperatingPoint
from cxr_edge.specs.degraded import ModePoint

__all__ = ["EnsembleResult", "compare_at_points", "ensemble_parity", "manifest_point"]

Known = npt.NDArray[np.int8]  # (images, labels): 1 where the label is true, 0 where not, -1 where that is unknown


@dataclass(frozen=True, kw_only=True)
class EnsembleResult:
    """Result of the comparison of a set of engines."""

    parity: ParityResult
    point: OperatingPoint | None = None  # of the engines; None: the manifest's
    report: PointReport | None = None  # None where the outputs are not finite
    mode_points: tuple[ModePoint, ...] = ()  # of degraded modes whose limits are moved for the engines


def manifest_point(manifest: Manifest) -> OperatingPoint:
    """Return the operating point of the bundle's own networks."""
    return OperatingPoint(decision=manifest.decision, budget=manifest.budget)


def compare_at_points(
    manifest: Manifest,
    reference: Sequence[Screening],
    engines: Sequence[Screening],
    *,
    truth: npt.NDArray[np.int64] | None,
    known: Known,
    limits: Limits,
    drawn: bool = False,
) -> EnsembleResult:
    """Move the limits for the engines, and compare their screenings at the moved limits with the reference's at the manifest's.

    reference, engines: made at the manifest's operating point. truth, known: as of `Samples`. drawn: as of `fit_point`.
    """
    at, before, after = manifest_point(manifest), probabilities_of(reference), probabilities_of(engines)
    expected = Verdicts.made(at, reference)
    if not np.isfinite(after).all():
        return EnsembleResult(parity=ensemble_parity(manifest, at, before, after, expected, expected, truth, limits))
    fitted = fit_point(
        at,
        Outputs(
            labels=manifest.labels,
            multi_label=manifest.multi_label,
            reference=before,
            engines=after,
            decided=expected.decided,
        ),
        drawn=drawn,
    )
    unmoved = Verdicts.made(at, engines)
    found = Verdicts.at(fitted.point, engines) if fitted.moved else unmoved
    return EnsembleResult(
        parity=ensemble_parity(manifest, fitted.point, before, after, expected, found, truth, limits),
        point=fitted.point if fitted.moved else None,
        report=point_report(manifest, fitted, expected, unmoved, found, known, drawn=drawn),
        mode_points=() if drawn else fit_mode_points(manifest, reference, engines),
    )


def ensemble_parity(
    manifest: Manifest,
    moved: OperatingPoint,
    before: npt.NDArray[np.float32],
    after: npt.NDArray[np.float32],
    expected: Verdicts,
    found: Verdicts,
    truth: npt.NDArray[np.int64] | None,
    limits: Limits,
) -> ParityResult:
    """Return the gate's judgement of an ensemble.

    moved: the operating point of the engines. before, after: probabilities (N, K) by the reference and by the engines. expected,
    found: their verdicts.
    """
    if not manifest.multi_label:
        same = _agreement(manifest, largest_shift(before, after), expected, found)
        return compare_ensemble(before, after, same, truth, limits)
    thresholds, candidate = (
        tuple(map(decision.threshold_of, manifest.labels)) for decision in (manifest.decision, moved.decision)
    )
    findings = Findings(labels=manifest.labels, thresholds=thresholds, moved=candidate, truth=truth)
    return compare_ensemble_findings(before, after, limits, findings)


def _agreement(manifest: Manifest, shift: npt.NDArray[np.floating], expected: Verdicts, found: Verdicts) -> Agreement:
    """Return where the verdicts agree. A change of less than what leaves a side of the limits open is a tie."""
    labels, budget = manifest.labels, manifest.budget
    thresholds = [manifest.decision.thresholds.get(label) for label in labels]
    decisions = (expected.decided == found.decided).all(axis=1) | (shift <= _ties(thresholds, expected, found))
    if budget is None:
        return Agreement(decisions=decisions, answers=None)
    limits = [budget.labels[label].answer_from if label in budget.labels else None for label in labels]
    answers = (expected.answered == found.answered) | (shift <= _ties(limits, expected, found))
    return Agreement(decisions=decisions, answers=answers)


def _ties(limits: Sequence[float | None], expected: Verdicts, found: Verdicts) -> npt.NDArray[np.floating]:
    """Return the largest change that is a tie (images), by the limits of the labels that either side decided."""
    by_label = np.array([min(TIE, float(tie(np.array(limit)))) if limit else TIE for limit in limits])
    return np.asarray(np.where(expected.decided | found.decided, by_label, TIE).min(axis=1))
