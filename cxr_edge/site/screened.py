"""Screening of a site's cases by the bundle's fp32 reference: cases in, their probabilities and what speaks against them out.

The reference, and not this machine's engines: `build-engine` moves the operating point of the manifest to the engines it keeps.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cxr_edge.bundle import Bundle
from cxr_edge.calibration import LabelledCases
from cxr_edge.drift import exam_statistics
from cxr_edge.engines import reference
from cxr_edge.errors import InputError
from cxr_edge.ops.combine import member_logits
from cxr_edge.records import Failure, Image, Screening
from cxr_edge.screening.folder import screen_files
from cxr_edge.screening.screener import Screener
from cxr_edge.site.cases import Case, cases_digest_line, listed

__all__ = ["ScreenedCases", "screen_cases"]

_MOST_LEFT_OUT = 0.1  # share of the cases: more of them are a mistake to look into


@dataclass(frozen=True, kw_only=True)
class ScreenedCases:
    """Cases that the bundle screens, none of them refused."""

    cases: tuple[Case, ...]
    left_out: tuple[str, ...]  # why, in a word, for each case that cannot be read or that the bundle refuses
    predictions: LabelledCases
    logits: npt.NDArray[np.float32]  # (cases, members, labels)
    statistics: tuple[dict[str, float], ...]  # per case, as drift is measured by
    sizes: tuple[tuple[int, int], ...]  # width and height in pixels, per case
    engines: str  # that screened them, in words
    digest: str  # SHA-256 of files and labels, in any order


def screen_cases(
    bundle: Bundle, cases: Sequence[Case], *, threads: int, say: Callable[[str], None] = lambda line: None
) -> ScreenedCases:
    """Screen the cases. say: takes lines of progress.

    Images that cannot be read, or that the bundle refuses, are left out and listed: `screen` would not answer them either.

    Raises InputError, with every case concerned, if more than a tenth of the cases are, for a picture twice, and for the bundle's
    own known answers.
    """
    screener = Screener(bundle, reference(bundle, threads=1), whole=True)
    say(f"screening {len(cases)} cases with the fp32 reference")
    used, screenings, images, statistics, left_out, faults = [], [], [], [], [], []
    for case, result in zip(cases, screen_files(screener, [c.path for c in cases], workers=threads), strict=True):
        fault = _fault(result.outcome)
        if fault is not None or result.image is None or isinstance(result.outcome, Failure):
            code, reason = fault or ("unreadable", "it has no image")
            left_out.append(code)
            faults.append(f"{case.where}: {reason}")
            continue
        used.append(case)
        screenings.append(result.outcome)
        images.append(_pixel_digest(result.image))
        statistics.append(exam_statistics(result.outcome, result.image))
    if len(faults) > _MOST_LEFT_OUT * len(cases):
        raise InputError(
            f"{len(faults)} of {len(cases)} cases cannot be used, more than {_MOST_LEFT_OUT:.0%}: leave them out or replace "
            f"them: {listed(faults)}"
        )
    if faults:
        say(f"{len(faults)} of {len(cases)} cases are left out: {listed(faults)}")
    _check_pictures(bundle, used, screenings, images)
    return ScreenedCases(
        cases=tuple(used),
        left_out=tuple(left_out),
        predictions=_predictions(bundle, used, screenings),
        logits=_logits(bundle, screenings),
        statistics=tuple(statistics),
        sizes=tuple((s.width_px, s.height_px) for s in screenings),
        engines=screener.describe(),
        digest=_digest(used, screenings),
    )


def _fault(outcome: Screening | Failure) -> tuple[str, str] | None:
    """Return a code and a reason for an image that is no case, or None."""
    if isinstance(outcome, Failure):
        return "unreadable", f"it cannot be read ({outcome.reason})"
    if outcome.outcome == "refused" and outcome.reason is not None:
        return outcome.reason.code, f"the bundle refuses it ({outcome.reason.code})"
    return None


def _pixel_digest(image: Image) -> str:
    return hashlib.sha256(repr(image.pixels.shape).encode() + image.pixels.tobytes()).hexdigest()


def _check_pictures(
    bundle: Bundle, cases: Sequence[Case], screenings: Sequence[Screening], pixels: Sequence[str]
) -> None:
    known = {answer.file.sha256 for answer in bundle.manifest.known_answers}
    faults = [
        f"{c.where}: a known answer of the bundle" for c, s in zip(cases, screenings, strict=True) if s.sha256 in known
    ]
    first: dict[str, Case] = {}
    for case, digest in zip(cases, pixels, strict=True):
        other = first.setdefault(digest, case)
        if other is not case:
            faults.append(f"{case.where}: the same picture as {other.where}")
    if faults:
        raise InputError(f"cases that are no further cases, leave them out: {listed(faults)}")


def _predictions(bundle: Bundle, cases: Sequence[Case], screenings: Sequence[Screening]) -> LabelledCases:
    labels = bundle.manifest.labels
    probabilities = np.array([s.probabilities for s in screenings], dtype=np.float32)
    means = np.array([np.mean([m.probabilities for m in s.members], axis=0) for s in screenings])
    ties = probabilities == probabilities.max(
        axis=1, keepdims=True
    )  # the combination decides them by the members' mean
    return LabelledCases(
        labels=labels,
        probabilities=probabilities,
        winners=np.where(ties, means, -1.0).argmax(axis=1).astype(np.int64),
        true=np.array([labels.index(c.label) for c in cases], dtype=np.int64),
        patients=np.array([c.patient for c in cases], dtype=np.str_),
    )


def _logits(bundle: Bundle, screenings: Sequence[Screening]) -> npt.NDArray[np.float32]:
    scores = np.array([[m.probabilities for m in s.members] for s in screenings], dtype=np.float64)
    return member_logits(scores, bundle.manifest.combination)


def _digest(cases: Sequence[Case], screenings: Sequence[Screening]) -> str:
    lines = sorted(cases_digest_line(c, s.sha256) for c, s in zip(cases, screenings, strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()
