"""Evaluation of a multi-label bundle on a split: figures by finding, source, view, age and sex, flags and shortcut checks.

In: a bundle and the samples and canvases of a run. Out: a `FindingsEvaluation`. Test patients' files go through the deployed
path (`Screener`), as a device runs it; a finding that is unknown in an image is in no figure of that image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from cxr_edge import engines
from cxr_edge.bundle import Bundle
from cxr_edge.bundle.manifest import Manifest
from cxr_edge.engines import EngineSet
from cxr_edge.errors import InputError
from cxr_edge.ops.combine import Combiner
from cxr_edge.records import Failure
from cxr_edge.screening.folder import screen_files
from cxr_edge.screening.screener import Screener
from training.config import BundleConfig
from training.data.canvases import Canvases
from training.data.dataset import Sample
from training.data.finding_counts import truth_of
from training.data.guard import Subgroup
from training.data.records import Record
from training.data.splits import SIDES
from training.evaluation.finding_metrics import FindingPredictions, FindingsModelFigures, decided, findings_figures
from training.evaluation.finding_results import FindingCounts, FindingGroup, FindingsEvaluation, GroupFinding
from training.evaluation.gaps import ATTRIBUTES
from training.evaluation.metrics import Bootstrap, Figure, auc_figure, proportion
from training.evaluation.onnx_features import member_cams
from training.evaluation.onnx_logits import member_logits
from training.evaluation.results import BundleName
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

__all__ = ["ScreenedFindings", "evaluate_findings", "group_findings", "screen_findings"]

Mask = npt.NDArray[np.bool_]
_MEMBERS_LIMIT = 0.5  # a member alone has no threshold of its own


@dataclass(frozen=True, kw_only=True)
class ScreenedFindings:
    """Predictions of the deployed path on N samples."""

    predictions: FindingPredictions  # of the ensemble
    members: npt.NDArray[np.float64]  # (N, M, K) probabilities of each member
    flags: tuple[frozenset[str], ...]  # codes raised, per sample

    def flagged(self, code: str) -> Mask:
        """Return the samples with a flag (N,)."""
        return np.array([code in flags for flags in self.flags], dtype=bool)


def screen_findings(screener: Screener, samples: Sequence[Sample], *, threads: int) -> ScreenedFindings:
    """Screen the samples' files. Raises InputError if one fails: figures of an incomplete test side are not valid."""
    labels, found = screener.manifest.labels, []
    for result in screen_files(screener, [s.record.path for s in samples], workers=threads):
        if isinstance(result.outcome, Failure):
            raise InputError(f"{result.outcome.source} cannot be screened: {result.outcome.reason}")
        if result.outcome.degraded is not None:
            raise InputError(f"{result.outcome.source}: figures need all members. {result.outcome.degraded.describe()}")
        found.append(result.outcome)
    predictions = FindingPredictions(
        truth=truth_of([s.record for s in samples], labels),
        present=np.array([[label in (s.findings or ()) for label in labels] for s in found], dtype=bool),
        probabilities=np.array([s.probabilities for s in found], dtype=np.float64),
        patients=np.array([s.group for s in samples]),
    )
    return ScreenedFindings(
        predictions=predictions,
        members=np.array([[m.probabilities for m in s.members] for s in found], dtype=np.float64),
        flags=tuple(frozenset(f.code for f in s.flags) for s in found),
    )


def evaluate_findings(
    bundle: Bundle,
    samples: Sequence[Sample],
    canvases: Canvases,
    config: BundleConfig,
    *,
    built: EngineSet | None = None,
) -> FindingsEvaluation:
    """Return all results, rounded as in files.

    samples, canvases: of the whole run, row by row; only test patients with a known finding are evaluated.
    built: engines to evaluate beside the fp32 reference, or None.
    """
    manifest, target = bundle.manifest, config.target_of(bundle.manifest.labels)
    test = [i for i, s in enumerate(samples) if s.side == "test" and target.is_evaluated(s.record)]
    if not test:
        raise InputError(f"the test side has no image with a known finding of {', '.join(manifest.labels)}")
    chosen, reference = [samples[i] for i in test], engines.reference(bundle, threads=1)
    screened = screen_findings(Screener(bundle, reference, whole=True), chosen, threads=config.threads)
    draws, records = Bootstrap.of(config), [s.record for s in chosen]
    found = FindingsEvaluation(
        bundle=BundleName(name=manifest.name, version=manifest.version, manifest_sha256=bundle.digest),
        preset=manifest.provenance.get("preset", "sane"),
        split=split_in_words(samples),
        seed=config.seed,
        resamples=config.resamples,
        labels=manifest.labels,
        reference=reference.describe(),
        sides=sizes_of_sides(samples),
        counts=_counts(samples, manifest.labels),
        thresholds={label: manifest.decision.threshold_of(label) for label in manifest.labels},
        models=_models(screened, manifest, draws),
        groups=group_findings(screened.predictions, records, manifest.labels, draws, config.watch),
        watch=config.watch,
        lung_box_failed=proportion(int(screened.flagged("lung_box_failed").sum()), len(test)),
        uncertain=proportion(int(screened.flagged("uncertain").sum()), len(test)),
        lungs=lung_figures(bundle, samples, config),
        sources=source_classifier_accuracy(samples, small_copies(canvases.lungs), (), draws),
    )
    found = _with_lungs(found, bundle, samples, canvases, test, screened, config)
    return as_stored(found if built is None else _with_engines(found, bundle, built, chosen, screened, config))


def _counts(samples: Sequence[Sample], labels: Sequence[str]) -> dict[str, dict[str, FindingCounts]]:
    found: dict[str, dict[str, FindingCounts]] = {}
    for side in SIDES:
        truth = truth_of([s.record for s in samples if s.side == side], labels)
        found[side] = {
            label: FindingCounts(
                present=int((column == 1).sum()), absent=int((column == 0).sum()), unknown=int(np.isnan(column).sum())
            )
            for label, column in zip(labels, truth.T, strict=True)
        }
    return found


def _models(screened: ScreenedFindings, manifest: Manifest, draws: Bootstrap) -> dict[str, FindingsModelFigures]:
    ensemble = screened.predictions
    found = {"ensemble": findings_figures(ensemble, manifest.labels, draws)}
    for i, member in enumerate(manifest.members):
        own = screened.members[:, i]
        alone = replace(ensemble, probabilities=own, present=own >= _MEMBERS_LIMIT)
        found[f"{member.name} alone"] = findings_figures(alone, manifest.labels, draws)
    return found


def group_findings(
    p: FindingPredictions,
    records: Sequence[Record],
    labels: Sequence[str],
    draws: Bootstrap,
    watch: Mapping[str, Subgroup] | None = None,
) -> dict[str, dict[str, FindingGroup]]:
    """Return attribute (source; view, age, sex where any record states it; `watch`, the named subgroups) -> group -> figures."""
    attributes: Mapping[str, Callable[[Record], str]] = {"source": lambda r: r.source, **ATTRIBUTES}
    found = {}
    for name, group_of in attributes.items():
        names = np.array([group_of(r) for r in records])
        if set(names.tolist()) != {"not stated"}:
            found[name] = {str(g): _group(p.only(names == g), labels, draws) for g in np.unique(names)}
    if watch:
        found["watch"] = {name: _group(p.only(g.mask(records)), labels, draws) for name, g in watch.items()}
    return found


def _group(p: FindingPredictions, labels: Sequence[str], draws: Bootstrap) -> FindingGroup:
    return FindingGroup(
        images=len(p.truth),
        patients=len(set(p.patients.tolist())),
        labels={label: _group_finding(p, k, draws) for k, label in enumerate(labels)},
    )


def _group_finding(p: FindingPredictions, k: int, draws: Bootstrap) -> GroupFinding:
    own = ~np.isnan(p.truth[:, k])
    present, called = p.truth[own, k] == 1, p.present[own, k]
    return GroupFinding(
        known=int(own.sum()),
        present=int(present.sum()),
        auroc=auc_figure(p.probabilities[own, k], present, p.patients[own], draws),
        sensitivity=proportion(int((called & present).sum()), int(present.sum())),
        specificity=proportion(int((~called & ~present).sum()), int((~present).sum())),
    )


def _with_lungs(
    found: FindingsEvaluation,
    bundle: Bundle,
    samples: Sequence[Sample],
    canvases: Canvases,
    test: Sequence[int],
    screened: ScreenedFindings,
    config: BundleConfig,
) -> FindingsEvaluation:
    """Return the results with what is seen outside the lungs; unchanged without a segmenter."""
    find_lungs = lung_finder(bundle)
    if find_lungs is None:
        return found
    lungs = canvases.lungs[list(test)]
    masks = lung_masks(samples, canvases, test, find_lungs, config.member_spec, threads=config.threads)
    shares, areas = _activation(bundle, lungs, masks, screened.predictions, config)
    blind = _painted_over(bundle, lungs_painted_over(lungs, masks), screened.predictions, config)
    return replace(found, lungs_painted_over=blind, lung_share=shares, lung_area=areas)


def _painted_over(
    bundle: Bundle, lungs: npt.NDArray[np.uint8], like: FindingPredictions, config: BundleConfig
) -> FindingsModelFigures:
    """Return the ensemble's figures on other canvases of the same images."""
    manifest = bundle.manifest
    files = [bundle.file(m.file) for m in manifest.members]
    logits = member_logits(files, lungs, config.member_spec, threads=config.threads)
    probabilities, _ = Combiner(manifest.combination, labels=len(manifest.labels)).run(logits)
    present = decided(probabilities, manifest.decision, manifest.labels)
    blind = replace(like, probabilities=probabilities.astype(np.float64), present=present)
    return findings_figures(blind, manifest.labels, Bootstrap.of(config))


def _activation(
    bundle: Bundle,
    lungs: npt.NDArray[np.uint8],
    masks: Mask,
    p: FindingPredictions,
    config: BundleConfig,
) -> tuple[dict[str, dict[str, Figure]], dict[str, Figure]]:
    """Return the share of each member's CAM inside the lungs by finding, and the lungs' share of the canvas."""
    draws, manifest = Bootstrap.of(config), bundle.manifest
    rows = {label: np.flatnonzero(p.truth[:, k] == 1) for k, label in enumerate(manifest.labels)}
    rows = {label: own for label, own in rows.items() if len(own)}
    areas = {label: mean_figure(masks[own].mean(axis=(1, 2)), p.patients[own], draws) for label, own in rows.items()}
    shares = {}
    for member in manifest.members:
        if member.has_cam:
            maps = member_cams(bundle.file(member.file), lungs, config.member_spec, threads=config.threads)
            shares[member.name] = {
                label: mean_figure(
                    lung_share(maps[own, manifest.labels.index(label)], masks[own]), p.patients[own], draws
                )
                for label, own in rows.items()
            }
    return shares, areas


def _with_engines(
    found: FindingsEvaluation,
    bundle: Bundle,
    built: EngineSet,
    samples: Sequence[Sample],
    reference: ScreenedFindings,
    config: BundleConfig,
) -> FindingsEvaluation:
    """Return the results with the figures of other engines, and their agreement with the reference's findings."""
    other = screen_findings(Screener(bundle, built, whole=True), samples, threads=config.threads)
    same = (other.predictions.present == reference.predictions.present).all(axis=1)
    own = findings_figures(other.predictions, bundle.manifest.labels, Bootstrap.of(config))
    return replace(
        found,
        models={**found.models, "ensemble, engines built here": own},
        engines=built.describe(),
        same_decision=proportion(int(same.sum()), len(samples)),
    )
