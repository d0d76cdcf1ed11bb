"""Starter recipe: a data folder in, a bundle out, in resumable stages: `python -m training.starter`.

segment: split, train and export the lung segmenter. canvases: cut every image by the deployed lung box. members: train
and export the classifiers. bundle: combine and calibrate on validation patients, evaluate on test patients, write the bundle.
All outputs of a stage are in the run folder; deleting them makes the stage run again.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

from torch import nn

from cxr_edge.bundle import ENGINES_DIR, PACKAGED, Bundle
from cxr_edge.errors import CxrEdgeError
from training.bundles.assemble import assemble
from training.data.dataset import Sample, data_folder
from training.data.targets import Target
from training.evaluation.results import UnseenSite
from training.json_records import read_json, write_json
from training.models import ARCHITECTURES, NetworkSpec
from training.pruning.prune import export_network
from training.recipes.arguments import add_run_arguments
from training.recipes.config import Config, load_config
from training.recipes.run import Run
from training.recipes.segmenter import segment
from training.shared_files import atomic_write, exclusive_lock
from training.tasks.classify import ClassifyTask

__all__ = ["STAGES", "UNSEEN_FILE", "StarterRun", "main"]

UNSEEN_FILE = "unseen-site.json"  # in the run folder: results of `training.unseen`, for the model card


class StarterRun(Run):
    """Run of the starter's recipe."""

    config: Config

    def tasks(self) -> Iterator[tuple[str, Target, list[Sample]]]:
        yield "members", self.config.target, self.samples_of(self.sources)

    @cached_property
    def sources(self) -> tuple[str, ...]:
        """Sources that members train and validate on."""
        return tuple(sorted({s.record.source for s in self.samples} - set(self.config.left_out)))

    def spec(self, name: str) -> NetworkSpec:
        """Return the spec of a member."""
        return NetworkSpec(architecture=name, labels=len(self.config.labels))

    def train_member(self, name: str, folder: Path) -> nn.Module:
        """Load the member of `folder`, or train it and save it with its predictions."""
        target, plan, spec = self.config.target, self.config.members[name], self.spec(name)

        def task() -> ClassifyTask:
            return self.task(self.init_network(spec, None, plan.seed), target, plan, self.sources)

        return self.train_or_load(task, spec, plan, folder, self.evaluated_rows(target, self.sources))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the selected stages. Returns the exit status: 0, or 2 for invalid data or an invalid configuration."""
    args = _parser().parse_args(arguments)
    try:
        run = StarterRun(load_config(args.config), data_folder(args.data), args.out)
        run.check_tasks()
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
    parser.add_argument("--install", action="store_true", help="install the bundle as cxr_edge's packaged starter")
    return parser


def _canvases(run: StarterRun) -> None:
    _ = run.canvases


def _members(run: StarterRun) -> None:
    for name in run.config.members:
        network, file = run.train_member(name, run.out / name), run.out / f"{name}.onnx"
        difference = export_network(network, run.spec(name), run.config.member_spec, file)
        print(f"{file.name}: relative difference to torch at most {difference:.1e}", file=sys.stderr)


def _bundle(run: StarterRun) -> None:
    config, unseen = run.config, run.out / UNSEEN_FILE
    plans = {"segmenter": config.segmenter, **config.members}
    results = assemble(
        run.out / "bundle",
        run.out,
        {name: (ARCHITECTURES[name].__doc__ or name).splitlines()[0] for name in config.members},
        run.samples,
        run.canvases,
        config,
        {"made_by": "training/starter.py", "training": {name: asdict(plan) for name, plan in plans.items()}},
        unseen=read_json(UnseenSite, unseen) if unseen.exists() else None,
    )
    write_json(run.out / "results.json", results)


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
