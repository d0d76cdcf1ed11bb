"""Parity check (the gate): compares a candidate's outputs with the fp32 reference's on the same inputs.

Outputs of the reference and of a candidate come in, a `ParityResult` with figures and, if it failed, reasons comes out.
The rules are in `Limits`. The comparison is with what the fp32 networks compute on this machine, not with metrics that
were measured in training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from cxr_edge.compiler.auc import auc
from cxr_edge.ops.binomial import exact_interval
from cxr_edge.ops.lung_box import lung_box
from cxr_edge.records import Roi
from cxr_edge.specs.combination import DEFAULT_THRESHOLD
from cxr_edge.specs.lung_box import LungBoxRule

__all__ = [
    "MIN_IMAGES_FOR_AUC",
    "PER_OUTPUT",
    "SAME_BOX_IOU",
    "TIE",
    "TRUE_FINDINGS",
    "Agreement",
    "Findings",
    "Limits",
    "ParityResult",
    "compare_ensemble",
    "compare_ensemble_findings",
    "compare_findings",
    "compare_member",
    "compare_segmenter",
    "largest_shift",
    "macro_auc",
    "tie",
]

FloatArray = npt.NDArray[np.floating]

# A top label that changes although no probability of that image changed by more than this was a tie to begin with.
TIE = 0.02
# Boxes with at least this overlap give crops that differ by less than the rule's own margin of 5 %.
SAME_BOX_IOU = 0.95
# With fewer images one swapped pair changes the AUC more than any sensible limit: it is reported but decides nothing.
MIN_IMAGES_FOR_AUC = 50
PER_OUTPUT = "the reference's decisions of that output"
TRUE_FINDINGS = "true findings"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of a candidate, all from max_loss (X, a share).

    The ensemble must keep the decision, at the operating point, on 1 - X of the images, and whether it is an answer on 1 - X
    of them too. A member or the segmenter, whose errors the others even out, must agree on 1 - 3X; so with few images no
    change at all is allowed. AUC may fall by X, from 50 images on.
    Probabilities may change by 2X in the mean and by 20X in any one image. A mask may lose 3X of its mean overlap. Raw
    outputs may be off by half of their variation over the images, with a large X by more, but never as much as a constant.
    """

    max_loss: float = 0.01

    def __post_init__(self) -> None:
        if not 0.0 < self.max_loss <= 1.0:
            raise ValueError(f"max_loss must be above 0 and at most 1, got {self.max_loss}")

    @property
    def network_agreement(self) -> float:
        return 1.0 - 3.0 * self.max_loss

    @property
    def ensemble_agreement(self) -> float:
        return 1.0 - self.max_loss

    @property
    def mean_shift(self) -> float:
        return 2.0 * self.max_loss

    @property
    def max_shift(self) -> float:
        return 20.0 * self.max_loss

    @property
    def output_change(self) -> float:
        # A constant output has 1. The starter bundle's int8 engines that the other limits pass have up to 0.19.
        return min(0.9, max(0.5, 2.0 * self.max_loss))

    @property
    def mask_iou(self) -> float:
        return 1.0 - 3.0 * self.max_loss


@dataclass(frozen=True, kw_only=True)
class ParityResult:
    """Result of a parity comparison: its figures, and the reasons for failure."""

    images: int
    # Share of images with the same top label, decision, lung box, or state of the worst finding; ties count as the same.
    agreement: float
    max_shift: float | None = None  # largest absolute change of a probability
    mean_shift: float | None = None  # mean over images of each image's largest change
    auc_change: float | None = None  # candidate minus reference, macro one-vs-rest; None if it is undefined
    # `true labels` or `the reference's labels`; PER_OUTPUT or TRUE_FINDINGS for findings, of which this is the worst.
    auc_against: str | None = None
    output_change: float | None = None  # largest RMS error of a raw output over its variation (`variation`)
    mask_iou: float | None = None  # mean over images; segmenters only
    worst_finding: str | None = None  # label of the lowest agreement, if findings have labels and it is below 1
    answers: float | None = (
        None  # share of images of an ensemble with a budget that are answered, or not, as by the reference
    )
    reasons: tuple[str, ...] = ()  # empty if it passed

    @property
    def passed(self) -> bool:
        return not self.reasons

    @property
    def interval(self) -> tuple[float, float]:
        """Exact 95 % interval of the agreement."""
        return exact_interval(round(self.agreement * self.images), self.images)


def compare_member(
    reference: FloatArray, candidate: FloatArray, truth: npt.NDArray[np.int64] | None, limits: Limits
) -> ParityResult:
    """Compare probabilities (images, labels) of one member. truth: (images) label indices, or None."""
    same = (reference.argmax(1) == candidate.argmax(1)) | (largest_shift(reference, candidate) <= TIE)
    return _compare(reference, candidate, same, truth, limits, limits.network_agreement, "top label")


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Labels, thresholds and truth of outputs that are findings, each present or absent."""

    labels: tuple[str, ...] = ()  # one per output; (): not known, outputs are called by their number
    thresholds: tuple[float, ...] = ()  # one per output, from which a finding is present; (): 0.5 for each
    moved: tuple[float, ...] = ()  # the candidate's, one per output; (): the same
    truth: npt.NDArray[np.int64] | None = None  # (images, outputs), 1 where the finding is present; None: not known

    def name(self, output: int) -> str:
        """Return what reasons call an output."""
        return self.labels[output] if self.labels else f"output {output}"

    def limits(self, outputs: int) -> FloatArray:
        """Return the thresholds (outputs), as float32: the decision rule compares so."""
        return np.asarray(self.thresholds or (DEFAULT_THRESHOLD,) * outputs, np.float32)

    def candidate_limits(self, outputs: int) -> FloatArray:
        """Return the candidate's thresholds (outputs), as float32."""
        return np.asarray(self.moved, np.float32) if self.moved else self.limits(outputs)


def compare_findings(
    reference: FloatArray,
    candidate: FloatArray,
    limits: Limits,
    findings: Findings | None = None,
    *,
    min_agreement: float | None = None,
) -> ParityResult:
    """Compare probabilities (images, findings) that are decided one by one; the worst finding counts, and is named.

    findings: None if nothing is known of them. min_agreement: None for that of a network.
    """
    if not np.isfinite(candidate).all():
        return _not_finite(len(reference))
    known, shift = findings or Findings(), np.abs(candidate - reference)
    thresholds = known.limits(reference.shape[1])
    same = (reference >= thresholds) == (candidate >= known.candidate_limits(reference.shape[1]))
    agreement = (same | (shift <= tie(thresholds))).mean(axis=0)
    losses = _finding_auc_losses(reference, candidate, limits, known)
    least, most, largest = (
        int(i) for i in (agreement.argmin(), shift.mean(axis=0).argmax(), shift.max(axis=0).argmax())
    )
    required = limits.network_agreement if min_agreement is None else min_agreement
    reasons = [
        *_too_low(f"agreement on {known.name(least)}", float(agreement[least]), required),
        *_too_high(f"mean probability shift of {known.name(most)}", float(shift[:, most].mean()), limits.mean_shift),
        *_too_high(
            f"largest probability shift ({known.name(largest)})", float(shift[:, largest].max()), limits.max_shift
        ),
    ]
    worst = max(losses, key=lambda output: losses[output], default=None)
    if worst is not None and len(reference) >= MIN_IMAGES_FOR_AUC:
        reasons += _too_high(f"AUC loss of {known.name(worst)}", losses[worst], limits.max_loss)
    against = PER_OUTPUT if known.truth is None else TRUE_FINDINGS
    return ParityResult(
        images=len(reference),
        agreement=float(agreement[least]),
        max_shift=float(shift.max()),
        mean_shift=float(shift[:, most].mean()),
        auc_change=None if worst is None else -losses[worst],
        auc_against=None if worst is None else against,
        worst_finding=known.name(least) if known.labels and agreement[least] < 1 else None,
        reasons=tuple(reasons),
    )


def compare_ensemble_findings(
    reference: FloatArray, candidate: FloatArray, limits: Limits, findings: Findings
) -> ParityResult:
    """Compare probabilities (images, findings) of an ensemble of findings, each decided at its threshold; the worst counts."""
    return compare_findings(reference, candidate, limits, findings, min_agreement=limits.ensemble_agreement)


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Images (N,) on which a candidate gives the reference's verdict; ties count as the same."""

    decisions: npt.NDArray[np.bool_]
    answers: npt.NDArray[np.bool_] | None  # None without a budget: every decision is an answer


def compare_ensemble(
    reference: FloatArray,
    candidate: FloatArray,
    same: Agreement,
    truth: npt.NDArray[np.int64] | None,
    limits: Limits,
) -> ParityResult:
    """Compare probabilities (images, labels) of the full ensemble, and its verdicts at the operating point."""
    result = _compare(reference, candidate, same.decisions, truth, limits, limits.ensemble_agreement, "decision")
    if same.answers is None:
        return result
    answers = float(same.answers.mean())
    reasons = _too_low("agreement on which images are answered", answers, limits.ensemble_agreement)
    return replace(result, answers=answers, reasons=(*result.reasons, *reasons))


def tie(limits: FloatArray) -> FloatArray:
    """Return the largest change of a probability that leaves its side of each limit open: TIE at 0.5, less near 0 and 1."""
    return np.asarray(TIE * 2 * np.minimum(limits, 1 - limits))


def largest_shift(reference: FloatArray, candidate: FloatArray) -> FloatArray:
    """Return the largest change of a probability of each image (images)."""
    return np.asarray(np.abs(candidate - reference).max(axis=1))


def compare_segmenter(
    reference: Sequence[FloatArray],
    candidate: Sequence[FloatArray],
    sizes_px: Sequence[tuple[int, int]],
    rule: LungBoxRule,
    limits: Limits,
) -> ParityResult:
    """Compare masks (side, side) of the same images. sizes_px: (width, height) of each image, for its box."""
    if not all(np.isfinite(mask).all() for mask in candidate):
        return ParityResult(images=len(reference), agreement=0.0, reasons=("it gives masks that are not finite",))
    pairs = list(zip(reference, candidate, sizes_px, strict=True))
    iou = float(np.mean([_mask_iou(a >= rule.threshold, b >= rule.threshold) for a, b, _ in pairs]))
    agreement = float(np.mean([_same_box(a, b, size, rule) for a, b, size in pairs]))
    reasons = [*_too_low("lung box agreement", agreement, limits.network_agreement)]
    reasons += _too_low("mean mask overlap (IoU)", iou, limits.mask_iou)
    return ParityResult(images=len(pairs), agreement=agreement, mask_iou=iou, reasons=tuple(reasons))


def macro_auc(probabilities: FloatArray, truth: npt.NDArray[np.int64]) -> float | None:
    """Return the macro one-vs-rest AUC of (images, labels) over the labels that occur, ties counted half.

    None for fewer than two labels.
    """
    labels = np.unique(truth)
    if len(labels) < 2:
        return None
    return float(np.mean([auc(probabilities[:, label], truth == label) for label in labels]))


def _compare(
    reference: FloatArray,
    candidate: FloatArray,
    same: npt.NDArray[np.bool_],
    truth: npt.NDArray[np.int64] | None,
    limits: Limits,
    min_agreement: float,
    subject: str,
) -> ParityResult:
    if not np.isfinite(candidate).all():
        return _not_finite(len(reference))
    shift, agreement = largest_shift(reference, candidate), float(same.mean())
    change, against = _auc_change(reference, candidate, truth)
    reasons = [
        *_too_low(f"{subject} agreement", agreement, min_agreement),
        *_too_high("mean probability shift", float(shift.mean()), limits.mean_shift),
        *_too_high("largest probability shift", float(shift.max()), limits.max_shift),
    ]
    if change is not None and len(reference) >= MIN_IMAGES_FOR_AUC:
        reasons += _too_high(f"AUC loss against {against}", -change, limits.max_loss)
    return ParityResult(
        images=len(reference),
        agreement=agreement,
        max_shift=float(shift.max()),
        mean_shift=float(shift.mean()),
        auc_change=change,
        auc_against=against,
        reasons=tuple(reasons),
    )


def _auc_change(
    reference: FloatArray, candidate: FloatArray, truth: npt.NDArray[np.int64] | None
) -> tuple[float | None, str | None]:
    """Return the candidate's AUC minus the reference's, and which labels were taken as true."""
    against = "true labels" if truth is not None else "the reference's labels"
    labels = truth if truth is not None else reference.argmax(axis=1)
    before, after = macro_auc(reference, labels), macro_auc(candidate, labels)
    return (None, None) if before is None or after is None else (after - before, against)


def _finding_auc_losses(
    reference: FloatArray, candidate: FloatArray, limits: Limits, findings: Findings
) -> dict[int, float]:
    """Return the loss of AUC per output, where one swapped pair of images is less than the limit.

    Positive is where the finding truly is, if that is known, else where the reference decides so. Where that leaves too few on
    one side, as for a rare finding, it is the reference's upper half: the order of the images is what such an output is used for.
    """
    losses, thresholds = {}, findings.limits(reference.shape[1])
    for output in range(reference.shape[1]):
        before, after = reference[:, output], candidate[:, output]
        known = before >= thresholds[output] if findings.truth is None else findings.truth[:, output] == 1
        for positive in (known, before > np.median(before)):
            if int(positive.sum()) * int((~positive).sum()) * limits.max_loss >= 1:
                losses[output] = auc(before, positive) - auc(after, positive)
                break
    return losses


def _not_finite(images: int) -> ParityResult:
    return ParityResult(images=images, agreement=0.0, reasons=("it gives probabilities that are not finite",))


def _mask_iou(a: npt.NDArray[np.bool_], b: npt.NDArray[np.bool_]) -> float:
    union = int((a | b).sum())
    return 1.0 if union == 0 else int((a & b).sum()) / union


def _same_box(a: FloatArray, b: FloatArray, size_px: tuple[int, int], rule: LungBoxRule) -> bool:
    (box_a, failed_a), (box_b, failed_b) = (
        lung_box(mask.astype(np.float32), width_px=size_px[0], height_px=size_px[1], rule=rule) for mask in (a, b)
    )
    return (failed_a is None) == (failed_b is None) and _box_iou(box_a, box_b) >= SAME_BOX_IOU


def _box_iou(a: Roi, b: Roi) -> float:
    width = min(a.x1, b.x1) - max(a.x0, b.x0)
    height = min(a.y1, b.y1) - max(a.y0, b.y0)
    both = max(width, 0) * max(height, 0)
    return both / (a.width_px * a.height_px + b.width_px * b.height_px - both)


def _too_low(figure: str, value: float, limit: float) -> Iterator[str]:
    if not value >= limit - 1e-9:  # written so that NaN is too low
        yield f"{figure} {value:.3f}, at least {limit:.3f} is required"


def _too_high(figure: str, value: float, limit: float) -> Iterator[str]:
    if not value <= limit + 1e-9:  # written so that NaN is too high
        yield f"{figure} {value:.3f}, at most {limit:.3f} is allowed"
