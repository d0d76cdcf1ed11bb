"""Assembly of a bundle: exported networks, samples and canvases in, an evaluated bundle out; the same steps for every recipe.

Combination, temperatures and decision are fitted on validation patients; then the bundle is written with its known answers,
evaluated on test patients through the deployed path, and completed by the figures and the model card.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr_edge.specs.budget import ErrorBudget
from cxr_edge.specs.combination import Combination, Decision
from cxr_edge.specs.degraded import DegradedMode
from training.bundles.budget import NOT_SHOWN, apart, bundle_budget, labelled_cases
from training.bundles.card_words import CardWords
from training.bundles.degraded import FittedLabels, known_images, modes_of_labels
from training.bundles.floors import keep_above_floors
from training.bundles.model_card import key_metrics, model_card
from training.bundles.write import FittedEnsemble, add_decoded_files, add_figures, add_known_answers, write_draft
from training.config import BundleConfig
from training.data.canvases import LUNG_BOX, Canvases, onnx_session
from training.data.dataset import Sample
from training.data.splits import SIDES
from training.ensembles.fit import choose_combination, choose_decision
from training.evaluation.bundle import evaluate
from training.evaluation.onnx_logits import member_logits
from training.evaluation.results import Evaluation
from training.evaluation.sites import VariantRow, configured_variant

__all__ = ["assemble", "images_by_side"]


def assemble(
    root: Path,
    networks: Path,
    designs: Mapping[str, str],
    samples: Sequence[Sample],
    canvases: Canvases,
    config: BundleConfig,
    facts: Mapping[str, Any],
    *,
    preset: str = "sane",
    split: str = "by patient, patients that share an image kept together",
    combination: Combination | None = None,
    words: CardWords | None = None,
    below_floor: bool = False,
) -> Evaluation:
    """Write the bundle in `root`. Returns the results of `evaluate` on test patients.

    networks: folder of NAME.onnx, and segmenter.onnx if the members' input is the lung box.
    designs: member -> its design in words, in the members' order.
    samples, canvases: of the whole run, row by row.
    facts: for the provenance.
    preset, split: of the run, in words.
    combination: fitted already; None selects one on validation patients.
    words: of the model card; None for the published collections.
    below_floor: write the bundle although a watched group is below its floor; otherwise that is an InputError.
    """
    rows = [i for i, s in enumerate(samples) if s.side == "validation"]
    validation, cut = [samples[i] for i in rows], canvases.rows(rows)
    files = [networks / f"{name}.onnx" for name in designs]
    if (networks / "segmenter.onnx").exists():  # a damaged one is named before the bundle is written
        onnx_session(networks / "segmenter.onnx", threads=1)
    logits = member_logits(files, cut.lungs, config.member_spec, threads=config.threads)
    provenance = {**_provenance(samples, config), "preset": preset, "split": split, **facts}
    sites = configured_variant(config)
    fitted = _fit(validation, logits, config, provenance, combination, sites, tuple(designs))
    draft = write_draft(root, networks, fitted, config, designs, validation, cut)
    bundle = add_decoded_files(add_known_answers(draft, count=config.known_answers))
    results = evaluate(bundle, samples, canvases, config)
    bundle = keep_above_floors(bundle, results, below_floor=below_floor)
    bundle = add_figures(bundle, key_metrics(results), model_card(bundle.manifest, results, sites, words))
    size = sum(f.stat().st_size for f in bundle.root.rglob("*") if f.is_file()) / 1e6
    print(f"{bundle.root}: {size:.1f} MB, {bundle.manifest.combination.strategy}", file=sys.stderr)
    return results


def _fit(
    validation: Sequence[Sample],
    logits: npt.NDArray[np.float32],
    config: BundleConfig,
    facts: Mapping[str, Any],
    combination: Combination | None,
    sites: VariantRow | None,
    members: tuple[str, ...],
) -> FittedEnsemble:
    """Fit combination, temperatures, decision, budget and degraded modes. Other findings count in specificity."""
    labels = config.labels
    held = apart([s.group for s in validation], seed=config.seed) if config.budget is not None else None
    everything, whole = logits, validation
    if held is not None and held.any():
        validation, logits = [s for s, own in zip(validation, held, strict=True) if not own], logits[~held]
    records = [s.record for s in validation]
    true = np.array([config.target.label_index(r.label) for r in records])
    known = true >= 0
    losses: Mapping[str, float] = {}
    if combination is None:
        patients = [s.group for s, k in zip(validation, known, strict=True) if k]
        combined = choose_combination(logits[known], true[known], patients, seed=config.seed)
        combination, losses = combined.combination, combined.log_loss
    groups = {} if config.guarded is None else config.guarded.group_masks(records)
    from_sites = sites is not None and config.unseen_sites is not None and config.unseen_sites.threshold
    threshold = round(sites.figures.threshold, 4) if sites is not None and from_sites else None
    decided = choose_decision(combination, logits, true, labels, guard=config.guard, groups=groups, threshold=threshold)
    chosen = {
        "images": len(validation),
        "log_loss_out_of_fold": dict(losses),
        "threshold_of_unseen_sites": from_sites,
        **decided.as_json(),
    }
    print(f"on validation: {json.dumps(chosen)}", file=sys.stderr)
    budget = _budget(whole, everything, config, combination, decided.decision)
    return FittedEnsemble(
        combination=combination,
        decision=decided.decision,
        budget=budget,
        degraded=_degraded(whole, everything, members, config, combination, decided.decision, budget),
        lung_box=LUNG_BOX if config.member_spec.region == "lungs" else None,
        provenance={**facts, "validation": chosen},
    )


def _degraded(
    validation: Sequence[Sample],
    logits: npt.NDArray[np.float32],
    members: tuple[str, ...],
    config: BundleConfig,
    combination: Combination,
    decision: Decision,
    budget: ErrorBudget | None,
) -> tuple[DegradedMode, ...]:
    """Fit the configured degraded modes."""
    if not config.degraded:
        return ()
    fitted = FittedLabels(
        members=members,
        images=known_images(validation, logits, config.target),
        combination=combination,
        decision=decision,
        budget=budget,
        promise=config.budget,
        guard=config.guard,
        groups={} if config.guarded is None else config.guarded.group_masks([s.record for s in validation]),
        seed=config.seed,
    )
    return modes_of_labels(fitted)


def _budget(
    validation: Sequence[Sample],
    logits: npt.NDArray[np.float32],
    config: BundleConfig,
    combination: Combination,
    decision: Decision,
) -> ErrorBudget | None:
    """Fit the configured error budget, on patients of its own if there are enough; None without one that could be kept."""
    if config.budget is None:
        return None
    groups = [s.group for s in validation]
    true = np.array([config.target.label_index(s.record.label) for s in validation])
    held = apart(groups, seed=config.seed)
    rows = held if held.any() else ~held
    cases = labelled_cases(combination, logits[rows], true[rows], np.asarray(groups)[rows].tolist(), config.labels)
    found = bundle_budget(cases, decision, config.budget, own_patients=bool(held.any()), seed=config.seed)
    if found is None:
        print(
            f"no error budget: {NOT_SHOWN.format(config.budget.max_wrong)}; every decision is an answer",
            file=sys.stderr,
        )
    return found


def _provenance(samples: Sequence[Sample], config: BundleConfig) -> dict[str, Any]:
    return {
        "seed": config.seed,
        "images": images_by_side(samples),
        "data": _partial_in_words(config),
        "licences": "of the sources: mixed, some non-commercial, some unstated",
    }


def _partial_in_words(config: BundleConfig) -> str:
    """Describe how findings that are not labels take part, for the model card."""
    sentences = [
        f"Images of {name} train the members as one of {', '.join(labels)}; they are not evaluated."
        for name, labels in config.target.partial.items()
    ]
    return " ".join([*sentences, "Images of other findings are not used."])


def images_by_side(samples: Sequence[Sample]) -> dict[str, dict[str, int]]:
    """Return side -> "source/label" -> number of images; in the provenance of every bundle."""
    images = {s: Counter(f"{r.record.source}/{r.record.label}" for r in samples if r.side == s) for s in SIDES}
    return {side: dict(sorted(counts.items())) for side, counts in images.items()}
