"""Stages after FLANNEL's training: the ensembles of stage 2, the bundle and its evaluation, tables and figures."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

from training.data.folds import in_fold
from training.recipes.flannel import report
from training.recipes.flannel.combine import FLANNEL
from training.recipes.flannel.combine import combine as combine_folds
from training.recipes.flannel.results import Table3Predictions, results, split_in_words
from training.recipes.flannel.run import FlannelRun, FoldRun
from training.recipes.page import export_bundle

__all__ = ["STAGES"]


def combine(run: FlannelRun, _: Path) -> None:
    """Run stage 2 of every fold: the module, its variants and the baselines."""
    combine_folds(run, range(run.config.folds))


def bundle(run: FlannelRun, folder: Path) -> None:
    """Export the learners of the best fold, write the bundle in the run folder, and evaluate it through the deployed path.

    The decision threshold is selected on the fold's images: those of Table 1, on which the temperature was fitted, and those of
    the outside collections, because a threshold needs their adult normals to be reliable.
    """
    c, table = run.config, Table3Predictions(run)
    fold = run.fold(table.chosen_fold)
    facts = {
        "data": f"Members train on {', '.join(run.sources)} only, validated on one fold in {c.folds} of the training side; "
        "of other collections, masks trained the segmenter and a fold's images help to choose the threshold.",
        "made_by": f"training/reproduce.py flannel, configuration {c.name}, model of fold {fold.number} of {c.folds}",
        "training": {"learn": asdict(c.learn), "fit": asdict(c.fit), "segmenter": asdict(c.segmenter)},
    }
    export_bundle(
        run,
        folder,
        {name: fold.network_folder(name) for name in c.learners},
        {name: _design(fold, name) for name in c.learners},
        facts,
        samples=in_fold(run.samples, run.fold_of, fold.number),
        split=split_in_words(run),
        combination=table.folds[fold.number].combinations[FLANNEL],
    )


def _design(fold: FoldRun, name: str) -> str:
    config = fold.run.config
    architecture = config.learners[name].architecture
    if config.prune is None:
        return f"{architecture}, global pooling and one dense layer"
    step = fold.network_folder(name).name.removeprefix("step-").lstrip("0") or "0"
    return f"{architecture}, global pooling and one dense layer, pruned by APoZ in {step} steps"


def tables(run: FlannelRun, folder: Path) -> None:
    """Write tables, figures and results.json to `folder`."""
    page = report.write(run, results(run), folder)
    print(f"wrote {page}", file=sys.stderr)


STAGES: Mapping[str, Callable[[FlannelRun, Path], None]] = {"combine": combine, "bundle": bundle, "tables": tables}
