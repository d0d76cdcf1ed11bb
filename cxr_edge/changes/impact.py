"""Impact Assessment: figures of both bundles side by side, and the decisions that change on the same images.

Two bundles and images come in, an `Impact` comes out. Both bundles' fp32 networks screen the images here, at the limits of their
manifests, so that the result does not depend on a machine's engines.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from cxr_edge import engines
from cxr_edge.bundle import Bundle
from cxr_edge.bundle.manifest import Manifest
from cxr_edge.changes.comparison import Comparison, compare
from cxr_edge.changes.description import Description
from cxr_edge.changes.figures import FigureRow, figure_rows, test_set_rows
from cxr_edge.changes.images import ComparedImages
from cxr_edge.screening.screener import Screener

__all__ = ["Impact", "impact"]

_WIDTH = 120
_HEAD = ("figure", "old", "new", "difference")


@dataclass(frozen=True, kw_only=True)
class Impact:
    """Figures and decisions before and after the modifications."""

    figures: tuple[FigureRow, ...]
    test_sets: tuple[tuple[str, str, str], ...]  # name, old, new
    images: str
    decisions: Comparison | None  # None without images
    warnings: tuple[str, ...]

    def lines(self) -> list[str]:
        """Return the assessment as text."""
        lines = [line for w in self.warnings for line in textwrap.wrap(f"WARNING: {w}", _WIDTH)]
        lines += ["Figures of the manifests, each on its own test images, with 95 % intervals:"]
        lines += _table([("", "old", "new"), *self.test_sets]) if self.test_sets else []
        lines += _table([_HEAD, *(row.cells() for row in self.figures)]) if self.figures else ["  none"]
        lines += [
            "",
            "Decisions on the same images, by the fp32 networks at the manifests' limits",
            f"Images: {self.images}",
        ]
        return lines + ([] if self.decisions is None else [f"  {line}" for line in self.decisions.lines()])

    def as_json(self) -> dict[str, Any]:
        return {
            "warnings": list(self.warnings),
            "test_sets": {name: {"old": old, "new": new} for name, old, new in self.test_sets},
            "figures": [row.as_json() for row in self.figures],
            "images": self.images,
            "decisions": None if self.decisions is None else self.decisions.as_json(),
        }


def impact(
    old: Bundle,
    new: Bundle,
    description: Description,
    images: ComparedImages,
    *,
    threads: int,
    say: Callable[[str], None],
) -> Impact:
    """Return the assessment. Raises ContractError or BackendError if the networks cannot run here."""
    return Impact(
        figures=figure_rows(old.manifest, new.manifest),
        test_sets=test_set_rows(old.manifest, new.manifest),
        images=images.description,
        decisions=_decisions(old, new, images, threads, say) if images.items else None,
        warnings=tuple(_warnings(old.manifest, new.manifest, description, images)),
    )


def _decisions(
    old: Bundle, new: Bundle, images: ComparedImages, threads: int, say: Callable[[str], None]
) -> Comparison:
    say(f"screening {len(images.items)} images with the fp32 networks of both")
    before, after = (_screener(bundle, drawn=images.drawn, threads=threads) for bundle in (old, new))
    return compare(before, after, images.items, true=images.true)


def _screener(bundle: Bundle, *, drawn: bool, threads: int) -> Screener:
    """Return the screener of the fp32 networks; of drawings without the checker, which would refuse them."""
    loaded = engines.reference(bundle, threads=threads)
    shown = replace(bundle, manifest=replace(bundle.manifest, checker=None)) if drawn else bundle
    return Screener(shown, loaded, threads=threads, whole=True)


def _warnings(old: Manifest, new: Manifest, description: Description, images: ComparedImages) -> Iterator[str]:
    if description.behaviour and old.metrics == new.metrics:
        yield (
            "both manifests state the same figures although outputs change: they were taken over, and are not of the new version"
        )
    elif old.metrics != new.metrics and any(
        old.metrics.get(k) != new.metrics.get(k) for k in ("split", "images", "patients")
    ):
        yield "the figures are of other test images: their difference is not that of the bundles alone"
    if description.has("Networks", "Preprocessing", "Lung box", "Combination"):
        if old.budget is not None and old.budget == new.budget:
            yield "the error budget is the old one although probabilities may change: the new version has not shown its promise"
        if old.reference is not None and old.reference == new.reference:
            yield "the drift reference is the old one although outputs may change: the change itself may show as drift"
    if images.drawn and images.items and (old.checker, new.checker) != (None, None):
        yield "on drawings the checkers are left out, and changes of refusals do not show: give X-rays with --images FOLDER"
    if images.items and not images.drawn:
        yield (
            "the figures on the images below hold only if no network was trained on them, and no limit fitted to them, of either "
            "bundle: nothing here can tell"
        )
    if not images.items:
        yield "no image was screened: give X-rays with --images FOLDER"
    if old.intended_use != new.intended_use:
        yield "the intended use changed"


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  " + "  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]
