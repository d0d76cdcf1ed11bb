"""Shortcut probe of a finished run: a run folder in, JSON and Markdown out: `python -m training.probe`.

Measures how well cheap features (size, compression, view, sharpness, border, corner letters, histogram) predict label and source:
of the images as published, of the canvases that the run cut, and of canvases that its training would draw. Trains no network.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from torch import nn

from cxr_edge.errors import CxrEdgeError, InputError
from training.data.augment import Gray
from training.data.dataset import data_folder
from training.evaluation.metrics import Bootstrap
from training.evaluation.probe import LEAST_IMAGES, Probe, Stages, overview, probe, probe_as_markdown, questions
from training.evaluation.probe_features import canvas_features, published_features
from training.json_records import write_json
from training.loop.plan import Plan
from training.recipes.arguments import add_out_argument, add_run_arguments
from training.recipes.config import load_config
from training.recipes.run import Run
from training.recipes.sites import SitesRun, load_sites
from training.shared_files import write_text
from training.starter import FinishedRun
from training.toml_tables import read_toml

__all__ = ["main", "probe_run"]


def probe_run(run: Run, *, least_images: int = LEAST_IMAGES) -> Probe:
    """Return the probe of a run's images. least_images: of a class.

    Raises InputError for missing canvases, canvases of another configuration, and images that cannot be read (all are named).
    """
    config, samples = run.config, run.samples
    _check_canvases(run)
    questions(samples, config.guard, least_images=least_images)  # before minutes of decoding
    views = [s.record.view for s in samples]
    stages = Stages(
        before=published_features(samples, threads=config.threads),
        canvases=canvas_features(run.canvases.lungs, views),
        augmented=canvas_features(_augmented(run), views),
    )
    return probe(
        samples,
        stages,
        Bootstrap.of(config),
        guard=config.guard,
        configuration=config.name,
        preset=config.preset,
        least_images=least_images,
    )


def _check_canvases(run: Run) -> None:
    file, side_px = run.out / "canvases.npz", run.config.canvas_px
    if not file.exists():
        raise InputError(f"there is no {file}: run `python -m training.starter`, or name the folder of its run")
    expected, actual = (len(run.samples), side_px, side_px), run.canvases.lungs.shape
    if actual != expected:
        raise InputError(
            f"{file} holds canvases {actual}, expected {expected} (images, canvas_px, canvas_px): give the configuration "
            "of the run with --config, or delete the file and run the stage canvases again"
        )


def _augmented(run: Run) -> Iterator[Gray]:
    """Yield one canvas of each image as training draws it, always the same."""
    task = run.task(nn.Identity(), run.config.target, Plan(epochs=1))
    for i in range(len(run.samples)):
        yield task.augmented(i, np.random.default_rng([run.config.seed, i]))


def _open(config: Path, data: Path, out: Path) -> Run:
    """Return the run of a starter's configuration, or of one of `training.sites`."""
    if "folds" in read_toml(config):
        return SitesRun(load_sites(config), data, out)
    return FinishedRun(load_config(config), data, out)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `python -m training.probe`. Returns 0, or 2 for invalid inputs."""
    parser = argparse.ArgumentParser(prog="python -m training.probe", description=__doc__)
    add_run_arguments(parser, config="training/configs/starter.toml")
    add_out_argument(parser, "docs/results/probe")
    shown = "images that a label or source needs to be predicted (%(default)s)"
    parser.add_argument("--least-images", type=int, default=LEAST_IMAGES, help=shown)
    args = parser.parse_args(arguments)
    try:
        run = _open(args.config, data_folder(args.data), args.run)
        found = probe_run(run, least_images=args.least_images)
    except CxrEdgeError as error:
        print(f"training.probe: {error}", file=sys.stderr)
        return 2
    write_json(args.out.with_suffix(".json"), found)
    write_text(args.out.with_suffix(".md"), probe_as_markdown(found))
    print(overview(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
