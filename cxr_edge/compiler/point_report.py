"""Operating point of a build, for its report: what was moved, and sensitivity and specificity before and after.

A fitted point, verdicts of the reference and of the engines, and what is known of the true labels come in; a `PointReport`
comes out, which is part of the JSON, and its lines of text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cxr_edge.bundle.manifest import Manifest
from cxr_edge.compiler.operating_point import LEAST_NEAR, FittedPoint, LimitFit
from cxr_edge.compiler.shares import Share
from cxr_edge.compiler.verdicts import Verdicts

__all__ = ["LabelFigures", "PointReport", "ThreeShares", "point_report"]

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class ThreeShares:
    """A share by the fp32 networks, and by the engines at the manifest's limits and at their own."""

    reference: Share
    engines_at_manifest: Share
    engines: Share


@dataclass(frozen=True, kw_only=True)
class LabelFigures:
    """Figures of one label on the images whose true label is known."""

    label: str
    sensitivity: ThreeShares  # of images with the label, those that are called so
    specificity: ThreeShares  # of images without it, those that are not


@dataclass(frozen=True, kw_only=True)
class PointReport:
    """Operating point of the engines as the images of a build show it."""

    images: int
    drawn: bool  # known answers of the bundle, on which no limit is moved
    limits: tuple[LimitFit, ...]
    same_decision: Share  # as the reference's, exactly: what the gate takes for ties is not among them
    same_answer: Share | None  # answered, or not, as by the reference; None without an error budget
    answered: ThreeShares | None
    labels: tuple[LabelFigures, ...]  # those with a threshold, or all if none has one; empty without true labels
    right_answers: ThreeShares | None  # of the answers with a known true label, the right ones; None without a budget

    def lines(self) -> list[str]:
        """Return sentences and tables, line by line."""
        lines = [f"Operating point: {self._summary()}."]
        lines += (
            [f"  {line}" for line in _aligned([_LIMITS_HEAD, *map(_limit_cells, self.limits)])] if self.limits else []
        )
        answer = "" if self.same_answer is None else f"; answered or not: {self.same_answer}"
        lines.append(f"Decisions as by the fp32 networks: {self.same_decision}{answer}.")
        rows = list(self._figures())
        if rows:
            lines.append(
                "With exact 95 % intervals, on images whose true label the folder names:"
                if self.labels
                else "Answered:"
            )
            lines += [f"  {line}" for line in _aligned([_FIGURES_HEAD, *rows])]
        return lines

    def _summary(self) -> str:
        if self.drawn:
            return "the manifest's, since drawings cannot tell how X-rays shift (give X-rays with --calibration DIR)"
        moved, near = (sum(v) for v in ([k.moved for k in self.limits], [k.near < LEAST_NEAR for k in self.limits]))
        few = f"; {near} had fewer than {LEAST_NEAR} images near them, too few to tell" if near else ""
        return f"{moved} of {len(self.limits)} limits moved for these engines{few}"

    def _figures(self) -> Iterator[tuple[str, ...]]:
        for own in self.labels:
            yield _figure_cells(f"sensitivity {own.label}", own.sensitivity)
            yield _figure_cells(f"specificity {own.label}", own.specificity)
        if self.answered is not None:
            yield _figure_cells("answered", self.answered)
        if self.right_answers is not None and self.labels:
            yield _figure_cells("right answers", self.right_answers)


_LIMITS_HEAD = ("limit", "manifest", "engines", "images near", "other side", "if moved")
_FIGURES_HEAD = ("", "fp32 networks", "engines, manifest's limits", "engines, their limits")


def point_report(
    manifest: Manifest,
    fitted: FittedPoint,
    expected: Verdicts,
    unmoved: Verdicts,
    found: Verdicts,
    known: npt.NDArray[np.int8],
    *,
    drawn: bool = False,
) -> PointReport:
    """Return the report. expected: of the reference. unmoved, found: of the engines at the manifest's limits, and at theirs.

    known: (images, labels) 1 where the label is true, 0 where it is not, -1 where that is unknown.
    """
    sides, all_images = (expected, unmoved, found), np.ones(len(known), dtype=bool)
    has_budget, labelled = manifest.budget is not None, bool((known >= 0).any())
    return PointReport(
        images=len(known),
        drawn=drawn,
        limits=fitted.limits,
        same_decision=_share((expected.decided == found.decided).all(axis=1), all_images),
        same_answer=_share(expected.answered == found.answered, all_images) if has_budget else None,
        answered=_three([v.answered for v in sides], [all_images] * 3) if has_budget else None,
        labels=tuple(_label_figures(manifest, label, sides, known) for label in _shown(manifest)) if labelled else (),
        right_answers=_right_answers(sides, known) if has_budget and labelled else None,
    )


def _shown(manifest: Manifest) -> tuple[str, ...]:
    limited = tuple(label for label in manifest.labels if manifest.decision.thresholds.get(label))
    return manifest.labels if manifest.multi_label or not limited else limited


def _label_figures(
    manifest: Manifest, label: str, sides: Sequence[Verdicts], known: npt.NDArray[np.int8]
) -> LabelFigures:
    column = manifest.labels.index(label)
    called, true, false = [v.decided[:, column] for v in sides], known[:, column] == 1, known[:, column] == 0
    return LabelFigures(
        label=label,
        sensitivity=_three(called, [true] * 3),
        specificity=_three([~c for c in called], [false] * 3),
    )


def _right_answers(sides: Sequence[Verdicts], known: npt.NDArray[np.int8]) -> ThreeShares:
    labelled = (known >= 0).all(axis=1)
    return _three([(v.decided == (known == 1)).all(axis=1) for v in sides], [v.answered & labelled for v in sides])


def _three(hits: Sequence[Mask], among: Sequence[Mask]) -> ThreeShares:
    reference, unmoved, engines = (_share(h, rows) for h, rows in zip(hits, among, strict=True))
    return ThreeShares(reference=reference, engines_at_manifest=unmoved, engines=engines)


def _share(hits: Mask, among: Mask) -> Share:
    return Share.of(int((hits & among).sum()), int(among.sum()))


def _limit_cells(limit: LimitFit) -> tuple[str, ...]:
    moved = (f"{limit.engines:.4f}", str(limit.changed_if_moved)) if limit.moved else ("the same", "-")
    return (limit.title, f"{limit.manifest:.4f}", moved[0], str(limit.near), str(limit.changed), moved[1])


def _figure_cells(name: str, shares: ThreeShares) -> tuple[str, ...]:
    return (name, str(shares.reference), str(shares.engines_at_manifest), str(shares.engines))


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
