"""The papers' pipelines by one command each: `python -m training.reproduce r20 --config training/configs/r20-small.toml`.

From the data folder to tables, figures and a bundle that `cxr-edge build-engine` compiles. A run that was stopped goes on
where it was; under torchrun the training is shared by all processes. `--seeds 1 2 3` trains all of it with each seed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from cxr_edge.errors import CxrEdgeError, InputError
from training import seeds
from training.data.dataset import data_folder
from training.parallel import everywhere, wait, world
from training.recipes.config import RunConfig
from training.recipes.flannel import finish as flannel_finish
from training.recipes.flannel import stages as flannel_stages
from training.recipes.flannel.config import FlannelConfig, load_flannel
from training.recipes.flannel.run import FlannelRun
from training.recipes.r20 import finish as r20_finish
from training.recipes.r20 import stages as r20_stages
from training.recipes.r20.config import R20Config, load_r20
from training.recipes.r20.run import R20Run
from training.recipes.run import Run
from training.recipes.seed_runs import SEEDS_BELOW, is_finished, note_finished, seed_folder, share_split, with_seed
from training.recipes.segmenter import take_segmenter
from training.shared_files import one_at_a_time

__all__ = ["main"]

R20_STAGES = (*r20_stages.STAGES, *r20_finish.STAGES)
FLANNEL_STAGES = (*flannel_stages.STAGES, *flannel_finish.STAGES)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stages asked for. Returns the exit status: 0, or 2 for data or a configuration that cannot be used."""
    args = _parser().parse_args(arguments)
    try:
        _reproduce(args)
    except CxrEdgeError as error:
        print(f"training.reproduce: {error}", file=sys.stderr)
        return 2
    return 0


def _reproduce(args: argparse.Namespace) -> None:
    """The run, or one for each seed."""
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
    if world().first and (_is_whole(args) or args.stage == "tables"):
        page = seeds.write_page(seeds.gathered(args.paper, config, args.seeds, out, results), results)
        print(f"wrote {page}", file=sys.stderr)
    wait(world())


def _run_seed(config: RunConfig, args: argparse.Namespace, out: Path, results: Path, seed: int) -> None:
    """The run of a seed, in folders of its own; passed over where it has come to its end."""
    here, own, folder = world(), with_seed(config, seed), seed_folder(seed)
    if here.first:
        print(f"seed {seed}", file=sys.stderr, flush=True)
        share_split(out / seed_folder(args.seeds[0]), out / folder)
    is_done = _is_whole(args) and is_finished(own, out / folder, results / folder)
    if everywhere({"is done": float(is_done)}, here)["is done"]:
        return
    _run(own, args, out / folder, results / folder)
    if here.first and _is_whole(args):
        note_finished(own, out / folder)
    wait(here)


def _is_whole(args: argparse.Namespace) -> bool:
    """Whether all stages are asked for, of all folds."""
    return args.stage is None and args.fold is None


def _run(config: RunConfig, args: argparse.Namespace, out: Path, results: Path) -> None:
    if isinstance(config, R20Config):
        _r20(R20Run(config, data_folder(args.data), out), args, results)
    elif isinstance(config, FlannelConfig):
        _flannel(FlannelRun(config, data_folder(args.data), out), args, results)


def _r20(run: R20Run, args: argparse.Namespace, results: Path) -> None:
    trains = {name: lambda stage=stage: stage(run) for name, stage in r20_stages.STAGES.items()}
    writes = {name: lambda stage=stage: stage(run, results) for name, stage in r20_finish.STAGES.items()}
    _staged(run, args, trains, writes)


def _flannel(run: FlannelRun, args: argparse.Namespace, results: Path) -> None:
    folds = run.config.folds
    if args.fold is not None and not 0 <= args.fold < folds:
        raise InputError(f"--fold is 0 to {folds - 1}, got {args.fold}")
    chosen = range(folds) if args.fold is None else (args.fold,)
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
    r20.set_defaults(fold=None)
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
        "--seeds", type=_seed, nargs="+", metavar="S",
        help="train with each of these seeds on the same split, in seed-S of both folders; tables get mean and spread",
    )  # fmt: skip
    paper.add_argument(
        "--segmenter-of", type=Path, metavar="RUN", help="take the segmenter of a run with the same split"
    )


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= SEEDS_BELOW:
        raise argparse.ArgumentTypeError(
            f"expected whole numbers from 0 to {SEEDS_BELOW - 1}, such as --seeds 1 2 3; got {text!r}"
        )
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
