"""R20's training stages: a run in, trained and pruned networks in its folder out.

segment -> search -> modality -> binary and multiclass -> prune; the later stages are in `training.recipes.r20.finish`. A
finished stage does nothing. Members are always selected by validation score.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from cxr_edge.errors import InputError
from training.data.targets import Target
from training.loop.fit import fit, load_weights
from training.loop.plan import Plan
from training.loop.search import Trial, search
from training.models import build, load_network
from training.models.transfer import transfer_trunk
from training.pruning.prune import check_prunable, steps_of
from training.recipes.r20.run import R20Run
from training.recipes.run import PREDICTIONS, SampleLogits, selected_step
from training.recipes.segmenter import check_same_split, segment
from training.shared_files import read_json, reading, write_text
from training.tasks.classify import validation_figures

__all__ = [
    "STAGES",
    "best_trial",
    "chosen_step",
    "is_done",
    "member_folder",
    "member_plan",
    "top_members",
]


def search_plans(run: R20Run) -> None:
    """Run a random search per member on the modality task, if configured."""
    c = run.config
    if c.search is None:
        return
    for member, m in c.members.items():
        file = run.out / "search" / f"{member}.json"
        if not file.exists():
            found = search(
                partial(_trial_score, run, member, c.search.epochs),
                c.search,
                "custom" if m.architecture == "custom" else "pretrained",
                study=f"{c.name}-{member}",
                folder=run.out / "search",
                seed=c.fit_seed,
            )
            shutil.rmtree(_trials_folder(run, member), ignore_errors=True)
            write_text(file, json.dumps(found.as_json(), indent=1) + "\n")


def _trial_score(run: R20Run, member: str, epochs: int, trial: Trial) -> float:
    plan = trial.plan(replace(_own_plan(run, member, run.config.modality), epochs=epochs))
    network, _ = run.init_member(member, 2, plan.seed, trial)
    task = run.task(network, run.modality_target, plan, run.config.modality_sources)
    # A separate folder: on a file system without locks two processes may run this trial.
    with TemporaryDirectory(
        dir=_trials_folder(run, member), prefix=f"{trial.number}-", ignore_cleanup_errors=True
    ) as folder:
        best = fit(task, plan, Path(folder), name=f"{member}, trial {trial.number}")
        return task.score(load_weights(network, best))["score"]


def _trials_folder(run: R20Run, member: str) -> Path:
    """Return the folder of a member's trials; it is deleted after the search, with the files of killed processes."""
    folder = run.out / "search" / member
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def best_trial(run: R20Run, member: str) -> Trial:
    """Load the best trial of a member's search; a trial without changes if there was no search."""
    file = run.out / "search" / f"{member}.json"
    if not file.exists():
        return Trial(number=0)
    found = read_json(file)
    with reading(file):
        return Trial(**found["best"])


def member_plan(run: R20Run, member: str, plan: Plan) -> Plan:
    """Return a stage's plan with the settings of the member's configuration and search."""
    return best_trial(run, member).plan(_own_plan(run, member, plan))


def _own_plan(run: R20Run, member: str, plan: Plan) -> Plan:
    return replace(plan, **run.config.members[member].plan)


def learn_modality(run: R20Run) -> None:
    """Train every member on normal against abnormal; does nothing if trained networks are copied from another run.

    Raises InputError, before any is trained, for a member that the plan of pruning cannot prune.
    """
    members = [] if run.config.networks is not None else list(run.config.members)
    for member in [m for m in members if not is_done(run, "modality", [m])]:
        spec = best_trial(run, member).network(run.config.network(member, 2))
        check_prunable(build(spec), spec, run.config.member_spec, run.config.prune)
    for member in members:
        plan = member_plan(run, member, run.config.modality)
        network, spec = run.init_member(member, 2, plan.seed, best_trial(run, member))
        folder = member_folder(run, "modality", member)
        run.train(network, spec, run.modality_target, plan, folder, run.config.modality_sources)


def top_members(run: R20Run) -> tuple[str, ...]:
    """Return the members that are trained further, the best on the modality's validation images first; all if they are copied."""
    if run.config.networks is not None:
        return tuple(run.config.members)
    target, members = run.modality_target, run.config.members
    scores = {m: _validation_score(run, member_folder(run, "modality", m), target) for m in members}
    return tuple(sorted(scores, key=lambda m: -scores[m])[: run.config.top])


def _validation_score(run: R20Run, folder: Path, target: Target) -> float:
    outputs = SampleLogits.load(folder / PREDICTIONS)
    mask = run.side_mask("validation", outputs.rows)
    samples = [run.samples[i] for i in outputs.rows[mask]]
    return validation_figures(outputs.logits[mask], samples, target)["macro_f1"]


def fine_tune(run: R20Run) -> None:
    """Train task heads on the trunks of the modality stage: normal against the guarded label, and all labels."""
    c = run.config
    if c.networks is not None:
        _copy_networks(run, Path(c.networks))
        return
    if c.binary is not None:
        _fine_tune_stage(run, "binary", c.binary_target, c.binary)
    _fine_tune_stage(run, "multiclass", c.target, c.multiclass)


def _copy_networks(run: R20Run, other: Path) -> None:
    """Copy the networks of another run with the same split, in place of fine-tuned ones."""
    check_same_split(run, other)
    for member in run.config.members:
        folder = member_folder(run, "multiclass", member)
        if not (folder / PREDICTIONS).exists():
            r20 = other / "multiclass" / member
            network, spec = load_network(r20 if r20.exists() else other / member)
            if spec.labels != len(run.config.labels):
                raise InputError(
                    f"{other / member} has {spec.labels} labels, the configuration {len(run.config.labels)}"
                )
            run.save(network, spec, folder, run.predicted_rows(run.config.target, run.config.task_sources))


def _fine_tune_stage(run: R20Run, stage: str, target: Target, plan: Plan) -> None:
    for member in top_members(run):
        trunk, before = load_network(member_folder(run, "modality", member))
        spec = replace(before, labels=len(target.labels), shapes={})
        own = member_plan(run, member, plan)
        torch.manual_seed(own.seed)
        start = transfer_trunk(trunk, spec)
        run.train(start, spec, target, own, member_folder(run, stage, member), run.config.task_sources)


def prune_members(run: R20Run) -> None:
    """Prune every member iteratively, and save the predictions of the chosen step."""
    c = run.config
    for member in top_members(run):
        plan = replace(c.prune, retrain=member_plan(run, member, c.prune.retrain))
        start, rows = member_folder(run, "multiclass", member), run.predicted_rows(c.target, c.task_sources)
        run.prune(start, plan, run.out / "pruned" / member, rows, c.task_sources)


def chosen_step(run: R20Run, member: str) -> Path:
    """Return the folder of the pruned network with the step selected on validation images."""
    return selected_step(run.out / "pruned" / member, run.config.prune)


def member_folder(run: R20Run, stage: str, member: str) -> Path:
    """Return the folder with network, predictions and log of a member; of `pruned`, that of the selected step."""
    return chosen_step(run, member) if stage == "pruned" else run.out / stage / member


def is_done(run: R20Run, stage: str, members: Sequence[str]) -> bool:
    """Return whether a stage is finished for all members."""
    if stage == "pruned" and not all(steps_of(run.out / stage / m)[1:] for m in members):
        return False
    return all((member_folder(run, stage, m) / PREDICTIONS).exists() for m in members)


STAGES: Mapping[str, Callable[[R20Run], None]] = {
    "segment": segment,
    "search": search_plans,
    "modality": learn_modality,
    "task": fine_tune,
    "prune": prune_members,
}
