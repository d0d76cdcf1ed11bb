"""The papers' pipelines: a configuration and a data folder in; tables, figures and a bundle for `cxr-edge build-engine` out.

`python -m training.reproduce r20 --config training/configs/r20-small.toml`. A stopped run resumes; under torchrun the training
is distributed over all processes. `--seeds 1 2 3` repeats the full run with each seed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from cxr_edge.errors import CxrEdgeError, InputError
from cxr_edge.names import path_argument
from training import seeds
from training.data.dataset import data_folder
from training.json_records import write_json
from training.parallel import barrier, broadcast, world
from training.recipes.arguments import add_floor_argument, add_run_arguments
from training.recipes.config import RunConfig
from training.recipes.flannel import finish as flannel_finish
from training.recipes.flannel import stages as flannel_stages
from training.recipes.flannel.config import FlannelConfig, load_flannel
from training.recipes.flannel.run import FlannelRun
from training.recipes.page import RESULTS
from training.recipes.r20 import finish as r20_finish
from training.recipes.r20 import stages as r20_stages
from training.recipes.r20.config import R20Config, load_r20
from training.recipes.r20.run import R20Run
from training.recipes.run import Run
from training.recipes.seed_runs import SEEDS_BELOW, is_finished, seed_folder, share_split, with_seed, write_finished
from training.recipes.segmenter import copy_segmenter
from training.shared_files import exclusive_lock

__all__ = ["main"]

R20_STAGES = (*r20_stages.STAGES, *r20_finish.STAGES)
FLANNEL_STAGES = (*flannel_stages.STAGES, *flannel_finish.STAGES)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the selected stages. Returns the exit status: 0, or 2 for invalid data or an invalid configuration."""
    args = _parser().parse_args(arguments)
    try:
        _reproduce(args)
    except CxrEdgeError as error:
        print(f"training.reproduce: {error}", file=sys.stderr)
        return 2
    return 0


def _reproduce(args: argparse.Namespace) -> None:
    """Do one run, or one per seed."""
    config = load_r20(args.config) if args.paper == "r20" else load_flannel(args.config)
    out, results = args.out or Path("runs") / config.name, args.results or Path("docs/results") / config.name
    if args.seeds is None:
        _run(config, args, out, results)
        return
    if len(set(args.seeds)) < len(args.seeds):
        raise InputError(f"--seeds are whole numbers, each once, such as --seeds 1 2 3; got {args.seeds}")
    seeds.check_folder(results)
    for seed in args.seeds:
        _run_seed(config, args, out, results, seed)
    if world().is_main and (_is_full_run(args) or args.stage == "tables"):
        write_json(results / RESULTS, seeds.gather_tables(args.paper, config, args.seeds, out, results))
        print(f"wrote {seeds.write_page(results)}", file=sys.stderr)
    barrier(world())


def _run_seed(config: RunConfig, args: argparse.Namespace, out: Path, results: Path, seed: int) -> None:
    """Do the run of a seed, in its own folders; skip a finished one."""
    process, seeded, folder = world(), with_seed(config, seed), seed_folder(seed)
    if process.is_main:
        print(f"seed {seed}", file=sys.stderr, flush=True)
        share_split(out / seed_folder(args.seeds[0]), out / folder)
    is_done = _is_full_run(args) and is_finished(seeded, out / folder, results / folder)
    if broadcast({"is done": float(is_done)}, process)["is done"]:
        return
    _run(seeded, args, out / folder, results / folder)
    if process.is_main and _is_full_run(args):
        write_finished(seeded, out / folder)
    barrier(process)


def _is_full_run(args: argparse.Namespace) -> bool:
    """Return whether all stages of all folds are selected."""
    return args.stage is None and args.fold is None


def _run(config: RunConfig, args: argparse.Namespace, out: Path, results: Path) -> None:
    if isinstance(config, R20Config):
        _r20(R20Run(config, data_folder(args.data), out), args, results)
    elif isinstance(config, FlannelConfig):
        _flannel(FlannelRun(config, data_folder(args.data), out), args, results)


def _r20(run: R20Run, args: argparse.Namespace, results: Path) -> None:
    training_stages: dict[str, Stage] = {name: partial(stage, run) for name, stage in r20_stages.STAGES.items()}
    report_stages: dict[str, Stage] = {name: partial(stage, run, results) for name, stage in r20_finish.STAGES.items()}
    _run_stages(run, args, training_stages, report_stages)


def _flannel(run: FlannelRun, args: argparse.Namespace, results: Path) -> None:
    folds = run.config.folds
    if args.fold is not None and not 0 <= args.fold < folds:
        raise InputError(f"--fold is 0 to {folds - 1}, got {args.fold}")
    folds_to_run = [run.fold(k) for k in (range(folds) if args.fold is None else (args.fold,))]
    training_stages: dict[str, Stage] = {
        name: partial(stage, run, folds_to_run) for name, stage in flannel_stages.STAGES.items()
    }
    report_stages: dict[str, Stage] = {
        name: partial(stage, run, results) for name, stage in flannel_finish.STAGES.items()
    }
    _run_stages(run, args, training_stages, report_stages if args.fold is None or args.stage else {})


Stage = Callable[[], None]


def _run_stages(
    run: Run, args: argparse.Namespace, training_stages: dict[str, Stage], report_stages: dict[str, Stage]
) -> None:
    """Run the selected stage, or all in order: training stages on all processes, report stages on the main one."""
    process = world()
    run.below_floor = args.below_floor
    images = len(run.samples)
    if process.is_main:
        print(f"{images} images; leakage report: {run.out / 'leakage.md'}", file=sys.stderr, flush=True)
        if args.segmenter_of is not None:
            copy_segmenter(run, args.segmenter_of)
    barrier(process)
    run.check_tasks()
    for stage in (*training_stages, *report_stages) if args.stage is None else (args.stage,):
        if process.is_main:
            print(f"stage {stage}", file=sys.stderr, flush=True)
        if stage in training_stages:
            training_stages[stage]()
        elif process.is_main:
            with exclusive_lock(run.out / stage):
                report_stages[stage]()
    barrier(process)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.reproduce", description=__doc__)
    papers = parser.add_subparsers(dest="paper", required=True)
    r20 = papers.add_parser("r20", help="iteratively pruned ensembles (Rajaraman et al. 2020)")
    _add_common(r20, R20_STAGES)
    r20.set_defaults(fold=None)
    flannel = papers.add_parser("flannel", help="neural weight module and focal loss (Qiao et al. 2020)")
    _add_common(flannel, FLANNEL_STAGES)
    flannel.add_argument(
        "--fold", type=int, metavar="K", help="train the networks of this fold only, for several machines"
    )
    return parser


def _add_common(paper: argparse.ArgumentParser, stages: Sequence[str]) -> None:
    add_run_arguments(paper, config=None, run=("--out", None))
    paper.add_argument("--results", type=path_argument, help="folder of tables and figures; default: docs/results/NAME")
    paper.add_argument("--stage", choices=stages, help="one stage only; default: all, in order")
    paper.add_argument(
        "--seeds", type=_seed, nargs="+", metavar="S",
        help="train with each of these seeds on the same split, in seed-S of both folders; tables have mean and sd",
    )  # fmt: skip
    paper.add_argument(
        "--segmenter-of", type=path_argument, metavar="RUN", help="copy the segmenter of a run with the same split"
    )
    add_floor_argument(paper)


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= SEEDS_BELOW:
        raise argparse.ArgumentTypeError(
            f"expected whole numbers from 0 to {SEEDS_BELOW - 1}, such as --seeds 1 2 3; got {text!r}"
        )
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
