"""The papers' pipelines by one command each: `python -m training.reproduce r20 --config training/configs/r20-small.toml`.

From the data folder to tables, figures and a bundle that `cxr-edge build-engine` compiles. A run that was stopped goes on
where it was; under torchrun the training is shared by all processes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from cxr_edge.errors import CxrEdgeError, InputError
from training.dataset import data_folder
from training.flannel import finish as flannel_finish
from training.flannel import stages as flannel_stages
from training.flannel.config import load_flannel
from training.flannel.run import FlannelRun
from training.parallel import wait, world
from training.r20 import finish as r20_finish
from training.r20 import stages as r20_stages
from training.r20.config import load_r20
from training.r20.run import R20Run
from training.run import Run
from training.segmenting import take_segmenter
from training.shared_files import one_at_a_time

__all__ = ["main"]

R20_STAGES = (*r20_stages.STAGES, *r20_finish.STAGES)
FLANNEL_STAGES = (*flannel_stages.STAGES, *flannel_finish.STAGES)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stages asked for. Returns the exit status: 0, or 2 for data or a configuration that cannot be used."""
    args = _parser().parse_args(arguments)
    try:
        (_r20 if args.paper == "r20" else _flannel)(args)
    except CxrEdgeError as error:
        print(f"training.reproduce: {error}", file=sys.stderr)
        return 2
    return 0


def _r20(args: argparse.Namespace) -> None:
    config = load_r20(args.config)
    run = R20Run(config, data_folder(args.data), args.out or Path("runs") / config.name)
    results = args.results or Path("docs/results") / config.name
    trains = {name: lambda stage=stage: stage(run) for name, stage in r20_stages.STAGES.items()}
    writes = {name: lambda stage=stage: stage(run, results) for name, stage in r20_finish.STAGES.items()}
    _staged(run, args, trains, writes)


def _flannel(args: argparse.Namespace) -> None:
    config = load_flannel(args.config)
    run = FlannelRun(config, data_folder(args.data), args.out or Path("runs") / config.name)
    results = args.results or Path("docs/results") / config.name
    if args.fold is not None and not 0 <= args.fold < config.folds:
        raise InputError(f"--fold is 0 to {config.folds - 1}, got {args.fold}")
    chosen = range(config.folds) if args.fold is None else (args.fold,)
    trains = {name: lambda stage=stage: stage(run, chosen) for name, stage in flannel_stages.STAGES.items()}
    writes = {name: lambda stage=stage: stage(run, results) for name, stage in flannel_finish.STAGES.items()}
    _staged(run, args, trains, writes if args.fold is None or args.stage else {})


Stage = Callable[[], None]


def _staged(run: Run, args: argparse.Namespace, trains: dict[str, Stage], writes: dict[str, Stage]) -> None:
    """The stage asked for, or all in order. trains: shared by all processes. writes: done by the first alone."""
    here = world()
    images = len(run.samples)
    if here.first:
        print(f"{images} images; leakage report: {run.out / 'leakage.md'}", file=sys.stderr, flush=True)
        if args.segmenter_of is not None:
            take_segmenter(run, args.segmenter_of)
    wait(here)
    run.check_tasks()
    for stage in (*trains, *writes) if args.stage is None else (args.stage,):
        if here.first:
            print(f"stage {stage}", file=sys.stderr, flush=True)
        if stage in trains:
            trains[stage]()
        elif here.first:
            with one_at_a_time(run.out / stage):
                writes[stage]()
    wait(here)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.reproduce", description=__doc__)
    papers = parser.add_subparsers(dest="paper", required=True)
    r20 = papers.add_parser("r20", help="iteratively pruned ensembles (Rajaraman et al. 2020)")
    _add_common(r20, R20_STAGES)
    flannel = papers.add_parser("flannel", help="neural weight module and focal loss (Qiao et al. 2020)")
    _add_common(flannel, FLANNEL_STAGES)
    flannel.add_argument(
        "--fold", type=int, metavar="K", help="train this fold's networks only, as on one of several machines"
    )
    return parser


def _add_common(paper: argparse.ArgumentParser, stages: Sequence[str]) -> None:
    paper.add_argument("--config", type=Path, required=True, help="TOML of training/configs, such as r20-cpu.toml")
    paper.add_argument("--data", type=Path, help="folder of the collections; default: CXR_EDGE_DATA")
    paper.add_argument("--out", type=Path, help="run folder; default: runs/NAME")
    paper.add_argument("--results", type=Path, help="folder of tables and figures; default: docs/results/NAME")
    paper.add_argument("--stage", choices=stages, help="one stage only; default: all, in order")
    paper.add_argument(
        "--segmenter-of", type=Path, metavar="RUN", help="take the segmenter of a run with the same split"
    )


if __name__ == "__main__":
    sys.exit(main())
