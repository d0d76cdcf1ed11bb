"""Evaluation of a bundle on a split: figures by label, source and subgroup, lung boxes, flags and shortcut checks.

In: a bundle and the samples and canvases of a run. Out: an `Evaluation`, which `training.evaluation.pages` and the model card
print. Test patients' files go through the deployed path (`Screener`), as a device runs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr_edge import engines
from cxr_edge.bundle import Bundle
from cxr_edge.bundle.manifest import Manifest
from cxr_edge.bundle.networks import Member
from cxr_edge.calibration import LabelledCases
from cxr_edge.engines import EngineSet
from cxr_edge.errors import InputError
from cxr_edge.ops.combine import Combiner, decide
from cxr_edge.records import Failure
from cxr_edge.screening.folder import screen_files
from cxr_edge.screening.screener import Screener
from training.config import BundleConfig
from training.data.canvases import Canvases
from training.data.dataset import Sample
from training.data.guard import Guard, Subgroup
from training.data.records import Record
from training.data.targets import Target
from training.evaluation.budget import BudgetFigures, budget_figures
from training.evaluation.gaps import GroupFigures, gaps
from training.evaluation.metrics import (
    Bootstrap,
    Figure,
    ModelFigures,
    Predictions,
    auc_figure,
    figures,
    proportion,
)
from training.evaluation.onnx_features import member_cams, member_features
from training.evaluation.onnx_logits import member_logits
from training.evaluation.results import (
    TOGETHER,
    BundleName,
    Evaluation,
    FlagShares,
    Safety,
    Shortcuts,
    SourceCounts,
)
from training.evaluation.run_facts import lung_figures, lung_finder, sizes_of_sides, split_in_words
from training.evaluation.shortcuts import (
    lung_masks,
    lung_share,
    lungs_painted_over,
    mean_figure,
    small_copies,
    source_classifier_accuracy,
)
from training.json_records import as_stored

__all__ = ["PAPERS_SOURCES", "Screened", "budget_of", "evaluate", "labelled", "safety", "screen_samples"]

PAPERS_SOURCES = ("kcx", "ccx", "twitter")  # of both papers and of the plain classifier we compare with


@dataclass(frozen=True, kw_only=True)
class Screened:
    """Predictions of the deployed path on N samples."""

    samples: tuple[Sample, ...]
    probabilities: npt.NDArray[np.float64]  # (N, K)
    predicted: npt.NDArray[np.int64]  # (N,) label indices of the decisions
    members: npt.NDArray[np.float64]  # (N, M, K) probabilities of each member
    flags: tuple[frozenset[str], ...]  # codes raised, per sample

    @property
    def records(self) -> list[Record]:
        return [s.record for s in self.samples]

    @property
    def patients(self) -> npt.NDArray[np.str_]:
        """Group names (N,): patients that share an image are one."""
        return np.array([s.group for s in self.samples])

    def flagged(self, code: str) -> npt.NDArray[np.bool_]:
        """Return the samples with a flag (N,)."""
        return np.array([code in flags for flags in self.flags], dtype=bool)

    def where(self, **values: object) -> npt.NDArray[np.bool_]:
        """Return the samples with these values in their records (N,)."""
        return np.array([all(getattr(r, k) == v for k, v in values.items()) for r in self.records], dtype=bool)


def screen_samples(screener: Screener, samples: Sequence[Sample], *, threads: int) -> Screened:
    """Screen the samples' files. Raises InputError if one fails: figures of an incomplete test side are not valid."""
    labels = screener.manifest.labels
    found = []
    for result in screen_files(screener, [s.record.path for s in samples], workers=threads):
        if isinstance(result.outcome, Failure):
            raise InputError(f"{result.outcome.source} cannot be screened: {result.outcome.reason}")
        if result.outcome.degraded is not None:
            raise InputError(f"{result.outcome.source}: figures need all members. {result.outcome.degraded.describe()}")
        found.append(result.outcome)
    return Screened(
        samples=tuple(samples),
        probabilities=np.array([s.probabilities for s in found], dtype=np.float64),
        predicted=np.array([labels.index(s.forced_decision) for s in found], dtype=np.int64),
        members=np.array([[m.probabilities for m in s.members] for s in found], dtype=np.float64),
        flags=tuple(frozenset(f.code for f in s.flags) for s in found),
    )


def evaluate(
    bundle: Bundle,
    samples: Sequence[Sample],
    canvases: Canvases,
    config: BundleConfig,
    *,
    built: EngineSet | None = None,
) -> Evaluation:
    """Return all results, rounded as in files.

    samples, canvases: of the whole run, row by row; only test patients are evaluated.
    built: engines to evaluate beside the fp32 reference, or None.
    """
    manifest = bundle.manifest
    test = [i for i, s in enumerate(samples) if s.side == "test"]
    reference = engines.reference(bundle, threads=1)
    screened = screen_samples(
        Screener(bundle, reference, whole=True), [samples[i] for i in test], threads=config.threads
    )
    models = _models(screened, manifest, config)
    if built is not None:
        models["ensemble, engines built here"] = _built(bundle, built, screened, config)
    found = Evaluation(
        bundle=BundleName(name=manifest.name, version=manifest.version, manifest_sha256=bundle.digest),
        preset=manifest.provenance.get("preset", "sane"),
        split=split_in_words(samples),
        seed=config.seed,
        resamples=config.resamples,
        labels=manifest.labels,
        guard=config.guarded,
        reference=reference.describe(),
        sides=sizes_of_sides(samples),
        models=models,
        sources=_sources(screened, config.target_of(manifest.labels)),
        safety=safety(screened, manifest.labels, config),
        gaps=_gaps(screened, manifest.labels, config),
        flags=_flags(screened, manifest.labels, config),
        lungs=lung_figures(bundle, samples, config),
        shortcuts=_shortcuts(bundle, samples, canvases, test, screened, config),
        budget=budget_of(screened, manifest, config.target_of(manifest.labels), seed=config.seed),
    )
    return as_stored(found)


def _predictions(
    screened: Screened,
    target: Target,
    predicted: npt.NDArray[np.int64],
    probabilities: npt.NDArray[np.float64],
) -> tuple[Predictions, npt.NDArray[np.bool_]]:
    """Return the predictions on images with one of the target's labels, and the mask of these images."""
    true = np.array([target.label_index(r.label) for r in screened.records], dtype=np.int64)
    known = true >= 0
    return Predictions(
        true=true[known],
        predicted=predicted[known],
        probabilities=probabilities[known],
        patients=screened.patients[known],
    ), known


def _ensemble(screened: Screened, manifest: Manifest, config: BundleConfig) -> ModelFigures:
    target = config.target_of(manifest.labels)
    predictions, _ = _predictions(screened, target, screened.predicted, screened.probabilities)
    return figures(predictions, manifest.labels, Bootstrap.of(config))


def _built(bundle: Bundle, built: EngineSet, reference: Screened, config: BundleConfig) -> ModelFigures:
    """Return the ensemble's figures by other engines, and their agreement with the reference's decisions."""
    other = screen_samples(Screener(bundle, built, whole=True), reference.samples, threads=config.threads)
    same = proportion(int((other.predicted == reference.predicted).sum()), len(reference.samples))
    return replace(_ensemble(other, bundle.manifest, config), engines=built.describe(), same_decision=same)


def _models(screened: Screened, manifest: Manifest, config: BundleConfig) -> dict[str, ModelFigures]:
    labels, draws, target = manifest.labels, Bootstrap.of(config), config.target_of(manifest.labels)
    predictions, known = _predictions(screened, target, screened.predicted, screened.probabilities)
    papers = np.array([r.source in PAPERS_SOURCES for r in screened.records])[known]
    found = {"ensemble": figures(predictions, labels, draws)}
    if papers.any():
        found[f"ensemble, {', '.join(PAPERS_SOURCES)} only"] = figures(predictions.only(papers), labels, draws)
    for i, member in enumerate(manifest.members):
        own = screened.members[:, i]
        single, _ = _predictions(screened, target, own.argmax(axis=1), own)
        found[f"{member.name} alone"] = figures(single, labels, draws)
    return found


def _sources(screened: Screened, target: Target) -> tuple[SourceCounts, ...]:
    """Return the counts of predicted labels, one row per source and true label."""
    pairs = sorted({(r.source, r.label) for r in screened.records})
    return tuple(_source_counts(screened, target, source, label) for source, label in pairs)


def _source_counts(screened: Screened, target: Target, source: str, label: str) -> SourceCounts:
    chosen, true = screened.where(source=source, label=label), target.label_index(label)
    counts = np.bincount(screened.predicted[chosen], minlength=len(target.labels))
    return SourceCounts(
        source=source,
        label=label,
        patients=len(set(screened.patients[chosen].tolist())),
        predicted=dict(zip(target.labels, counts.tolist(), strict=True)),
        right=proportion(int(counts[true]), int(counts.sum())) if true >= 0 else None,
    )


def safety(screened: Screened, labels: Sequence[str], config: BundleConfig) -> Safety:
    """Return the guarded label's specificity by subgroup, its sensitivity in watched subgroups of images with it, and its AUC
    within subgroups; empty without a guarded label.

    The subgroups that limit false alarms are given by source, too.
    """
    guard = config.guarded
    if guard is None:
        return Safety()
    flagged = screened.predicted == labels.index(guard.label)

    def specificity(rows: npt.NDArray[np.bool_]) -> Figure:
        return proportion(int((~flagged)[rows].sum()), int(rows.sum()))

    groups = {}
    for name, rows in guard.group_masks(screened.records).items():
        sources = sorted({r.source for r, row in zip(screened.records, rows, strict=True) if row})
        by_source = {source: specificity(rows & screened.where(source=source)) for source in sources}
        groups[name] = {**by_source, TOGETHER: specificity(rows)}
    return Safety(
        groups=groups,
        watch={
            name: specificity(guard.negatives(g, screened.records))
            for name, g in guard.watch.items()
            if not guard.is_found_in(g)
        },
        found={
            name: proportion(int(flagged[rows].sum()), int(rows.sum()))
            for name, g in guard.watch.items()
            if guard.is_found_in(g)
            for rows in (g.mask(screened.records),)
        },
        areas={name: _guard_auc(screened, labels, guard, g, config) for name, g in guard.auc_groups.items()},
    )


def _guard_auc(
    screened: Screened, labels: Sequence[str], guard: Guard, group: Subgroup, config: BundleConfig
) -> Figure:
    rows = group.mask(screened.records)
    return auc_figure(
        screened.probabilities[rows, labels.index(guard.label)],
        screened.where(label=guard.label)[rows],
        screened.patients[rows],
        Bootstrap.of(config),
    )


def budget_of(screened: Screened, manifest: Manifest, target: Target, *, seed: int) -> BudgetFigures | None:
    """Return the figures of the bundle's error budget on images with one of its labels; None without one."""
    if manifest.budget is None:
        return None
    cases, known = labelled(screened, manifest.labels, target)
    records = [r for r, own in zip(screened.records, known, strict=True) if own]
    return budget_figures(cases, records, manifest.decision, manifest.budget, seed=seed)


def labelled(
    screened: Screened, labels: tuple[str, ...], target: Target
) -> tuple[LabelledCases, npt.NDArray[np.bool_]]:
    """Return the predictions on images with one of the labels, and the mask of these images (N,)."""
    true = np.array([target.label_index(r.label) for r in screened.records], dtype=np.int64)
    known = true >= 0
    cases = LabelledCases(
        labels=labels,
        probabilities=screened.probabilities[known].astype(np.float32),
        winners=screened.probabilities[known].argmax(axis=1),
        true=true[known],
        patients=screened.patients[known],
    )
    return cases, known


def _gaps(screened: Screened, labels: Sequence[str], config: BundleConfig) -> dict[str, dict[str, GroupFigures]]:
    if config.guard is None:
        return {}
    return gaps(screened.records, config.guard, screened.predicted == labels.index(config.guard))


def _flags(screened: Screened, labels: tuple[str, ...], config: BundleConfig) -> FlagShares:
    target = config.target_of(labels)
    predictions, known = _predictions(screened, target, screened.predicted, screened.probabilities)
    right, uncertain = predictions.predicted == predictions.true, screened.flagged("uncertain")[known]
    return FlagShares(
        lung_box_failed=_share(screened.flagged("lung_box_failed")),
        uncertain=_share(uncertain),
        accuracy_uncertain=_share(right[uncertain]),
        accuracy_others=_share(right[~uncertain]),
    )


def _share(values: npt.NDArray[np.bool_]) -> Figure:
    return proportion(int(values.sum()), len(values))


def _shortcuts(
    bundle: Bundle,
    samples: Sequence[Sample],
    canvases: Canvases,
    test: Sequence[int],
    screened: Screened,
    config: BundleConfig,
) -> Shortcuts:
    manifest, find_lungs, draws = bundle.manifest, lung_finder(bundle), Bootstrap.of(config)
    groups = _label_groups(config)
    found = Shortcuts(
        sources=source_classifier_accuracy(samples, small_copies(canvases.lungs), groups, draws),
        member_sources={
            m.name: source_classifier_accuracy(samples, _features(bundle, m, canvases, config), groups, draws)
            for m in manifest.members
            if m.has_cam
        },
    )
    if find_lungs is None:
        return found
    masks = lung_masks(samples, canvases, test, find_lungs, config.member_spec, threads=config.threads)
    blind = _screen_canvases(bundle, lungs_painted_over(canvases.lungs[test], masks), screened, config)
    return replace(
        found,
        lungs_painted_over=_ensemble(blind, manifest, config),
        blind_areas=_blind_areas(blind, manifest.labels, config),
        **_activation(bundle, canvases.lungs[test], masks, screened, config),
    )


def _features(bundle: Bundle, member: Member, canvases: Canvases, config: BundleConfig) -> npt.NDArray[np.float32]:
    """Return a member's penultimate features, each standardised over all images."""
    found = member_features(bundle.file(member.file), canvases.lungs, config.member_spec, threads=config.threads)
    standardised: npt.NDArray[np.float32] = (found - found.mean(axis=0)) / np.maximum(found.std(axis=0), 1e-6)
    return standardised


def _activation(
    bundle: Bundle,
    lungs: npt.NDArray[np.uint8],
    masks: npt.NDArray[np.bool_],
    screened: Screened,
    config: BundleConfig,
) -> dict[str, Any]:
    """Return the fields of `Shortcuts` on where members look, on images with the guarded label."""
    rows = np.flatnonzero(screened.where(label=config.guard))
    if not len(rows) or config.guard is None:
        return {}
    patients, draws = screened.patients[rows], Bootstrap.of(config)
    k = bundle.manifest.labels.index(config.guard)
    shares = {}
    for m in bundle.manifest.members:
        if m.has_cam:
            maps = member_cams(bundle.file(m.file), lungs[rows], config.member_spec, threads=config.threads)
            shares[m.name] = mean_figure(lung_share(maps[:, k], masks[rows]), patients, draws)
    return {"lung_share": shares, "lung_area": mean_figure(masks[rows].mean(axis=(1, 2)), patients, draws)}


def _screen_canvases(bundle: Bundle, canvases: npt.NDArray[np.uint8], like: Screened, config: BundleConfig) -> Screened:
    """Return the ensemble's predictions on other canvases of the same samples."""
    manifest = bundle.manifest
    files = [bundle.file(m.file) for m in manifest.members]
    logits = member_logits(files, canvases, config.member_spec, threads=config.threads)
    probabilities, winners = Combiner(manifest.combination, labels=len(manifest.labels)).run(logits)
    pairs = zip(probabilities, winners, strict=True)
    predicted = [manifest.labels.index(decide(p, int(w), manifest.labels, manifest.decision)[0]) for p, w in pairs]
    return replace(like, probabilities=probabilities.astype(np.float64), predicted=np.array(predicted, dtype=np.int64))


def _blind_areas(blind: Screened, labels: Sequence[str], config: BundleConfig) -> dict[str, Figure]:
    """Return the guarded label's AUC within the first subgroup."""
    guard = config.guarded
    first = [] if guard is None else list(guard.auc_groups.items())[:1]
    return {name: _guard_auc(blind, labels, guard, group, config) for name, group in first if guard is not None}


def _label_groups(config: BundleConfig) -> tuple[str, ...]:
    """Return the labels within which the source classifier is tested: the guarded one and those it is compared with."""
    guard = config.guarded
    if guard is None:
        return config.labels
    return (*(g.label for g in guard.groups.values() if g.label is not None), guard.label)
