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
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from cxr_edge.bundle import ENGINES_DIR, PACKAGED, Bundle
from cxr_edge.errors import CxrEdgeError, InputError
from training.bundles.assemble import assemble
from training.data.dataset import Sample, data_folder, load
from training.json_records import write_json
from training.models import ARCHITECTURES, load_network
from training.pruning.prune import export_network
from training.recipes.arguments import add_run_arguments
from training.recipes.config import Config, StagedMember, load_config
from training.recipes.run import Run
from training.recipes.segmenter import segment
from training.recipes.staged import train_stages
from training.shared_files import atomic_write, exclusive_lock

__all__ = ["STAGES", "FinishedRun", "StarterRun", "main"]


class StarterRun(Run):
    """Run of the starter's recipe."""

    config: Config

    def train_member(self, name: str) -> Path:
        """Train a member through its stages. Returns the folder of its last network."""
        target = self.config.target
        return train_stages(self, self.config.members[name], target, self.out / name, self.evaluated_rows(target))


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
        run.check_tasks()
        if args.member is not None:
            _one_member(run, args.member)
            return 0
        for stage in STAGES if args.stage is None else (args.stage,):
            print(f"stage {stage}", file=sys.stderr, flush=True)
            with exclusive_lock(args.out / stage):
                STAGES[stage](run)
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


def _members(run: StarterRun) -> None:
    for name in run.config.members:
        network, spec = load_network(run.train_member(name))
        file = run.out / f"{name}.onnx"
        difference = export_network(network, spec, run.config.member_spec, file)
        print(f"{file.name}: relative difference to torch at most {difference:.1e}", file=sys.stderr)


def _bundle(run: StarterRun) -> None:
    config = run.config
    plans = {name: asdict(member) for name, member in config.members.items()}
    if config.segmenter_of is None:
        plans = {"segmenter": asdict(config.segmenter), **plans}
    results = assemble(
        run.out / "bundle",
        run.out,
        {name: _design(member) for name, member in config.members.items()},
        run.samples,
        run.canvases,
        config,
        {
            "made_by": "training/starter.py",
            "training": plans,
            **_segmenter_facts(config.segmenter_of),
        },
    )
    write_json(run.out / "results.json", results)


def _segmenter_facts(name: str | None) -> dict[str, Any]:
    """Return the bundle that trained the segmenter, with its Dice, for the provenance; nothing for a segmenter of this run."""
    if name is None:
        return {}
    manifest = Bundle.open(name).manifest
    own = {"bundle": f"{manifest.name} {manifest.version}", "lung_dice": manifest.metrics.get("lung_dice")}
    return {"segmenter_of": manifest.provenance.get("segmenter_of", own)}


def _design(member: StagedMember) -> str:
    """Return a member's network and stages in words, for the model card."""
    network = ARCHITECTURES.get(member.architecture)
    words = [member.architecture if network is None else (network.__doc__ or member.architecture).splitlines()[0]]
    stages = {
        "ImageNet weights": member.imagenet,
        "trained on normal against abnormal first": member.modality,
        "pruned by APoZ": member.prune,
    }
    return "; ".join(words + [stage for stage, plan in stages.items() if plan is not None])


def _install(bundle: Path, target: Path) -> None:
    """Replace the packaged starter by the finished bundle."""
    with atomic_write(target) as beside:
        shutil.copytree(bundle, beside, ignore=shutil.ignore_patterns(ENGINES_DIR, ".*"))
        Bundle.open(beside)


STAGES: Mapping[str, Callable[[StarterRun], None]] = {
    "segment": segment,
    "canvases": _canvases,
    "members": _members,
    "bundle": _bundle,
}

if __name__ == "__main__":
    sys.exit(main())
