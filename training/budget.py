"""Error budget for a bundle that has none, or another one: a bundle and its run folder in: `python -m training.budget`.

Validation patients' files go through the deployed path, the limits are fitted on them, test patients show what they do, and the
manifest and the model card of the bundle get both. Networks, combination, threshold and version stay as they are; degraded modes,
whose budgets are of another promise, are left out. A new training with `budget` in its configuration does the same by itself.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cxr_edge.bundle import PACKAGED, STARTER, Bundle, file_ref, write_bundle
from cxr_edge.calibration import Promise
from cxr_edge.engines import reference
from cxr_edge.errors import CxrEdgeError, InputError
from cxr_edge.names import not_empty
from cxr_edge.screening.screener import Screener
from training.bundles.budget import NOT_SHOWN, bundle_budget
from training.bundles.card_sections import with_section, without_section
from training.data.dataset import Sample, data_folder, load
from training.evaluation.budget import budget_section
from training.evaluation.bundle import Screened, budget_of, labelled, screen_samples
from training.evaluation.degraded import HEADING
from training.json_records import as_stored
from training.recipes.arguments import add_run_arguments
from training.recipes.config import Config, load_config
from training.shared_files import write_text

__all__ = ["add_budget", "main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Add the budget and print its section of the card. Returns 0, or 2 for invalid inputs."""
    parser = argparse.ArgumentParser(prog="python -m training.budget", description=__doc__)
    add_run_arguments(parser, config="training/configs/starter.toml")
    parser.add_argument(
        "--bundle",
        type=not_empty,
        required=True,
        help="folder of the bundle, which is changed; `starter`: the packaged one",
    )
    args = parser.parse_args(arguments)
    try:
        config = load_config(args.config)
        samples = load(data_folder(args.data), args.run / "table.csv")
        root = PACKAGED if args.bundle == STARTER else Path(args.bundle)
        print(add_budget(Bundle.open(root), samples, config))
    except CxrEdgeError as error:
        print(f"training.budget: {error}", file=sys.stderr)
        return 2
    return 0


def add_budget(bundle: Bundle, samples: Sequence[Sample], config: Config) -> str:
    """Write the budget into manifest and model card of `bundle`. Returns the section of the card.

    samples: of the run that made the bundle, with its sides. Raises InputError for a configuration of other labels.
    """
    manifest = bundle.manifest
    if manifest.multi_label or manifest.labels != config.labels:
        raise InputError(
            f"the configuration has the labels {', '.join(config.labels)}, the bundle {', '.join(manifest.labels)}, and "
            "a budget is "
            "of labels that exclude each other: give the configuration and the run folder that made the bundle"
        )
    screened = {side: _screened(bundle, samples, side, config.threads) for side in ("validation", "test")}
    target = config.target_of(manifest.labels)
    cases, _ = labelled(screened["validation"], manifest.labels, target)
    promise = config.budget or Promise()
    budget = bundle_budget(cases, manifest.decision, promise, own_patients=False, seed=config.seed)
    if budget is None:
        raise InputError(
            f"{NOT_SHOWN.format(promise.max_wrong)}: set a larger max_wrong (budget), or leave the bundle as it is"
        )
    if manifest.degraded:
        print("the degraded modes are left out: fit them again by python -m training.degraded", file=sys.stderr)
    manifest = replace(manifest, budget=budget, degraded=())
    found = budget_of(screened["test"], manifest, target, seed=config.seed)
    section = "\n\n".join(budget_section(as_stored(found)))
    card = bundle.root / manifest.model_card.path
    without_modes = without_section(card.read_text(encoding="utf-8"), HEADING)
    write_text(card, with_section(without_modes, section, before="## Limits"))
    write_bundle(bundle.root, replace(manifest, model_card=file_ref(bundle.root, manifest.model_card.path)))
    return section


def _screened(bundle: Bundle, samples: Sequence[Sample], side: str, threads: int) -> Screened:
    own = [s for s in samples if s.side == side]
    if not own:
        raise InputError(f"the run has no images on the {side} side: give the run folder that made the bundle")
    return screen_samples(Screener(bundle, reference(bundle, threads=1), whole=True), own, threads=threads)


if __name__ == "__main__":
    sys.exit(main())
