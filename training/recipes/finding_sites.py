"""Findings at left-out sites: a run of the leave-sites-out loop in; AUROC by site and finding, the worst and the mean out.

A network without a site is combined, calibrated and given the threshold of each finding on validation patients of the other
sites, as a bundle is, and then decides all images of that site.
"""

from __future__ import annotations

import numpy as np

from cxr_edge.errors import InputError
from training.data.finding_counts import truth_of
from training.ensembles.multi_label import probabilities_of
from training.ensembles.thresholds import choose_thresholds
from training.evaluation.finding_metrics import FindingPredictions, decided
from training.evaluation.finding_sites import FindingSites, finding_sites
from training.evaluation.metrics import Bootstrap
from training.recipes.sites import SitesRun, stacked

__all__ = ["left_out_findings", "left_out_predictions"]


def left_out_findings(run: SitesRun, variant: str, *, least: int | None = None) -> FindingSites:
    """Return a variant's figures at the sites of all folds; every network is trained unless its folder holds it.

    least: images with, and without, a finding that a site needs to count; None: `least_site_images` of the configuration.
    Raises InputError for labels that exclude each other.
    """
    if not run.config.multi_label:
        raise InputError("left-out findings need multi_label = true; labels that exclude each other: training.sites")
    found = {fold: left_out_predictions(run, variant, fold) for fold in run.config.folds}
    labels = run.config.of_variant(variant).labels
    counts = run.config.least_site_images if least is None else least
    return finding_sites(found, labels, Bootstrap.of(run.config), least=counts)


def left_out_predictions(run: SitesRun, variant: str, fold: str) -> FindingPredictions:
    """Return the predictions on the images of a fold's sites that have a known finding, by what was made without them."""
    config, parts = run.config.of_variant(variant), run.train(variant, fold)
    logits, rows, target = stacked(parts), parts[0].rows, config.target
    records = [run.samples[i].record for i in rows]
    known = np.array([target.is_evaluated(r) for r in records], dtype=bool)
    left_out = np.array([r.source in run.config.folds[fold] for r in records], dtype=bool)
    truth, own = truth_of(records, target.labels), ~left_out & known
    combination = run.combination(logits[own], rows[own], target)
    specificity = config.thresholds.specificity
    chosen = choose_thresholds(combination, logits[own], truth[own], target.labels, specificity=specificity)
    at = left_out & known
    probabilities = probabilities_of(combination, logits[at])
    return FindingPredictions(
        truth=truth[at],
        present=decided(probabilities, chosen.decision, target.labels),
        probabilities=probabilities,
        patients=run.patients(rows[at]),
    )
