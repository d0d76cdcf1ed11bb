"""From exported networks to a finished, judged bundle: the same steps for every recipe.

Combination, temperatures and decision are fitted on validation patients; then the bundle is written, its known answers are
noted, test patients are asked through the deployed path, and the figures and the model card go in.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr_edge.bundle import Bundle
from cxr_edge.specs.combination import Combination
from training.bundles.model_card import key_metrics, model_card
from training.bundles.write import Fitted, add_figures, add_known_answers, write_draft
from training.config import BundleConfig
from training.data.canvases import LUNG_BOX, Canvases
from training.data.dataset import Sample
from training.data.splits import SIDES
from training.ensembles.fit import choose_combination, choose_decision
from training.evaluation.bundle import evaluate
from training.evaluation.onnx_logits import member_logits

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
    unseen: Mapping[str, Any] | None = None,
    combination: Combination | None = None,
) -> tuple[Bundle, dict[str, Any]]:
    """Write the bundle in `root`. Returns it and what `evaluate` found on test patients.

    networks: folder of NAME.onnx, and segmenter.onnx where members see the lung box. designs: member -> its design in
    words, in the members' order. samples, canvases: of the whole run, row by row. preset, split: as the run was made, in
    words. facts: for the provenance. unseen: of `training.unseen`. combination: fitted already; None chooses one on
    validation patients.
    """
    rows = [i for i, s in enumerate(samples) if s.side == "validation"]
    validation, cut = [samples[i] for i in rows], canvases.rows(rows)
    files = [networks / f"{name}.onnx" for name in designs]
    logits = member_logits(files, cut.lungs, config.member_spec, threads=config.threads)
    known = {**_provenance(samples, config), "preset": preset, "split": split, **facts}
    fitted = _fitted(validation, logits, config, known, combination)
    draft = write_draft(root, networks, fitted, config, designs, validation, cut)
    bundle = add_known_answers(draft, count=config.known_answers)
    results = evaluate(bundle, samples, canvases, config)
    bundle = add_figures(bundle, key_metrics(results), model_card(bundle.manifest, results, unseen))
    size = sum(f.stat().st_size for f in bundle.root.rglob("*") if f.is_file()) / 1e6
    print(f"{bundle.root}: {size:.1f} MB, {bundle.manifest.combination.strategy}", file=sys.stderr)
    return bundle, results


def _fitted(
    validation: Sequence[Sample],
    logits: npt.NDArray[np.float32],
    config: BundleConfig,
    facts: Mapping[str, Any],
    combination: Combination | None,
) -> Fitted:
    """Combination, temperatures and decision. Findings that no label covers take part in the decision's specificity only."""
    labels = config.labels
    truth = np.array([labels.index(s.record.label) if s.record.label in labels else -1 for s in validation])
    known = truth >= 0
    losses: Mapping[str, float] = {}
    if combination is None:
        patients = [s.group for s, k in zip(validation, known, strict=True) if k]
        combined = choose_combination(logits[known], truth[known], patients, seed=config.seed)
        combination, losses = combined.combination, combined.log_loss
    adult_normal = np.array([s.record.adult and s.record.label == "normal" for s in validation])
    decided = choose_decision(combination, logits, truth, adult_normal, labels)
    chosen = {"images": len(validation), "log_loss_out_of_fold": dict(losses), **asdict(decided)}
    print(f"on validation: {json.dumps(chosen)}", file=sys.stderr)
    return Fitted(
        combination=combination,
        decision=decided.decision,
        lung_box=LUNG_BOX if config.member_spec.region == "lungs" else None,
        provenance={**facts, "validation": chosen},
    )


def _provenance(samples: Sequence[Sample], config: BundleConfig) -> dict[str, Any]:
    return {
        "seed": config.seed,
        "images": images_by_side(samples),
        "licences": "of the sources: mixed, some non-commercial, some unstated",
    }


def images_by_side(samples: Sequence[Sample]) -> dict[str, dict[str, int]]:
    """Side -> "source/label" -> images; in the provenance of every bundle."""
    images = {s: Counter(f"{r.record.source}/{r.record.label}" for r in samples if r.side == s) for s in SIDES}
    return {side: dict(sorted(counts.items())) for side, counts in images.items()}
