"""Comparison of one network's raw outputs, by their kind: the function that a trial applies to every candidate.

The kinds of `output_kinds` and what the build knows (temperature, true labels, sizes of the images) come in; a
`Comparison` comes out. Each kind has its own units: top labels, sides of 0.5 per finding, lung boxes; and whatever the
kind, raw outputs that no longer follow the image are a reason (`variation`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from cxr_edge.compiler.output_kinds import probabilities
from cxr_edge.compiler.parity import Findings, Limits, ParityResult, compare_findings, compare_member, compare_segmenter
from cxr_edge.compiler.variation import output_change
from cxr_edge.specs.lung_box import LungBoxRule
from cxr_edge.specs.outputs import OutputKind

__all__ = ["Comparison", "output_comparison", "segmenter_comparison"]

_STEP_PX = 4  # of a mask's pixels that the change is measured on: all of 200 masks would take a gigabyte

Tensor = npt.NDArray[np.float32]
Comparison = Callable[[Sequence[Tensor], Sequence[Tensor]], ParityResult]


def output_comparison(
    kinds: Sequence[OutputKind],
    limits: Limits,
    *,
    truth: npt.NDArray[np.int64] | None = None,
    temperature: float = 1.0,
    findings: tuple[str, ...] = (),
) -> Comparison:
    """Return the comparison of raw outputs (columns) per image as each of `kinds`, all of which must pass.

    truth: (images) label indices, or (images, columns) of 0 and 1 for findings, or None. temperature: of logits. findings: their
    labels, if the columns have any.
    """
    known = Findings(labels=findings, truth=truth if findings else None)

    def compare(reference: Sequence[Tensor], candidate: Sequence[Tensor]) -> ParityResult:
        before, after = np.stack(reference), np.stack(candidate)
        if not np.isfinite(after).all():
            return _not_finite(len(before))
        results = [
            _of_findings(kind, before, after, limits, known, temperature)
            if not kind.startswith("softmax")
            else _of_labels(kind, before, after, limits, truth, temperature)
            for kind in kinds
        ]
        return results[0] if len(results) == 1 else _merged(dict(zip(kinds, results, strict=True)))

    return compare


def segmenter_comparison(sizes_px: Sequence[tuple[int, int]], rule: LungBoxRule, limits: Limits) -> Comparison:
    """Return the comparison of a segmenter's masks (1, side, side) per image. sizes_px: (width, height) of each image."""

    def compare(reference: Sequence[Tensor], candidate: Sequence[Tensor]) -> ParityResult:
        if not all(np.isfinite(m).all() for m in candidate):
            return _not_finite(len(reference))
        result = compare_segmenter([m[0] for m in reference], [m[0] for m in candidate], sizes_px, rule, limits)
        before, after = (np.stack([m[0, ::_STEP_PX, ::_STEP_PX] for m in side]) for side in (reference, candidate))
        return _with_change(result, before.reshape(-1, 1), after.reshape(-1, 1), limits)  # a pixel is a sample

    return compare


def _of_findings(
    kind: OutputKind, before: Tensor, after: Tensor, limits: Limits, findings: Findings, temperature: float
) -> ParityResult:
    p_before, p_after = probabilities(kind, before, temperature), probabilities(kind, after, temperature)
    return _with_change(compare_findings(p_before, p_after, limits, findings), before, after, limits, findings.labels)


def _of_labels(
    kind: OutputKind,
    before: Tensor,
    after: Tensor,
    limits: Limits,
    truth: npt.NDArray[np.int64] | None,
    temperature: float,
) -> ParityResult:
    p_before, p_after = probabilities(kind, before, temperature), probabilities(kind, after, temperature)
    result = compare_member(p_before, p_after, truth, limits)
    if kind == "softmax-logits":  # a constant added to an image's logits changes nothing
        before, after = (raw - raw.mean(axis=1, keepdims=True) for raw in (before, after))
    return _with_change(result, before, after, limits)


def _with_change(
    result: ParityResult, before: Tensor, after: Tensor, limits: Limits, labels: tuple[str, ...] = ()
) -> ParityResult:
    """Return the result with the change of the raw outputs, and the reason if it is too large."""
    worst = output_change(before, after)
    reason = worst.reason(limits.output_change, labels)
    reasons = result.reasons if reason is None else (*result.reasons, reason)
    return replace(result, output_change=worst.change, reasons=reasons)


def _merged(results: dict[OutputKind, ParityResult]) -> ParityResult:
    """Return the worst of each figure, and all reasons with their kind."""
    worst = min(results.values(), key=lambda r: (r.passed, r.agreement))
    reasons = tuple(f"as {kind}: {reason}" for kind, result in results.items() for reason in result.reasons)
    return replace(
        worst,
        max_shift=max(r.max_shift or 0.0 for r in results.values()),
        mean_shift=max(r.mean_shift or 0.0 for r in results.values()),
        output_change=max(r.output_change or 0.0 for r in results.values()),
        reasons=reasons,
    )


def _not_finite(images: int) -> ParityResult:
    return ParityResult(images=images, agreement=0.0, reasons=("it gives outputs that are not finite",))
