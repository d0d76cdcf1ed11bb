"""Figures on unseen sites: scores of the guarded label on left-out images in, shares called it by site at one threshold out.

A kind is the guarded label itself, of which as many as possible should be found, or a subgroup without it (adult normals, other
adult abnormals), of which as few as possible should be called so. A kind's figure is (mean over sites + worst site) / 2, of the
share found or the share rightly not called. The objective at a threshold is half the guarded label's figure and half the mean
figure of the subgroups, so that neither calling all nor calling none pays. The threshold is the one at which it is highest, or
the highest that finds a given share; all sites share it, because a device that moves to a new hospital takes its threshold along.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr_edge.errors import InputError
from training.config import BundleConfig
from training.data.guard import Guard
from training.data.records import Record
from training.evaluation.metrics import Bootstrap, Figure, auc_figure, bootstrap, proportion
from training.json_records import OPTIONAL, ROUNDED, read_json

__all__ = [
    "LeftOut",
    "SiteFigures",
    "SiteRow",
    "SitesResults",
    "VariantRow",
    "best_threshold",
    "configured_variant",
    "site_figures",
]

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
_THRESHOLDS = 400  # quantiles of the scores that are tried


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """Scores of the guarded label on images of sources that trained nothing. All arrays (N,)."""

    scores: Floats
    records: Sequence[Record]
    patients: npt.NDArray[np.str_]
    views: Sequence[str]
    guard: Guard
    least: int  # images of a kind that a source needs to count in mean and worst
    found: float | None = None  # share of the guarded label that the threshold must find, on average over sites

    @cached_property
    def kinds(self) -> dict[str, Mask]:
        """Return the masks of the guarded label and of the subgroups without it, by name."""
        positive = np.array([r.label == self.guard.label for r in self.records], dtype=bool)
        return {self.guard.label: positive, **self.guard.group_masks(self.records)}

    @cached_property
    def cells(self) -> dict[tuple[str, str], Mask]:
        """Return kind and source -> mask, of all that have images."""
        sources = np.array([r.source for r in self.records])
        found = {(kind, str(s)): mask & (sources == s) for kind, mask in self.kinds.items() for s in np.unique(sources)}
        return {name: mask for name, mask in found.items() if mask.any()}


@dataclass(frozen=True, kw_only=True)
class SiteRow:
    """Images of one kind and source."""

    kind: str
    source: str
    called: Figure  # share called the guarded label
    by_view: Mapping[str, Figure]
    counts: bool  # enough images to count in mean and worst


@dataclass(frozen=True, kw_only=True)
class SiteFigures:
    """Figures of one way of training at its threshold."""

    threshold: float = field(metadata=ROUNDED)
    objective: Figure
    mean: Mapping[str, float]  # kind -> share right, over its sites
    worst: Mapping[str, float]
    auc: Mapping[str, Figure]  # subgroup -> AUC of the guarded label of all left-out sites against it
    rows: tuple[SiteRow, ...]


@dataclass(frozen=True, kw_only=True)
class VariantRow:
    """One variant of the loop."""

    about: str
    figures: SiteFigures
    within: Mapping[str, Figure]  # source with both kinds -> AUC among its validation patients, when it trained
    macro_f1: float = field(metadata=ROUNDED)  # of validation patients of the sources that trained
    # Objective minus the first variant's, each at its own threshold, with the interval of a paired bootstrap.
    difference: Figure | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True, kw_only=True)
class SitesResults:
    """Results of the loop."""

    name: str
    seed: int
    guard: Guard
    folds: Mapping[str, tuple[str, ...]]
    found: float | None = field(default=None, metadata=OPTIONAL)  # share that every variant's threshold finds
    view_accuracy: Mapping[str, float]  # source -> AUC of the estimated view, fitted on the other sources
    variants: Mapping[str, VariantRow]
    # A bundle on the left-out sources that it was not trained on, and its name; None if not measured.
    before: SiteFigures | None = field(default=None, metadata=OPTIONAL)
    before_name: str | None = field(default=None, metadata=OPTIONAL)
    plans: Mapping[str, Any] = field(default_factory=dict)  # variant -> training plan


def site_figures(left_out: LeftOut, draws: Bootstrap, *, threshold: float | None = None) -> SiteFigures:
    """Return the figures at `threshold`; None chooses it (`best_threshold`)."""
    at = best_threshold(left_out) if threshold is None else threshold
    called, cells = left_out.scores >= at, left_out.cells
    mean, worst = _by_kind(_right(left_out, called, cells, None))
    return SiteFigures(
        threshold=at,
        objective=bootstrap(lambda w: np.array([objective(left_out, at, w)]), left_out.patients, draws)[0],
        mean=mean,
        worst=worst,
        auc={
            name: _area(left_out, mask, draws) for name, mask in left_out.kinds.items() if name != left_out.guard.label
        },
        rows=tuple(_row(left_out, called, kind, source, mask) for (kind, source), mask in cells.items()),
    )


def best_threshold(left_out: LeftOut) -> float:
    """Return the highest threshold that finds `found`; else the one with the highest objective, of equal ones the middle."""
    if left_out.found is not None:
        scores = np.unique(left_out.scores[left_out.kinds[left_out.guard.label]])
        return float(max(t for t in scores if _share_found(left_out, t) >= left_out.found))
    tried = np.unique(np.quantile(left_out.scores, np.linspace(0, 1, _THRESHOLDS)))
    values = np.array([objective(left_out, t, None) for t in tried])
    best = np.flatnonzero(values >= values.max() - 1e-12)
    return float(tried[best[len(best) // 2]])


def _share_found(left_out: LeftOut, threshold: float) -> float:
    """Return the share of the guarded label at `threshold` or above, mean over sites."""
    mean, _ = _by_kind(_right(left_out, left_out.scores >= threshold, left_out.cells, None))
    return mean[left_out.guard.label]


def objective(left_out: LeftOut, threshold: float, weights: Floats | None) -> float:
    """Return the objective at a threshold. weights: of the images (N,); None for 1 each."""
    called = left_out.scores >= threshold
    mean, worst = _by_kind(_right(left_out, called, left_out.cells, weights))
    figures = {kind: (mean[kind] + worst[kind]) / 2 for kind in mean}
    found = figures.pop(left_out.guard.label)
    return (found + float(np.mean(list(figures.values())))) / 2


def _right(
    left_out: LeftOut, called: Mask, cells: Mapping[tuple[str, str], Mask], weights: Floats | None
) -> dict[str, list[float]]:
    """Return kind -> share decided rightly at each source with enough images; NaN without any image of weight."""
    found: dict[str, list[float]] = {}
    for (kind, _), mask in cells.items():
        if mask.sum() < left_out.least:
            continue
        w = np.ones(int(mask.sum())) if weights is None else weights[mask]
        share = float((called[mask] * w).sum() / w.sum()) if w.sum() else float("nan")
        found.setdefault(kind, []).append(share if kind == left_out.guard.label else 1 - share)
    return {kind: [s for s in shares if not np.isnan(s)] or [float("nan")] for kind, shares in found.items()}


def _by_kind(right: Mapping[str, Sequence[float]]) -> tuple[dict[str, float], dict[str, float]]:
    mean = {kind: float(np.mean(shares)) for kind, shares in right.items()}
    return mean, {kind: float(np.min(shares)) for kind, shares in right.items()}


def _area(left_out: LeftOut, negative: Mask, draws: Bootstrap) -> Figure:
    positive = left_out.kinds[left_out.guard.label]
    rows = positive | negative
    return auc_figure(left_out.scores[rows], positive[rows], left_out.patients[rows], draws)


def _row(left_out: LeftOut, called: Mask, kind: str, source: str, mask: Mask) -> SiteRow:
    views = np.array(left_out.views)
    by_view = {str(v) or "unknown": mask & (views == v) for v in np.unique(views[mask])}
    return SiteRow(
        kind=kind,
        source=source,
        called=_share(called, mask),
        by_view={name: _share(called, m) for name, m in by_view.items()},
        counts=bool(mask.sum() >= left_out.least),
    )


def _share(called: Mask, mask: Mask) -> Figure:
    return proportion(int(called[mask].sum()), int(mask.sum()))


def configured_variant(config: BundleConfig) -> VariantRow | None:
    """Return the variant that `unseen_sites` of a configuration names, or None without it.

    Raises InputError if the file is missing or damaged, or has another guarded label or no such variant.
    """
    if config.unseen_sites is None:
        return None
    file, variant = Path(config.unseen_sites.results), config.unseen_sites.variant
    results = read_json(SitesResults, file)
    if variant not in results.variants or results.guard.label != config.guard:
        raise InputError(
            f"unseen_sites: {file} has the variants {', '.join(results.variants)} and guards {results.guard.label}; got "
            f"{variant!r} for a bundle that guards {config.guard}: name one of its variants"
        )
    return results.variants[variant]
