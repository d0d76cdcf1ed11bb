"""Assembly of a multi-label bundle: exported networks, samples and canvases in, an evaluated bundle out.

As `assemble` for labels that exclude each other: combination, temperatures and the threshold of each finding are fitted on
validation patients; the bundle is written with its known answers and evaluated on test patients through the deployed path.
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

from cxr_edge.specs.combination import Combination
from training.bundles.card_words import CardWords
from training.bundles.degraded import FittedFindings, modes_of_findings
from training.bundles.finding_card import finding_card, finding_metrics
from training.bundles.floors import keep_above_floors
from training.bundles.write import FittedEnsemble, add_decoded_files, add_figures, add_known_answers, write_draft
from training.config import BundleConfig
from training.data.canvases import LUNG_BOX, Canvases, onnx_session
from training.data.dataset import Sample
from training.data.finding_counts import truth_of
from training.data.splits import SIDES
from training.ensembles.multi_label import choose_combination
from training.ensembles.thresholds import choose_thresholds
from training.evaluation.finding_bundle import evaluate_findings
from training.evaluation.finding_pages import UNKNOWN
from training.evaluation.finding_results import FindingsEvaluation
from training.evaluation.onnx_logits import member_logits

__all__ = ["assemble_findings"]


def assemble_findings(
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
) -> FindingsEvaluation:
    """Write the bundle in `root`. Returns the results of `evaluate_findings` on test patients. Arguments as of `assemble`."""
    rows = [i for i, s in enumerate(samples) if s.side == "validation" and config.target.is_evaluated(s.record)]
    validation, cut = [samples[i] for i in rows], canvases.rows(rows)
    files = [networks / f"{name}.onnx" for name in designs]
    if (networks / "segmenter.onnx").exists():  # a damaged one is named before the bundle is written
        onnx_session(networks / "segmenter.onnx", threads=1)
    logits = member_logits(files, cut.lungs, config.member_spec, threads=config.threads)
    provenance = {
        "seed": config.seed,
        "images": _images(samples),
        "data": UNKNOWN,
        "licences": "of the sources",
        "preset": preset,
        "split": split,
        **facts,
    }
    fitted = _fit(validation, logits, config, provenance, combination, tuple(designs))
    draft = write_draft(root, networks, fitted, config, designs, validation, cut)
    bundle = add_decoded_files(add_known_answers(draft, count=config.known_answers))
    results = evaluate_findings(bundle, samples, canvases, config)
    bundle = keep_above_floors(bundle, results, below_floor=below_floor)
    bundle = add_figures(bundle, finding_metrics(results), finding_card(bundle.manifest, results, words))
    size = sum(f.stat().st_size for f in bundle.root.rglob("*") if f.is_file()) / 1e6
    print(f"{bundle.root}: {size:.1f} MB, {bundle.manifest.combination.strategy}", file=sys.stderr)
    return results


def _images(samples: Sequence[Sample]) -> dict[str, dict[str, int]]:
    """Return side -> source -> number of images. (Sets of findings would be hundreds.)"""
    counts = {side: Counter(s.record.source for s in samples if s.side == side) for side in SIDES}
    return {side: dict(sorted(found.items())) for side, found in counts.items()}


def _fit(
    validation: Sequence[Sample],
    logits: npt.NDArray[np.float32],
    config: BundleConfig,
    facts: Mapping[str, Any],
    combination: Combination | None,
    members: tuple[str, ...],
) -> FittedEnsemble:
    """Fit combination, temperatures, thresholds and degraded modes."""
    truth = truth_of([s.record for s in validation], config.labels)
    losses: Mapping[str, float] = {}
    if combination is None:
        combined = choose_combination(logits, truth, [s.group for s in validation], seed=config.seed)
        combination, losses = combined.combination, combined.log_loss
    limits = config.thresholds.specificity
    chosen = choose_thresholds(combination, logits, truth, config.labels, specificity=limits)
    found = {"images": len(validation), "log_loss_out_of_fold": dict(losses), **chosen.as_json()}
    print(f"on validation: {json.dumps(found)}", file=sys.stderr)
    ensemble = FittedFindings(
        members=members,
        labels=config.labels,
        logits=logits,
        truth=truth,
        combination=combination,
        decision=chosen.decision,
        specificity=limits,
        seed=config.seed,
    )
    return FittedEnsemble(
        combination=combination,
        decision=chosen.decision,
        degraded=modes_of_findings(ensemble) if config.degraded else (),
        lung_box=LUNG_BOX if config.member_spec.region == "lungs" else None,
        provenance={**facts, "validation": found},
    )
