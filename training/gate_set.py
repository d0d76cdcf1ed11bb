"""Gate set of a bundle, which `build-engine` compares engines on: `python -m training.gate_set --bundle BUNDLE` attaches it.

Without `--images` it is a surrogate of the run's training images (`--run`), which holds no patient's image; with it, real images
of a folder, which then travel in the bundle: only such as may be passed on, with their licence and attribution. Sub-folders named
like the labels give their labels. To be run again when the bundle's networks, combination or decision have changed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from cxr_edge.bundle import Bundle
from cxr_edge.bundle.manifest import GateSet
from cxr_edge.errors import CxrEdgeError, InputError
from cxr_edge.names import not_empty, path_argument
from training.bundles.gate_set import attach_real_images, attach_surrogate
from training.bundles.surrogate_model import SurrogateSettings
from training.data.dataset import data_folder
from training.data.gate_images import GateImages
from training.recipes.arguments import add_run_arguments
from training.recipes.config import load_config
from training.recipes.members import StarterRun

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Attach the gate set. Returns 0, or 2 for invalid inputs."""
    args = _parser().parse_args(arguments)
    try:
        bundle = Bundle.open(args.bundle)
        changed = _real(bundle, args) if args.images is not None else _surrogate(bundle, args)
    except CxrEdgeError as error:
        print(f"training.gate_set: {error}", file=sys.stderr)
        return 2
    made = changed.manifest.gate_set
    assert made is not None  # it was just attached
    print(f"{bundle.root}: {_summary(changed, made)}", file=sys.stderr)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.gate_set", description=__doc__)
    add_run_arguments(parser, config="training/configs/starter.toml", run=("--run", "runs/starter"))
    parser.add_argument(
        "--bundle", type=not_empty, default="starter", help="folder of the bundle, or the word starter (%(default)s)"
    )
    parser.add_argument("--count", type=int, default=200, help="images of the set (%(default)s)")
    parser.add_argument("--images", type=path_argument, metavar="FOLDER", help="real images that may travel")
    parser.add_argument("--licence", default="", help="terms under which --images may be passed on")
    parser.add_argument("--attribution", default="", help="whom --images are of")
    return parser


def _real(bundle: Bundle, args: argparse.Namespace) -> Bundle:
    request = GateImages(folder=str(args.images), licence=args.licence, attribution=args.attribution, images=args.count)
    return attach_real_images(bundle, request)


def _surrogate(bundle: Bundle, args: argparse.Namespace) -> Bundle:
    if args.licence or args.attribution:
        raise InputError("--licence and --attribution go with --images: a surrogate is nobody's image")
    config = load_config(args.config)
    samples = StarterRun(config, data_folder(args.data), args.run).samples
    settings = SurrogateSettings(seed=config.seed)
    return attach_surrogate(
        bundle, samples, config.target, settings=settings, images=args.count, threads=config.threads
    )


def _summary(bundle: Bundle, made: GateSet) -> str:
    size = bundle.file(made.file).stat().st_size / 1e3
    counts = ", ".join(f"{label} {count}" for label, count in made.counts.items())
    return f"gate set of {made.images} images ({made.kind}; {counts}), {size:.0f} kB"


if __name__ == "__main__":
    sys.exit(main())
