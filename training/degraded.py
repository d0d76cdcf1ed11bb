"""Degraded modes for a bundle that has none, or others: a bundle and its run folder in: `python -m training.degraded`.

Validation patients' files go through the deployed path, every subset of the members that lacks one or two is fitted on them, test
patients show what they do, and manifest and model card of the bundle get both. Networks, combination, threshold, budget and
version stay as they are. A new training does the same by itself, unless its configuration has `degraded = false`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cxr_edge.bundle import PACKAGED, STARTER, Bundle, file_ref, write_bundle
from cxr_edge.bundle.manifest import Manifest
from cxr_edge.calibration import Promise
from cxr_edge.errors import CxrEdgeError, InputError
from cxr_edge.names import not_empty, path_argument
from cxr_edge.specs.degraded import MOST_MEMBERS, DegradedMode
from training.bundles.card_sections import with_section
from training.bundles.degraded import FittedFindings, FittedLabels, known_images, modes_of_findings, modes_of_labels
from training.data.dataset import Sample, data_folder, load
from training.data.finding_counts import truth_of
from training.evaluation.degraded import (
    DegradedResults,
    ModeRow,
    deployed_logits,
    finding_rows,
    label_rows,
    results_page,
    results_section,
)
from training.evaluation.metrics import Bootstrap
from training.evaluation.results import BundleName
from training.json_records import as_stored, write_json
from training.recipes.arguments import add_run_arguments
from training.recipes.config import Config, load_config
from training.shared_files import write_text

__all__ = ["add_modes", "main"]

Logits = npt.NDArray[np.float32]


def main(arguments: Sequence[str] | None = None) -> int:
    """Add the modes and print their section of the card. Returns 0, or 2 for invalid inputs."""
    parser = argparse.ArgumentParser(prog="python -m training.degraded", description=__doc__)
    add_run_arguments(parser, config="training/configs/starter.toml")
    parser.add_argument(
        "--bundle",
        type=not_empty,
        required=True,
        help="folder of the bundle, which is changed; `starter`: the packaged one",
    )
    parser.add_argument("--out", type=path_argument, help="also a page and its JSON, without suffix")
    args = parser.parse_args(arguments)
    try:
        config = load_config(args.config)
        samples = load(data_folder(args.data), args.run / "table.csv")
        root = PACKAGED if args.bundle == STARTER else Path(args.bundle)
        found = add_modes(Bundle.open(root), samples, config)
        print("\n\n".join(results_section(found)))
        if args.out is not None:
            write_json(args.out.with_suffix(".json"), found)
            write_text(args.out.with_suffix(".md"), results_page(found))
    except CxrEdgeError as error:
        print(f"training.degraded: {error}", file=sys.stderr)
        return 2
    return 0


def add_modes(bundle: Bundle, samples: Sequence[Sample], config: Config) -> DegradedResults:
    """Write the modes into manifest and model card of `bundle`. Returns their figures on both sides.

    samples: of the run that made the bundle, with its sides. Raises InputError for a configuration of other labels, another
    guarded label, and one member or too many.
    """
    manifest = bundle.manifest
    _check(manifest, config)
    sides = {side: _side(samples, side, config) for side in ("validation", "test")}
    logits = {side: deployed_logits(bundle, own, threads=config.threads) for side, own in sides.items()}
    manifest = replace(manifest, degraded=_modes(manifest, sides["validation"], logits["validation"], config))
    found = DegradedResults(
        bundle=BundleName(name=manifest.name, version=manifest.version, manifest_sha256=bundle.digest),
        guard=config.guard,
        seed=config.seed,
        resamples=config.resamples,
        sides={side: _rows(manifest, own, logits[side], config) for side, own in sides.items()},
    )
    found = as_stored(found)
    card = bundle.root / manifest.model_card.path
    section = "\n\n".join(results_section(found))
    write_text(card, with_section(card.read_text(encoding="utf-8"), section, before="## Limits"))
    write_bundle(bundle.root, replace(manifest, model_card=file_ref(bundle.root, manifest.model_card.path)))
    return found


def _check(manifest: Manifest, config: Config) -> None:
    if manifest.labels != config.labels or manifest.multi_label != config.multi_label:
        raise InputError(
            f"the configuration has the labels {', '.join(config.labels)}, the bundle {', '.join(manifest.labels)}: give the "
            "configuration and the run folder that made the bundle"
        )
    if not 1 < len(manifest.members) <= MOST_MEMBERS:
        raise InputError(
            f"degraded modes are for 2 to {MOST_MEMBERS} members, the bundle has {len(manifest.members)}: leave it as it is"
        )
    limited = set() if manifest.multi_label else set(manifest.decision.thresholds)
    if not limited <= {config.guard}:
        raise InputError(
            f"the bundle has thresholds of {', '.join(sorted(limited))}, the configuration guards {config.guard}: give the "
            "configuration that made the bundle"
        )


def _side(samples: Sequence[Sample], side: str, config: Config) -> list[Sample]:
    own = [s for s in samples if s.side == side and (not config.multi_label or config.target.is_evaluated(s.record))]
    if not own:
        raise InputError(f"the run has no images on the {side} side: give the run folder that made the bundle")
    return own


def _modes(manifest: Manifest, samples: Sequence[Sample], logits: Logits, config: Config) -> tuple[DegradedMode, ...]:
    members = tuple(m.name for m in manifest.members)
    if manifest.multi_label:
        return modes_of_findings(
            FittedFindings(
                members=members,
                labels=manifest.labels,
                logits=logits,
                truth=truth_of([s.record for s in samples], config.labels),
                combination=manifest.combination,
                decision=manifest.decision,
                specificity=config.thresholds.specificity,
                seed=config.seed,
            )
        )
    budget = manifest.budget
    promise = None
    if budget is not None:
        promise = Promise(max_wrong=budget.max_wrong, confidence=budget.confidence, coverage=budget.coverage)
    return modes_of_labels(
        FittedLabels(
            members=members,
            images=known_images(samples, logits, config.target),
            combination=manifest.combination,
            decision=manifest.decision,
            budget=budget,
            promise=promise,
            guard=config.guard,
            groups={} if config.guarded is None else config.guarded.group_masks([s.record for s in samples]),
            seed=config.seed,
        )
    )


def _rows(manifest: Manifest, samples: Sequence[Sample], logits: Logits, config: Config) -> tuple[ModeRow, ...]:
    draws = Bootstrap.of(config)
    if manifest.multi_label:
        truth = truth_of([s.record for s in samples], config.labels)
        patients = np.array([s.group for s in samples], dtype=np.str_)
        return finding_rows(manifest, logits, truth, patients, draws)
    return label_rows(manifest, known_images(samples, logits, config.target), config.guard, draws)


if __name__ == "__main__":
    sys.exit(main())
