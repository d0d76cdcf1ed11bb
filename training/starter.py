"""Starter recipe: a data folder in, a bundle out, in resumable stages: `python -m training.starter`.

segment: split, train and export the lung segmenter. canvases: cut every image by the deployed lung box. members: train
and export the classifiers. bundle: combine and calibrate on validation patients, evaluate on test patients, write the bundle.
All outputs of a stage are in the run folder; deleting them makes the stage run again.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from cxr_edge.bundle import ENGINES_DIR, PACKAGED, Bundle
from cxr_edge.errors import CxrEdgeError, InputError
from cxr_edge.names import path_argument
from training.data.dataset import Sample, data_folder, load
from training.recipes.arguments import add_floor_argument, add_run_arguments
from training.recipes.checker.attach import attach_checker
from training.recipes.config import load_config
from training.recipes.members import StarterRun, assemble_members, export_members
from training.recipes.segmenter import segment
from training.shared_files import atomic_write, exclusive_lock

__all__ = ["STAGES", "FinishedRun", "StarterRun", "main"]


class FinishedRun(StarterRun):
    """Run folder with a split and canvases, used with another configuration."""

    @cached_property
    def samples(self) -> list[Sample]:
        return load(self.data, self.out / "table.csv")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the selected stages. Returns the exit status: 0, or 2 for invalid data or an invalid configuration."""
    args = _parser().parse_args(arguments)
    try:
        run = StarterRun(load_config(args.config), data_folder(args.data), args.out)
        run.below_floor = args.below_floor
        run.check_tasks()
        if args.member is not None:
            _one_member(run, args.member)
            return 0
        for stage in STAGES if args.stage is None else (args.stage,):
            print(f"stage {stage}", file=sys.stderr, flush=True)
            with exclusive_lock(args.out / stage):
                STAGES[stage](run)
        if args.checker is not None and args.stage in (None, "bundle"):
            attach_checker(args.out / "bundle", args.checker, version=run.config.version)
        if args.install:
            _install(args.out / "bundle", PACKAGED)
    except CxrEdgeError as error:
        print(f"training.starter: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.starter", description=__doc__)
    add_run_arguments(parser, config="training/configs/starter.toml", run=("--out", "runs/starter"))
    parser.add_argument("--stage", choices=tuple(STAGES), help="one stage only; default: all, in order")
    parser.add_argument(
        "--member", metavar="NAME", help="train this member and end: several processes share the work, with threads = 1"
    )
    add_floor_argument(parser)
    parser.add_argument(
        "--checker",
        type=path_argument,
        metavar="RUN",
        help="finished run of training.checker, for the bundle's refusals",
    )
    parser.add_argument("--install", action="store_true", help="install the bundle as cxr_edge's packaged starter")
    return parser


def _canvases(run: StarterRun) -> None:
    _ = run.canvases


def _one_member(run: StarterRun, name: str) -> None:
    if name not in run.config.members:
        raise InputError(f"no member is called {name}: the configuration has {', '.join(run.config.members)}")
    segment(run)
    _canvases(run)
    run.train_member(name)


def _bundle(run: StarterRun) -> None:
    assemble_members(run)


def _install(bundle: Path, target: Path) -> None:
    """Replace the packaged starter by the finished bundle."""
    with atomic_write(target) as beside:
        shutil.copytree(bundle, beside, ignore=shutil.ignore_patterns(ENGINES_DIR, ".*"))
        Bundle.open(beside)


STAGES: Mapping[str, Callable[[StarterRun], None]] = {
    "segment": segment,
    "canvases": _canvases,
    "members": export_members,
    "bundle": _bundle,
}

if __name__ == "__main__":
    sys.exit(main())
