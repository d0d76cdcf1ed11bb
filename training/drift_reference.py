"""Reference exams for a bundle: `python -m training.drift_reference` screens validation patients and attaches their statistics.

The bundle's folder gets `reference.json` and its manifest the key `reference`; nothing else changes. To be run again when the
bundle's networks or its checker have changed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from cxr_edge.bundle import Bundle
from cxr_edge.drift import Reference
from cxr_edge.errors import CxrEdgeError
from cxr_edge.names import not_empty
from training.bundles.reference import attach_validation
from training.data.dataset import data_folder
from training.recipes.arguments import add_run_arguments
from training.recipes.config import load_config
from training.recipes.members import StarterRun

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Attach the reference. Returns 0, or 2 for invalid inputs."""
    parser = argparse.ArgumentParser(prog="python -m training.drift_reference", description=__doc__)
    add_run_arguments(parser, config="training/configs/starter.toml", run=("--run", "runs/starter"))
    parser.add_argument(
        "--bundle", type=not_empty, default="starter", help="folder of the bundle, or the word starter (%(default)s)"
    )
    args = parser.parse_args(arguments)
    try:
        bundle, config = Bundle.open(args.bundle), load_config(args.config)
        samples = StarterRun(config, data_folder(args.data), args.run).samples
        changed = attach_validation(bundle, samples, seed=config.seed, threads=config.threads)
        made = Reference.of_bundle(changed)
    except CxrEdgeError as error:
        print(f"training.drift_reference: {error}", file=sys.stderr)
        return 2
    if made is None:
        return 2
    print(f"{bundle.root}: {made.exams} reference exams, {len(made.statistics)} statistics", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
