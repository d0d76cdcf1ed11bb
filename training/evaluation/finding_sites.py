"""Findings at sites that trained nothing: predictions on each left-out site in; AUROC by site and finding, worst and mean out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from training.evaluation.finding_metrics import FindingPredictions
from training.evaluation.metrics import Bootstrap, Figure, auc_figure, interval, proportion
from training.json_records import ROUNDED
from training.markdown import table

__all__ = ["FindingSites", "SiteFinding", "finding_sites", "finding_sites_table"]


@dataclass(frozen=True, kw_only=True)
class SiteFinding:
    """One finding at one site, over the images in which it is known."""

    site: str
    label: str
    images: int  # with the finding
    others: int  # without
    auroc: Figure
    sensitivity: Figure  # at the thresholds of the other sites
    specificity: Figure
    counts: bool  # enough images of both kinds for worst and mean


@dataclass(frozen=True, kw_only=True)
class FindingSites:
    """Figures of one way of training at all sites, each left out in turn."""

    rows: tuple[SiteFinding, ...]
    by_site: Mapping[str, float]  # mean AUROC over the findings that count there; sites without one are left out
    worst: float = field(metadata=ROUNDED)  # of `by_site`; NaN without any
    mean: float = field(metadata=ROUNDED)
    worst_by_label: Mapping[str, float]  # finding -> lowest AUROC of a site where it counts
    mean_by_label: Mapping[str, float]


def finding_sites(
    left_out: Mapping[str, FindingPredictions], labels: Sequence[str], draws: Bootstrap, *, least: int = 10
) -> FindingSites:
    """Return the figures of each site and finding, with intervals by patient.

    left_out: site -> predictions on its images by networks, combination and thresholds that were made without it.
    labels: names of the K findings.
    least: images with, and without, a finding that a site needs to count for it in worst and mean; others are only shown.
    """
    rows = tuple(
        _row(site, label, k, p, draws, least) for site, p in left_out.items() for k, label in enumerate(labels)
    )
    by_site = _means([(r.site, r.auroc.value) for r in rows if r.counts])
    by_label = [(r.label, r.auroc.value) for r in rows if r.counts]
    return FindingSites(
        rows=rows,
        by_site=by_site,
        worst=min(by_site.values(), default=float("nan")),
        mean=float(np.mean(list(by_site.values()))) if by_site else float("nan"),
        worst_by_label={name: min(v for own, v in by_label if own == name) for name in _means(by_label)},
        mean_by_label=_means(by_label),
    )


def _means(values: Sequence[tuple[str, float]]) -> dict[str, float]:
    return {
        name: float(np.mean([v for own, v in values if own == name])) for name in dict.fromkeys(n for n, _ in values)
    }


def _row(site: str, label: str, k: int, p: FindingPredictions, draws: Bootstrap, least: int) -> SiteFinding:
    own = ~np.isnan(p.truth[:, k])
    present, called = p.truth[own, k] == 1, p.present[own, k]
    images, others = int(present.sum()), int((~present).sum())
    return SiteFinding(
        site=site,
        label=label,
        images=images,
        others=others,
        auroc=auc_figure(p.probabilities[own, k], present, p.patients[own], draws),
        sensitivity=proportion(int((called & present).sum()), images),
        specificity=proportion(int((~called & ~present).sum()), others),
        counts=min(images, others) >= max(1, least),
    )


def finding_sites_table(sites: FindingSites) -> str:
    """Return a row for each site and finding, then worst and mean of each finding, in Markdown."""
    head = ["site", "finding", "with", "without", "AUROC", "sensitivity", "specificity"]
    rows = [
        [r.site if r.counts else f"{r.site} (too few to count)", r.label, r.images, r.others]
        + [interval(f) for f in (r.auroc, r.sensitivity, r.specificity)]
        for r in sites.rows
    ]
    ends = [
        [end, label, "", "", f"{value:.3f}", "", ""]
        for end, values in (("worst site", sites.worst_by_label), ("mean of sites", sites.mean_by_label))
        for label, value in values.items()
    ]
    return table(head, [*rows, *ends])
