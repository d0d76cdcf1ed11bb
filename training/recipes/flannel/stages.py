"""FLANNEL's training stages: a run in, trained learners and baselines of all folds in its folder out.

segment -> learn -> baselines -> prune -> augmented; the later stages are in `training.recipes.flannel.finish`. A finished
network is not trained again, so that a stopped run continues at its fold, learner and epoch.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import nn

from cxr_edge.errors import InputError
from training.models import build, load_network
from training.parallel import barrier, world
from training.pruning.prune import check_prunable
from training.recipes import segmenter
from training.recipes.flannel.run import PLAN, FlannelRun, FoldRun
from training.recipes.run import PREDICTIONS, SampleLogits
from training.recipes.segmenter import check_same_split
from training.shared_files import atomic_write, exclusive_lock
from training.tasks.images import ImageTask
from training.tasks.predict import predict_logits

__all__ = ["AUGMENTED", "STAGES"]

AUGMENTED = "augmented.npz"


def segment(run: FlannelRun, _: Iterable[FoldRun]) -> None:
    """Train the segmenter if members see the lung box; its epoch is selected on the first fold."""
    if run.config.learners_of is not None:
        _copy_canvases(run, _source_run(run))
    elif run.config.sees_lungs:
        segmenter.segment(run)


def learn(run: FlannelRun, folds: Iterable[FoldRun]) -> None:
    """Stage 1: train all layers of every learner of every fold, or copy the learners of another run.

    Raises InputError, before any is trained, for a learner that the plan of pruning cannot prune.
    """
    other = None if run.config.learners_of is None else _source_run(run)
    folds = list(folds)
    if other is None and run.config.prune is not None:
        for name in run.config.learners:
            if not all((fold.folder(name) / PREDICTIONS).exists() for fold in folds):
                spec = run.config.network(name)
                check_prunable(build(spec), spec, run.config.member_spec, run.config.prune)
    for fold in folds:
        for name in run.config.learners:
            if other is None:
                _train_network(fold, name)
            else:
                _copy_learner(fold, other, name)


def baselines(run: FlannelRun, folds: Iterable[FoldRun]) -> None:
    """Train the baselines (COVID-Net and others) like the learners, on the same folds."""
    for fold in folds:
        for name in run.config.baselines:
            _train_network(fold, name)


def _train_network(fold: FoldRun, name: str) -> None:
    run, c = fold.run, fold.run.config
    plan, spec = fold.plan(name, c.learn), c.network(name)

    def task() -> ImageTask:
        start = run.init_network(spec, c.networks[name].imagenet, plan.seed)
        return run.task(start, c.target, plan, run.sources, fold.samples)

    run.train_or_load(task, spec, plan, fold.folder(name), run.all_rows)


def _source_run(run: FlannelRun) -> Path:
    """Return the run folder that learners are copied from.

    Raises InputError if its data, split, folds or preprocessing differ.
    """
    other = Path(run.config.learners_of or "")
    check_same_split(run, other)
    if not (other / PLAN).exists():
        raise InputError(f"{other} has no {PLAN}: learners_of names the run folder of a FLANNEL run")
    run.check_same_plan(other / PLAN)
    return other


def _copy_canvases(run: FlannelRun, other: Path) -> None:
    """Copy canvases and segmenter of another run folder."""
    for name in ("segmenter", "segmenter.onnx", "canvases.npz") if world().is_main else ():
        source, here = other / name, run.out / name
        with exclusive_lock(here):
            if source.exists() and not here.exists():
                with atomic_write(here) as beside:
                    if source.is_dir():
                        shutil.copytree(source, beside, ignore=shutil.ignore_patterns("*.pt"))
                    else:
                        shutil.copyfile(source, beside)
    barrier(world())


def _copy_learner(fold: FoldRun, other: Path, name: str) -> None:
    here, there = fold.folder(name), other / "networks" / f"fold-{fold.number}" / name
    with exclusive_lock(here, world()):
        if not (here / PREDICTIONS).exists():
            _copy_network(fold.run, there, here)


def _copy_network(run: FlannelRun, there: Path, here: Path) -> None:
    _, spec = load_network(there)
    if spec.labels != len(run.config.labels) or not (there / PREDICTIONS).exists():
        raise InputError(
            f"{there} is not finished, or has {spec.labels} labels where the configuration has {len(run.config.labels)}"
        )
    if world().is_main:
        with atomic_write(here) as beside:
            shutil.copytree(there, beside)
    barrier(world())


def prune_learners(run: FlannelRun, folds: Iterable[FoldRun]) -> None:
    """Prune every learner iteratively, as R20, if configured; the chosen step predicts all images."""
    prune = run.config.prune
    if prune is None:
        return
    for fold in folds:
        for name in run.config.learners:
            plan = replace(prune, retrain=fold.plan(name, prune.retrain))
            folder = fold.folder(name, pruned=True)
            run.prune(fold.folder(name), plan, folder, run.all_rows, run.sources, fold.samples)


def predict_augmented(run: FlannelRun, folds: Iterable[FoldRun]) -> None:
    """Predict augmented copies of each fold's training images with its learners, for `fit_on = "augmented"` (preset `code`).

    A copy is the same for all learners, as in one batch of the published code.
    """
    if run.config.effective_fit_on != "augmented":
        return
    for fold in folds:
        _predict_augmented(fold)
    barrier(world())


def _predict_augmented(fold: FoldRun) -> None:
    run, c = fold.run, fold.run.config
    rows = np.tile(fold.other_rows, c.copies)
    folders = {fold.network_folder(name, unpruned=unpruned) for name in c.learners for unpruned in (False, True)}
    missing = [f for f in sorted(folders) if not _has_rows(f / AUGMENTED, rows)]
    if not (missing and world().is_main):
        return
    task = run.task(nn.Identity(), c.target, c.learn, run.sources, fold.samples)
    drawn = (np.random.default_rng([c.fit_seed, fold.number, k]) for k in range(len(rows)))
    canvases = np.stack([task.augmented(int(i), rng) for i, rng in zip(rows, drawn, strict=True)])
    for folder in missing:
        network = load_network(folder)[0].to(world().device)
        logits = predict_logits(network, canvases, c.member_spec)
        SampleLogits(rows=rows, logits=logits).save(folder / AUGMENTED)


def _has_rows(file: Path, rows: npt.NDArray[np.int64]) -> bool:
    return file.exists() and np.array_equal(SampleLogits.load(file).rows, rows)


STAGES: Mapping[str, Callable[[FlannelRun, Iterable[FoldRun]], None]] = {
    "segment": segment,
    "learn": learn,
    "baselines": baselines,
    "prune": prune_learners,
    "augmented": predict_augmented,
}
