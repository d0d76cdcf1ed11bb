"""The papers' pipelines by one command each: `python -m training.reproduce r20 --config training/configs/r20-small.toml`.

From the data folder to tables, figures and a bundle that `cxr-edge build-engine` compiles. A run that was stopped goes on
where it was; under torchrun the training is shared by all processes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cxr_edge.errors import CxrEdgeError
from training.dataset import data_folder
from training.parallel import wait, world
from training.r20 import finish, stages
from training.r20.config import load_r20
from training.r20.run import Run

__all__ = ["main"]

R20_STAGES = (*stages.STAGES, *finish.STAGES)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stages asked for. Returns the exit status: 0, or 2 for data or a configuration that cannot be used."""
    args = _parser().parse_args(arguments)
    try:
        config = load_r20(args.config)
        run = Run(config, data_folder(args.data), args.out or Path("runs") / config.name)
        _r20(run, args.stage, args.segmenter_of, args.results or Path("docs/results") / config.name)
    except CxrEdgeError as error:
        print(f"training.reproduce: {error}", file=sys.stderr)
        return 2
    return 0


def _r20(run: Run, only: str | None, segmenter_of: Path | None, results: Path) -> None:
    here = world()
    images = len(run.samples)
    if here.first:
        print(f"{images} images; leakage report: {run.out / 'leakage.md'}", file=sys.stderr, flush=True)
    if segmenter_of is not None and here.first:
        stages.take_segmenter(run, segmenter_of)
    wait(here)
    for stage in R20_STAGES if only is None else (only,):
        if here.first:
            print(f"stage {stage}", file=sys.stderr, flush=True)
        if stage in stages.STAGES:
            stages.STAGES[stage](run)
        elif here.first:  # what follows trains nothing
            finish.STAGES[stage](run, results)
    wait(here)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.reproduce", description=__doc__)
    papers = parser.add_subparsers(dest="paper", required=True)
    r20 = papers.add_parser("r20", help="iteratively pruned ensembles (Rajaraman et al. 2020)")
    r20.add_argument("--config", type=Path, required=True, help="TOML, such as training/configs/r20-cpu.toml")
    r20.add_argument("--data", type=Path, help="folder of the collections; default: CXR_EDGE_DATA")
    r20.add_argument("--out", type=Path, help="run folder; default: runs/NAME")
    r20.add_argument("--results", type=Path, help="folder of tables and figures; default: docs/results/NAME")
    r20.add_argument("--stage", choices=R20_STAGES, help="one stage only; default: all, in order")
    r20.add_argument("--segmenter-of", type=Path, metavar="RUN", help="take the segmenter of a run with the same split")
    return parser


if __name__ == "__main__":
    sys.exit(main())
