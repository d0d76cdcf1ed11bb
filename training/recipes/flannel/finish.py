"""Stages after FLANNEL's training: the ensembles of stage 2, the bundle and its evaluation, tables and figures."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

from training.bundles.assemble import assemble
from training.data.folds import in_fold
from training.evaluation.pages import results_as_markdown
from training.models import load_network
from training.pruning.prune import export_network
from training.recipes.flannel import report
from training.recipes.flannel.combine import FLANNEL
from training.recipes.flannel.combine import combine as combine_folds
from training.recipes.flannel.results import Table3Predictions, results, split_in_words
from training.recipes.flannel.run import FlannelRun
from training.recipes.flannel.stages import network_folder
from training.shared_files import atomic_write, write_text

__all__ = ["STAGES"]


def combine(run: FlannelRun, _: Path) -> None:
    """Run stage 2 of every fold: the module, its variants and the baselines."""
    combine_folds(run, range(run.config.folds))


def bundle(run: FlannelRun, folder: Path) -> None:
    """Export the learners of the best fold, write the bundle in the run folder, and evaluate it through the deployed path.

    The decision threshold is selected on the fold's images: those of Table 1, on which the temperature was fitted, and those of
    the outside collections, because a threshold needs their adult normals to be reliable.
    """
    c, table, networks = run.config, Table3Predictions(run), run.out / "export"
    fold = table.chosen_fold
    networks.mkdir(parents=True, exist_ok=True)
    if c.sees_lungs:
        with atomic_write(networks / "segmenter.onnx") as beside:
            shutil.copyfile(run.segmenter_onnx, beside)
    for name in c.learners:
        network, spec = load_network(network_folder(run, fold, name))
        export_network(network, spec, c.member_spec, networks / f"{name}.onnx")
    facts = {
        "data": f"Members train on {', '.join(run.sources)} only, validated on one fold in {c.folds} of the training side; "
        "of other collections, masks trained the segmenter and a fold's images help to choose the threshold.",
        "made_by": f"training/reproduce.py flannel, configuration {c.name}, model of fold {fold} of {c.folds}",
        "training": {"learn": asdict(c.learn), "fit": asdict(c.fit), "segmenter": asdict(c.segmenter)},
    }
    _, evaluation = assemble(
        run.out / "bundle",
        networks,
        {name: _design(run, fold, name) for name in c.learners},
        in_fold(run.samples, run.fold_of, fold),
        run.canvases,
        c,
        facts,
        preset=c.preset,
        split=split_in_words(run),
        combination=table.folds[fold].combinations[FLANNEL],
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "bundle.json", json.dumps(evaluation, indent=1) + "\n")
    write_text(folder / "bundle.md", results_as_markdown(evaluation))


def _design(run: FlannelRun, fold: int, name: str) -> str:
    architecture = run.config.learners[name].architecture
    if run.config.prune is None:
        return f"{architecture}, global pooling and one dense layer"
    step = network_folder(run, fold, name).name.removeprefix("step-").lstrip("0") or "0"
    return f"{architecture}, global pooling and one dense layer, pruned by APoZ in {step} steps"


def tables(run: FlannelRun, folder: Path) -> None:
    """Write tables, figures and results.json to `folder`."""
    page = report.write(run, results(run), folder)
    print(f"wrote {page}", file=sys.stderr)


STAGES: Mapping[str, Callable[[FlannelRun, Path], None]] = {"combine": combine, "bundle": bundle, "tables": tables}
