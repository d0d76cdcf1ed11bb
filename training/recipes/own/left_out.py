"""Figures of sites that trained nothing: a run of left-out sites in; AUROC, sensitivity, specificity and the choice out.

A network without a site is combined, calibrated and given its thresholds on validation patients of the other sites, as a bundle
is, and then decides all images of that site. The candidate with the best AUROC at its worst site is trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from cxr_edge.ops.combine import Combiner, decide
from training.ensembles.fit import choose_decision, fit
from training.evaluation.metrics import Bootstrap, Figure, auc_figure, interval, proportion
from training.json_records import ROUNDED, as_stored
from training.markdown import table
from training.recipes.finding_sites import left_out_findings
from training.recipes.own.usable import is_normal
from training.recipes.sites import SitesConfig, SitesRun

__all__ = ["Candidate", "LeftOutSites", "SiteRow", "as_terminal_lines", "found_labels", "left_out_sites", "sites_table"]

HEAD = ("site", "label", "with", "without", "AUROC", "sensitivity", "specificity")


@dataclass(frozen=True, kw_only=True)
class SiteRow:
    """One label at one site that trained nothing."""

    site: str
    label: str
    images: int  # with the label
    others: int  # without
    auroc: Figure
    sensitivity: Figure  # decided so, of those with the label
    specificity: Figure  # not decided so, of the others


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One way of training."""

    about: str
    rows: tuple[SiteRow, ...]
    worst: float = field(metadata=ROUNDED)  # AUROC of the worst site, mean over labels
    mean: float = field(metadata=ROUNDED)  # over sites


@dataclass(frozen=True, kw_only=True)
class LeftOutSites:
    """Results of all candidates."""

    chosen: str  # name of the candidate with the best worst site
    candidates: Mapping[str, Candidate]

    @property
    def best(self) -> Candidate:
        """The chosen candidate."""
        return self.candidates[self.chosen]


@dataclass(frozen=True, kw_only=True)
class _Decided:
    """Decisions on the images of one site."""

    true: npt.NDArray[np.int64]  # (N,)
    predicted: npt.NDArray[np.int64]  # (N,)
    probabilities: npt.NDArray[np.float64]  # (N, K)
    patients: npt.NDArray[np.str_]  # (N,)


def left_out_sites(run: SitesRun) -> LeftOutSites:
    """Return the figures; every network is trained unless its folder holds it."""
    candidates = {name: _candidate(run, name) for name in run.config.variants}
    chosen = max(candidates, key=lambda name: (_or_zero(candidates[name].worst), _or_zero(candidates[name].mean)))
    return as_stored(LeftOutSites(chosen=chosen, candidates=candidates))


def _or_zero(value: float) -> float:
    return 0.0 if np.isnan(value) else value


def _candidate(run: SitesRun, name: str) -> Candidate:
    return _finding_candidate(run, name) if run.config.multi_label else _label_candidate(run, name)


def _finding_candidate(run: SitesRun, name: str) -> Candidate:
    """Return a candidate's figures of findings; those too few to count at a site are shown, and not in worst and mean."""
    found = left_out_findings(run, name)
    rows = tuple(
        SiteRow(
            site=run.config.folds[row.site][0],
            label=row.label,
            images=row.images,
            others=row.others,
            auroc=row.auroc,
            sensitivity=row.sensitivity,
            specificity=row.specificity,
        )
        for row in found.rows
    )
    return Candidate(about=run.config.variants[name].about, rows=rows, worst=found.worst, mean=found.mean)


def _label_candidate(run: SitesRun, name: str) -> Candidate:
    draws, rows = Bootstrap.of(run.config), []
    areas: dict[str, list[float]] = {}
    for fold, (site,) in run.config.folds.items():
        decided = _decide(run, name, fold)
        for label in found_labels(run.config):
            row = _row(decided, site, label, run.config.labels.index(label), draws)
            rows.append(row)
            areas.setdefault(site, []).append(row.auroc.value)
    known = [float(np.nanmean(own)) for own in areas.values() if not np.all(np.isnan(own))]
    return Candidate(
        about=run.config.variants[name].about,
        rows=tuple(rows),
        worst=min(known, default=float("nan")),
        mean=float(np.mean(known)) if known else float("nan"),
    )


def found_labels(config: SitesConfig) -> tuple[str, ...]:
    """Return the labels whose figures are given: the guarded one, else all but the normal one; of two labels, one."""
    if config.guard is not None:
        return (config.guard,)
    abnormal = tuple(label for label in config.labels if not is_normal(label))
    return abnormal[-1:] if len(config.labels) == 2 else abnormal


def _decide(run: SitesRun, candidate: str, fold: str) -> _Decided:
    """Return a candidate's decisions on the site that a fold leaves out."""
    config, (part,) = run.config.of_variant(candidate), run.train(candidate, fold)
    logits, target = np.ascontiguousarray(part.logits[:, None]), config.target
    records = [run.samples[i].record for i in part.rows]
    left_out = np.array([r.source in run.config.folds[fold] for r in records], dtype=bool)
    true = run.truth(part.rows, target)
    fitted = ~left_out & (true >= 0)
    combination = fit("average", logits[fitted], true[fitted], seed=config.seed)
    own = [r for r, use in zip(records, fitted, strict=True) if use]
    groups = {} if config.guarded is None else config.guarded.group_masks(own)
    decision = choose_decision(
        combination, logits[fitted], true[fitted], config.labels, guard=config.guard, groups=groups
    ).decision
    probabilities, winners = Combiner(combination, labels=len(config.labels)).run(logits[left_out])
    labels = [decide(p, int(w), config.labels, decision)[0] for p, w in zip(probabilities, winners, strict=True)]
    return _Decided(
        true=true[left_out],
        predicted=np.array([config.labels.index(label) for label in labels], dtype=np.int64),
        probabilities=probabilities.astype(np.float64),
        patients=run.patients(part.rows[left_out]),
    )


def _row(decided: _Decided, site: str, label: str, k: int, draws: Bootstrap) -> SiteRow:
    positive, called = decided.true == k, decided.predicted == k
    return SiteRow(
        site=site,
        label=label,
        images=int(positive.sum()),
        others=int((~positive).sum()),
        auroc=auc_figure(decided.probabilities[:, k], positive, decided.patients, draws),
        sensitivity=proportion(int((called & positive).sum()), int(positive.sum())),
        specificity=proportion(int((~called & ~positive).sum()), int((~positive).sum())),
    )


def _cells(row: SiteRow) -> list[str]:
    figures = map(interval, (row.auroc, row.sensitivity, row.specificity))
    return [row.site, row.label, str(row.images), str(row.others), *figures]


def sites_table(found: LeftOutSites) -> list[str]:
    """Return the chosen candidate's table, worst and mean, and the candidates if there are several, as Markdown."""
    best = found.best
    parts = [
        table(HEAD, map(_cells, best.rows)),
        f"AUROC at the worst site: {best.worst:.3f}; mean over sites: {best.mean:.3f}.",
    ]
    if len(found.candidates) > 1:
        rows = (
            [f"**{name}**" if name == found.chosen else name, c.about, f"{c.worst:.3f}", f"{c.mean:.3f}"]
            for name, c in found.candidates.items()
        )
        parts.append(table(["candidate", "what it is", "worst site", "mean"], rows))
        parts.append("The candidate with the best worst site, in bold, was trained on all sites.")
    return parts


def as_terminal_lines(found: LeftOutSites) -> list[str]:
    """Return the same for a terminal."""
    rows = [HEAD, *map(_cells, found.best.rows)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEAD))]
    lines = ["sites that trained nothing (AUROC, sensitivity, specificity with 95 % intervals):"]
    lines += ["  " + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.append(f"  AUROC at the worst site {found.best.worst:.3f}, mean over sites {found.best.mean:.3f}")
    if len(found.candidates) > 1:
        lines += [
            f"  candidate {name}: worst site {c.worst:.3f}, mean {c.mean:.3f} ({c.about})"
            for name, c in found.candidates.items()
        ]
        lines.append(f"  trained on all sites: {found.chosen}")
    return lines
