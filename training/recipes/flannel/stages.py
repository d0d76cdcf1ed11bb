"""FLANNEL's training stages: a run in, trained learners and baselines of all folds in its folder out.

segment -> learn -> baselines -> prune -> augmented; the later stages are in `training.recipes.flannel.finish`. A finished
network is not trained again, so that a stopped run continues at its fold, learner and epoch.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import nn

from cxr_edge.errors import InputError
from training.loop.plan import Plan
from training.models import load_network
from training.parallel import barrier, world
from training.pruning.prune import best_step, prune, step_folder, steps_of
from training.recipes import segmenter
from training.recipes.flannel.run import PLAN, FlannelRun
from training.recipes.run import PREDICTIONS, SampleLogits
from training.recipes.segmenter import check_same_split
from training.shared_files import atomic_write, exclusive_lock
from training.tasks.classify import ClassifyTask
from training.tasks.predict import predict_logits

__all__ = ["AUGMENTED", "STAGES", "chosen_step", "network_folder"]

AUGMENTED = "augmented.npz"


def segment(run: FlannelRun, _: Iterable[int]) -> None:
    """Train the segmenter if members see the lung box; its epoch is selected on the first fold."""
    if run.config.learners_of is not None:
        _copy_canvases(run, _source_run(run))
    elif run.config.sees_lungs:
        segmenter.segment(run)


def learn(run: FlannelRun, folds: Iterable[int]) -> None:
    """Stage 1: train all layers of every learner of every fold, or copy the learners of another run."""
    other = None if run.config.learners_of is None else _source_run(run)
    for fold in folds:
        for name in run.config.learners:
            if other is None:
                _train_network(run, fold, name)
            else:
                _copy_learner(run, other, fold, name)


def baselines(run: FlannelRun, folds: Iterable[int]) -> None:
    """Train the baselines (COVID-Net and others) like the learners, on the same folds."""
    for fold in folds:
        for name in run.config.baselines:
            _train_network(run, fold, name)


def _network_plan(run: FlannelRun, fold: int, name: str, plan: Plan) -> Plan:
    """Return a stage's plan with the network's own settings, and another seed in every fold."""
    own = replace(plan, **run.config.networks[name].plan)
    return replace(own, seed=own.seed + 1000 * fold)


def _train_network(run: FlannelRun, fold: int, name: str) -> None:
    c, folder = run.config, run.folder(fold, name)
    plan, spec = _network_plan(run, fold, name, c.learn), c.network(name)

    def task() -> ClassifyTask:
        start = run.init_network(spec, c.networks[name].imagenet, plan.seed)
        return run.task(start, c.target, plan, run.sources, run.fold_samples(fold))

    run.train_or_load(task, spec, plan, folder, run.all_rows)


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


def _copy_learner(run: FlannelRun, other: Path, fold: int, name: str) -> None:
    here, there = run.folder(fold, name), other / "networks" / f"fold-{fold}" / name
    with exclusive_lock(here, world()):
        if not (here / PREDICTIONS).exists():
            _copy_network(run, there, here)


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


def prune_learners(run: FlannelRun, folds: Iterable[int]) -> None:
    """Prune every learner iteratively, as R20, if configured; the chosen step predicts all images."""
    c = run.config
    if c.prune is None:
        return
    for fold in folds:
        samples = run.fold_samples(fold)
        for name in c.learners:
            retrain = _network_plan(run, fold, name, c.prune.retrain)
            prune(
                partial(run.task, target=c.target, plan=retrain, sources=run.sources, samples=samples),
                run.folder(fold, name),
                replace(c.prune, retrain=retrain),
                run.folder(fold, name, pruned=True),
                c.member_spec,
            )
            step = chosen_step(run, fold, name)
            if world().is_main and not (step / PREDICTIONS).exists():
                run.predict(load_network(step)[0], run.all_rows).save(step / PREDICTIONS)
            barrier(world())


def predict_augmented(run: FlannelRun, folds: Iterable[int]) -> None:
    """Predict augmented copies of each fold's training images with its learners, for `fit_on = "augmented"` (preset `code`).

    A copy is the same for all learners, as in one batch of the published code.
    """
    c = run.config
    if c.effective_fit_on != "augmented":
        return
    for fold in folds:
        rows = np.tile(np.flatnonzero(run.evaluated & (run.fold_of >= 0) & (run.fold_of != fold)), c.copies)
        folders = {
            network_folder(run, fold, name, unpruned=unpruned) for name in c.learners for unpruned in (False, True)
        }
        missing = [f for f in sorted(folders) if not _has_rows(f / AUGMENTED, rows)]
        if not (missing and world().is_main):
            continue
        task = run.task(nn.Identity(), c.target, c.learn, run.sources, run.fold_samples(fold))
        drawn = (np.random.default_rng([c.fit_seed, fold, k]) for k in range(len(rows)))
        canvases = np.stack([task.augmented(int(i), rng) for i, rng in zip(rows, drawn, strict=True)])
        for folder in missing:
            network = load_network(folder)[0].to(world().device)
            logits = predict_logits(network, canvases, c.member_spec)
            SampleLogits(rows=rows, logits=logits).save(folder / AUGMENTED)
    barrier(world())


def _has_rows(file: Path, rows: npt.NDArray[np.int64]) -> bool:
    return file.exists() and np.array_equal(SampleLogits.load(file).rows, rows)


def chosen_step(run: FlannelRun, fold: int, name: str) -> Path:
    """Return the folder of a pruned learner's chosen step."""
    folder, plan = run.folder(fold, name, pruned=True), run.config.prune
    return step_folder(folder, best_step(steps_of(folder), tolerance=0.0 if plan is None else plan.tolerance))


def network_folder(run: FlannelRun, fold: int, name: str, *, unpruned: bool = False) -> Path:
    """Return the folder of the network that stage 2 reads: the pruned learner if learners are pruned.

    unpruned: return that of the unpruned network in any case.
    """
    pruned = run.config.prune is not None and name in run.config.learners and not unpruned
    return chosen_step(run, fold, name) if pruned else run.folder(fold, name)


STAGES: Mapping[str, Callable[[FlannelRun, Iterable[int]], None]] = {
    "segment": segment,
    "learn": learn,
    "baselines": baselines,
    "prune": prune_learners,
    "augmented": predict_augmented,
}
