"""FLANNEL's stages that train networks: a run in, five folds of learners and baselines in its folder out.

segment -> learn -> baselines -> prune -> augmented; what follows is in `training.recipes.flannel.finish`. A network that is there
is not trained again, so a run goes on at the fold, the learner and the epoch where it was stopped.
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
from training.loop.plan import Plan
from training.models import load_network
from training.parallel import wait, world
from training.pruning.prune import best_step, prune, step_folder, steps_of
from training.recipes import segmenter
from training.recipes.flannel.run import PLAN, FlannelRun
from training.recipes.run import PREDICTIONS, Predictions
from training.recipes.segmenter import same_split
from training.shared_files import atomic_write, one_at_a_time
from training.tasks.classify import ClassifyTask
from training.tasks.predict import logits_of

__all__ = ["AUGMENTED", "STAGES", "chosen_step", "network_folder"]

AUGMENTED = "augmented.npz"


def segment(run: FlannelRun, _: Iterable[int]) -> None:
    """Train the segmenter where members see the lung box; the first fold chooses its epoch."""
    if run.config.learners_of is not None:
        _take_canvases(run, _taken_from(run))
    elif run.config.sees_lungs:
        segmenter.segment(run)


def learn(run: FlannelRun, chosen: Iterable[int]) -> None:
    """Stage 1: every learner of every fold, all layers."""
    other = None if run.config.learners_of is None else _taken_from(run)
    for fold in chosen:
        for name in run.config.learners:
            if other is None:
                _trained(run, fold, name)
            else:
                _taken_over(run, other, fold, name)


def baselines(run: FlannelRun, chosen: Iterable[int]) -> None:
    """COVID-Net and the like: trained as the learners, on the same folds."""
    for fold in chosen:
        for name in run.config.baselines:
            _trained(run, fold, name)


def _plan(run: FlannelRun, fold: int, name: str, plan: Plan) -> Plan:
    """With what the network changes, and a seed of its own in every fold."""
    own = replace(plan, **run.config.networks[name].plan)
    return replace(own, seed=own.seed + 1000 * fold)


def _trained(run: FlannelRun, fold: int, name: str) -> None:
    c, folder = run.config, run.folder(fold, name)
    plan, spec = _plan(run, fold, name, c.learn), c.network(name)

    def task() -> ClassifyTask:
        start = run.started(spec, c.networks[name].imagenet, plan.seed)
        return run.task(start, c.target, plan, run.sources, run.fold_samples(fold))

    run.trained(task, spec, plan, folder, run.every_row)


def _taken_from(run: FlannelRun) -> Path:
    """The run whose learners are taken over. Raises InputError unless it has our data, split, folds and preprocessing."""
    other = Path(run.config.learners_of or "")
    same_split(run, other)
    if not (other / PLAN).exists():
        raise InputError(f"{other} has no {PLAN}: learners_of names the run folder of a FLANNEL run")
    run.same_plan(other / PLAN)
    return other


def _take_canvases(run: FlannelRun, other: Path) -> None:
    """Canvases and segmenter of another run folder."""
    for name in ("segmenter", "segmenter.onnx", "canvases.npz") if world().first else ():
        source, here = other / name, run.out / name
        with one_at_a_time(here):
            if source.exists() and not here.exists():
                with atomic_write(here) as beside:
                    if source.is_dir():
                        shutil.copytree(source, beside, ignore=shutil.ignore_patterns("*.pt"))
                    else:
                        shutil.copyfile(source, beside)
    wait(world())


def _taken_over(run: FlannelRun, other: Path, fold: int, name: str) -> None:
    here, there = run.folder(fold, name), other / "networks" / f"fold-{fold}" / name
    with one_at_a_time(here, world()):
        if not (here / PREDICTIONS).exists():
            _copy_network(run, there, here)


def _copy_network(run: FlannelRun, there: Path, here: Path) -> None:
    _, spec = load_network(there)
    if spec.labels != len(run.config.labels) or not (there / PREDICTIONS).exists():
        raise InputError(
            f"{there} is not finished, or knows {spec.labels} labels where {len(run.config.labels)} are asked"
        )
    if world().first:
        with atomic_write(here) as beside:
            shutil.copytree(there, beside)
    wait(world())


def prune_learners(run: FlannelRun, chosen: Iterable[int]) -> None:
    """R20's iterative pruning of every learner, if the configuration asks for it; the chosen step answers all images."""
    c = run.config
    if c.prune is None:
        return
    for fold in chosen:
        samples = run.fold_samples(fold)
        for name in c.learners:
            retrain = _plan(run, fold, name, c.prune.retrain)
            prune(
                lambda network, retrain=retrain, samples=samples: run.task(
                    network, c.target, retrain, run.sources, samples
                ),
                run.folder(fold, name),
                replace(c.prune, retrain=retrain),
                run.folder(fold, name, pruned=True),
                c.member_spec,
            )
            step = chosen_step(run, fold, name)
            if world().first and not (step / PREDICTIONS).exists():
                run.predict(load_network(step)[0], run.every_row).save(step / PREDICTIONS)
            wait(world())


def ask_augmented(run: FlannelRun, chosen: Iterable[int]) -> None:
    """For `fit_on = "augmented"` (preset `code`): what each fold's learners say of altered copies of what trained them.

    A copy is the same for all learners, as in one batch of the published code.
    """
    c = run.config
    if c.fitted_on != "augmented":
        return
    for fold in chosen:
        rows = np.tile(np.flatnonzero(run.judged & (run.fold_of >= 0) & (run.fold_of != fold)), c.copies)
        folders = {network_folder(run, fold, name, whole=whole) for name in c.learners for whole in (False, True)}
        missing = [f for f in sorted(folders) if not _is_of(f / AUGMENTED, rows)]
        if not (missing and world().first):
            continue
        task = run.task(nn.Identity(), c.target, c.learn, run.sources, run.fold_samples(fold))
        drawn = (np.random.default_rng([c.fit_seed, fold, k]) for k in range(len(rows)))
        canvases = np.stack([task.altered(int(i), rng) for i, rng in zip(rows, drawn, strict=True)])
        for folder in missing:
            network = load_network(folder)[0].to(world().device)
            logits = logits_of(network, canvases, c.member_spec)
            Predictions(rows=rows, logits=logits).save(folder / AUGMENTED)
    wait(world())


def _is_of(file: Path, rows: npt.NDArray[np.int64]) -> bool:
    return file.exists() and np.array_equal(Predictions.load(file).rows, rows)


def chosen_step(run: FlannelRun, fold: int, name: str) -> Path:
    """Folder of a pruned learner's chosen step."""
    folder, plan = run.folder(fold, name, pruned=True), run.config.prune
    return step_folder(folder, best_step(steps_of(folder), tolerance=0.0 if plan is None else plan.tolerance))


def network_folder(run: FlannelRun, fold: int, name: str, *, whole: bool = False) -> Path:
    """Where the network lies that stage 2 reads: the pruned one, where learners are pruned. whole: the unpruned one."""
    pruned = run.config.prune is not None and name in run.config.learners and not whole
    return chosen_step(run, fold, name) if pruned else run.folder(fold, name)


STAGES: Mapping[str, Callable[[FlannelRun, Iterable[int]], None]] = {
    "segment": segment,
    "learn": learn,
    "baselines": baselines,
    "prune": prune_learners,
    "augmented": ask_augmented,
}
