"""`calibrate`: a bundle and a site's cases in, a new version of the bundle with the site's operating point out.

The order: read the cases; refuse too few; screen them; fit; refuse what keeps no promise; only then write. Networks are copied
and never trained; whatever is refused leaves nothing.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from cxr_edge.bundle import Bundle, file_ref, write_bundle
from cxr_edge.bundle.gate_set import read_gate_file
from cxr_edge.bundle.manifest import GateSet, KnownAnswer, Manifest
from cxr_edge.calibration import LabelledCases, Promise, one_per_patient
from cxr_edge.calibration.figures import counted
from cxr_edge.calibration.temperature import sharpened
from cxr_edge.drift import Reference, attach_reference
from cxr_edge.drift.reference import LEAST_EXAMS
from cxr_edge.drift.statistics import output_statistics
from cxr_edge.errors import InputError
from cxr_edge.names import printable
from cxr_edge.ops.combine import decide
from cxr_edge.site.card import with_section
from cxr_edge.site.cases import Reading, read_cases
from cxr_edge.site.fit import FittedPoint, PointRequest, fit_point, out_of_fold
from cxr_edge.site.modes import at_sharpness, fit_modes, notes_on_modes
from cxr_edge.site.notes import notes_on_cases, notes_on_point
from cxr_edge.site.plan import needed_cases
from cxr_edge.site.report import SiteReport
from cxr_edge.site.screened import ScreenedCases, screen_cases
from cxr_edge.specs.budget import LabelLimits
from cxr_edge.specs.degraded import DegradedMode

__all__ = ["SiteRequest", "calibrate"]

_OTHER_BUDGETS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.4)
_REFERENCE_SEED = 1  # chooses one image of each patient


@dataclass(frozen=True, kw_only=True)
class SiteRequest:
    """Settings of a calibration."""

    promise: Promise = field(default_factory=Promise)
    reading: Reading = field(default_factory=Reading)
    never: tuple[str, ...] = ()  # labels that are not to be answered, so that few cases of them will do
    keep_absent: bool = False  # labels without cases keep the limits of the bundle
    seed: int = 1  # chooses one image of each patient, and the folds
    threads: int = 1


def calibrate(
    bundle: Bundle, source: Path, out: Path, request: SiteRequest, *, say: Callable[[str], None] = lambda line: None
) -> SiteReport:
    """Write the new version of `bundle` as the folder `out`. say: takes lines of progress.

    Raises InputError for cases that cannot be used, too few of them for the promise, and a promise that they do not show.
    """
    manifest = bundle.manifest
    _check(manifest, out, request)
    cases = read_cases(source, manifest.labels, request.reading)
    _check_counts(cases, request)
    screened = screen_cases(bundle, cases, threads=request.threads, say=say)
    _check_counts(screened.cases, request)
    wanted = _point_request(manifest, screened.predictions, request)
    say("fitting the operating point")
    point = fit_point(screened.predictions, wanted)
    _check_answers(point, screened.predictions, wanted)
    modes = fit_modes(manifest, screened, wanted, point)
    report = _report(manifest, screened, wanted, point, modes, out)
    _write(bundle, screened, point, modes, report)
    return report


def _check(manifest: Manifest, out: Path, request: SiteRequest) -> None:
    if manifest.multi_label:
        raise InputError(
            "the labels of this bundle are findings that do not exclude each other, for which there is no error budget: set "
            "their thresholds in its training"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{printable(out)} exists: give another folder for the new bundle, or delete this one")
    if not out.absolute().parent.is_dir():
        raise InputError(f"there is no folder {printable(out.absolute().parent)} for the new bundle: make it first")
    if unknown := sorted(set(request.never) - set(manifest.labels)):
        raise InputError(
            f"--never-answer: {', '.join(unknown)} is no label of the bundle, {', '.join(manifest.labels)}"
        )
    if request.keep_absent and manifest.budget is None:
        raise InputError("--keep-absent keeps limits of the bundle, which has no error budget: leave it out")


def _check_counts(cases: Sequence[Any], request: SiteRequest) -> None:
    """Refuse labels with too few patients for the promise, and cases of one label only."""
    patients: dict[str, set[str]] = {}
    for case in cases:
        patients.setdefault(case.label, set()).add(case.patient)
    if len(patients) < 2:
        raise InputError(
            f"all cases are {next(iter(patients))}: wrong answers show only on cases of two labels or more, such as patients "
            "without the finding"
        )
    least = needed_cases(request.promise)
    few = [f"{k} has {len(v)}" for k, v in sorted(patients.items()) if len(v) < least and k not in request.never]
    if few:
        p = request.promise
        raise InputError(
            f"too few cases for the promise: {', '.join(few)} patients; at least {least} of each label are needed to "
            "show that at "
            f"most {p.max_wrong:.1%} of its answers are wrong with a confidence of {p.confidence:.0%}. Collect more (cxr-edge "
            "calibrate --plan), promise less (--max-wrong, --confidence), or give up its answers (--never-answer LABEL)"
        )


def _point_request(manifest: Manifest, predictions: LabelledCases, request: SiteRequest) -> PointRequest:
    kept: dict[str, LabelLimits] = {}
    if request.keep_absent and manifest.budget is not None:
        kept = {k: v for k, v in manifest.budget.labels.items() if not predictions.counts[k]}
    return PointRequest(
        decision=manifest.decision,
        promise=request.promise,
        never=request.never,
        kept=kept,
        temperature=manifest.combination.strategy != "voting",
        seed=request.seed,
    )


def _check_answers(point: FittedPoint, cases: LabelledCases, wanted: PointRequest) -> None:
    """Refuse a budget at which nothing would ever be answered; name the smallest that would be kept."""
    if any(limits.answer_from is not None for limits in point.budget.labels.values()):
        return
    for value in _OTHER_BUDGETS:
        if value > wanted.promise.max_wrong:
            tried = fit_point(cases, replace(wanted, promise=replace(wanted.promise, max_wrong=value)))
            if answered := [k for k, v in tried.budget.labels.items() if v.answer_from is not None]:
                more = f"with --max-wrong {value:g} answers of {', '.join(answered)} would be"
                break
    else:
        more = f"not even {_OTHER_BUDGETS[-1]:.0%} could be"
    raise InputError(
        f"on these cases no answer keeps the promise of at most {wanted.promise.max_wrong:.1%} wrong with a confidence of "
        f"{wanted.promise.confidence:.0%}; {more}. Collect more cases, or do not use this bundle here"
    )


def _report(
    manifest: Manifest,
    screened: ScreenedCases,
    wanted: PointRequest,
    point: FittedPoint,
    modes: tuple[DegradedMode, ...],
    out: Path,
) -> SiteReport:
    own = screened.predictions.only(one_per_patient(screened.predictions.patients, seed=wanted.seed))
    return SiteReport(
        out=out,
        version_before=manifest.version,
        version=_next_version(manifest.version),
        engines=screened.engines,
        cases=screened.predictions.counts,
        patients=len(own.true),
        point=point,
        before=counted(own, manifest.decision, manifest.budget),
        after=out_of_fold(screened.predictions, wanted),
        notes=(
            *notes_on_cases(screened, manifest),
            *notes_on_point(point, manifest, wanted.never),
            *notes_on_modes(modes),
        ),
    )


def _next_version(version: str) -> str:
    """Return `2.0.0+site.1` of `2.0.0`, and `2.0.0+site.2` of that."""
    found = re.fullmatch(r"(.*)\+site\.([0-9]{1,6})", version)
    return f"{version}+site.1" if found is None else f"{found[1]}+site.{int(found[2]) + 1}"


def _write(
    bundle: Bundle,
    screened: ScreenedCases,
    point: FittedPoint,
    modes: tuple[DegradedMode, ...],
    report: SiteReport,
) -> None:
    """Write the folder `report.out`: all files of the bundle, its card with a section, and a manifest."""
    with tempfile.TemporaryDirectory(prefix=".calibrating-", dir=report.out.absolute().parent) as scratch:
        root = Path(scratch, "bundle")
        for key, ref in bundle.manifest.files():
            if key == "reference":  # of other exams
                continue
            target = root / ref.path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle.file(ref), target)
        card = root / bundle.manifest.model_card.path
        card.write_text(with_section(card.read_text(encoding="utf-8"), report), encoding="utf-8", newline="\n")
        written = write_bundle(root, _manifest(bundle, screened, point, modes, report, root))
        reference = _reference(screened, point, report)
        if reference is not None:
            attach_reference(written, reference)
        if report.out.is_dir():
            report.out.rmdir()  # empty, as checked
        root.rename(report.out)
    Bundle.open(report.out)


def _manifest(
    bundle: Bundle,
    screened: ScreenedCases,
    point: FittedPoint,
    modes: tuple[DegradedMode, ...],
    report: SiteReport,
    root: Path,
) -> Manifest:
    old = bundle.manifest
    combination = at_sharpness(old.combination, point.sharpness)
    facts = {
        "of": {"version": old.version, "manifest_sha256": bundle.digest},
        "cases": dict(report.cases),
        "patients": report.patients,
        "cases_sha256": screened.digest,
        "screened_by": screened.engines,
        "notes": list(report.notes),
    }
    return replace(
        old,
        version=report.version,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        combination=combination,
        degraded=modes,
        decision=point.decision,
        budget=point.budget,
        reference=None,
        gate_set=_gate_set(bundle, root, point, old.combination.temperature / combination.temperature),
        model_card=file_ref(root, old.model_card.path),
        known_answers=_known_answers(old, old.combination.temperature / combination.temperature),
        provenance={**old.provenance, "site": facts},
    )


def _reference(screened: ScreenedCases, point: FittedPoint, report: SiteReport) -> Reference | None:
    """Return the cases, one image of each patient, as the exams that drift is measured against; None for too few."""
    predictions = screened.predictions
    rows = one_per_patient(predictions.patients, seed=_REFERENCE_SEED)
    if len(rows) < LEAST_EXAMS:
        return None
    outputs = sharpened(predictions.probabilities[rows], point.sharpness)
    exams = [
        {**screened.statistics[row], **output_statistics(predictions.labels, map(float, shares))}
        for row, shares in zip(rows, outputs, strict=True)
    ]
    return Reference.of_exams(exams, of=f"cases of version {report.version}, one image of each patient")


def _gate_set(bundle: Bundle, root: Path, point: FittedPoint, sharpness: float) -> GateSet | None:
    """Write the gate set's answers at the new temperature and decision into its copy in `root`. Returns its entry."""
    entry, labels = bundle.manifest.gate_set, bundle.manifest.labels
    if entry is None:
        return None
    file = read_gate_file(bundle, entry)
    shares = sharpened(np.array(file.probabilities), sharpness).astype(np.float32)
    decisions = [decide(row, int(row.argmax()), labels, point.decision)[0] for row in shares]
    file.answered(shares, decisions).write(root / entry.file.path)
    return replace(entry, file=file_ref(root, entry.file.path))


def _known_answers(manifest: Manifest, sharpness: float) -> tuple[KnownAnswer, ...]:
    """Return the known answers at the new temperature."""
    if sharpness == 1.0:
        return manifest.known_answers
    found = []
    for answer in manifest.known_answers:
        values = sharpened(np.array([answer.probabilities]), sharpness)[0]
        found.append(replace(answer, probabilities=tuple(float(v) for v in values)))
    return tuple(found)
