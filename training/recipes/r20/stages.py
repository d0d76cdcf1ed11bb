"""R20's stages, in order: a run in, trained, pruned and combined networks in its folder out.

segment -> search -> modality -> binary and multiclass -> prune -> ensemble -> bundle. A stage that finds its work done
does nothing; what a member is chosen by is always its validation score.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from cxr_edge.errors import InputError
from training.data.targets import Target, binary, modality
from training.loop.fit import fit, load_weights
from training.loop.plan import Plan
from training.loop.search import Trial, search
from training.models import load_network
from training.models.transfer import transfer_trunk
from training.parallel import barrier, world
from training.pruning.prune import best_step, prune, step_folder, steps_of
from training.recipes.r20.run import R20Run
from training.recipes.run import PREDICTIONS, SampleLogits
from training.recipes.segmenter import check_same_split, segment
from training.shared_files import write_text
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
    """Random search on the modality task, a member each, if the configuration asks for one."""
    c = run.config
    if c.search is None:
        return
    for member, m in c.members.items():
        file = run.out / "search" / f"{member}.json"
        if not file.exists():
            found = search(
                lambda trial, member=member: _trial_score(run, member, trial),
                c.search,
                "custom" if m.architecture == "custom" else "pretrained",
                study=f"{c.name}-{member}",
                folder=run.out / "search",
                seed=c.fit_seed,
            )
            shutil.rmtree(_trials_folder(run, member), ignore_errors=True)
            write_text(file, json.dumps(found.as_json(), indent=1) + "\n")


def _trial_score(run: R20Run, member: str, trial: Trial) -> float:
    plan = trial.plan(replace(_own_plan(run, member, run.config.modality), epochs=run.config.search.epochs))
    network, _ = run.init_member(member, 2, plan.seed, trial)
    task = run.task(network, modality(), plan, run.config.modality_sources)
    # A folder of its own: a process that was silent for a while may still be in this trial when another takes it over.
    with TemporaryDirectory(
        dir=_trials_folder(run, member), prefix=f"{trial.number}-", ignore_cleanup_errors=True
    ) as folder:
        best = fit(task, plan, Path(folder), name=f"{member}, trial {trial.number}")
        return task.score(load_weights(network, best))["score"]


def _trials_folder(run: R20Run, member: str) -> Path:
    """The folder of a member's trials, deleted with what killed processes left when the search is over."""
    folder = run.out / "search" / member
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def best_trial(run: R20Run, member: str) -> Trial:
    """What the search found best for a member; a trial that changes nothing if there was no search."""
    file = run.out / "search" / f"{member}.json"
    return Trial(**json.loads(file.read_text(encoding="utf-8"))["best"]) if file.exists() else Trial(number=0)


def member_plan(run: R20Run, member: str, plan: Plan) -> Plan:
    """A stage's plan with what the member's configuration and the search change."""
    return best_trial(run, member).plan(_own_plan(run, member, plan))


def _own_plan(run: R20Run, member: str, plan: Plan) -> Plan:
    return replace(plan, **run.config.members[member].plan)


def learn_modality(run: R20Run) -> None:
    """Normal against abnormal, every member; none where trained networks are taken over."""
    for member in run.config.members if run.config.networks is None else ():
        plan = member_plan(run, member, run.config.modality)
        network, spec = run.init_member(member, 2, plan.seed, best_trial(run, member))
        run.train(network, spec, modality(), plan, member_folder(run, "modality", member), run.config.modality_sources)


def top_members(run: R20Run) -> tuple[str, ...]:
    """The members that go on, the best on the modality's validation images first; taken-over networks all do."""
    if run.config.networks is not None:
        return tuple(run.config.members)
    scores = {m: _validation_score(run, member_folder(run, "modality", m), modality()) for m in run.config.members}
    return tuple(sorted(scores, key=lambda m: -scores[m])[: run.config.top])


def _validation_score(run: R20Run, folder: Path, target: Target) -> float:
    predictions = SampleLogits.load(folder / PREDICTIONS)
    on = run.side_mask("validation", predictions)
    samples = [run.samples[i] for i in predictions.rows[on]]
    return validation_figures(predictions.logits[on], samples, target)["macro_f1"]


def fine_tune(run: R20Run) -> None:
    """The modality's trunks under task heads: normal against COVID-19, and all labels."""
    c = run.config
    if c.networks is not None:
        _copy_networks(run, Path(c.networks))
        return
    if c.binary is not None:
        _fine_tune_stage(run, "binary", binary(), c.binary)
    _fine_tune_stage(run, "multiclass", c.target, c.multiclass)


def _copy_networks(run: R20Run, other: Path) -> None:
    """Networks that another run of the same split trained, as if they had been fine-tuned here."""
    check_same_split(run, other)
    for member in run.config.members:
        folder = member_folder(run, "multiclass", member)
        if not (folder / PREDICTIONS).exists():
            r20 = other / "multiclass" / member
            network, spec = load_network(r20 if r20.exists() else other / member)
            if spec.labels != len(run.config.labels):
                raise InputError(
                    f"{other / member} knows {spec.labels} labels, the configuration {len(run.config.labels)}"
                )
            run.save(network, spec, folder, run.evaluated_rows(run.config.target, run.config.task_sources))


def _fine_tune_stage(run: R20Run, stage: str, target: Target, plan: Plan) -> None:
    for member in top_members(run):
        trunk, before = load_network(member_folder(run, "modality", member))
        spec = replace(before, labels=len(target.labels), shapes={})
        own = member_plan(run, member, plan)
        torch.manual_seed(own.seed)
        start = transfer_trunk(trunk, spec)
        run.train(start, spec, target, own, member_folder(run, stage, member), run.config.task_sources)


def prune_members(run: R20Run) -> None:
    """Iterative pruning of every member, and the chosen step's predictions."""
    c = run.config
    for member in top_members(run):
        folder, retrain = run.out / "pruned" / member, member_plan(run, member, c.prune.retrain)
        prune(
            lambda network, retrain=retrain: run.task(network, c.target, retrain, c.task_sources),
            member_folder(run, "multiclass", member),
            replace(c.prune, retrain=retrain),
            folder,
            c.member_spec,
        )
        chosen = chosen_step(run, member)
        if world().is_main and not (chosen / PREDICTIONS).exists():
            run.predict(load_network(chosen)[0], run.evaluated_rows(c.target, c.task_sources)).save(
                chosen / PREDICTIONS
            )
        barrier(world())


def chosen_step(run: R20Run, member: str) -> Path:
    """Folder of the pruned network that validation chose."""
    folder = run.out / "pruned" / member
    return step_folder(folder, best_step(steps_of(folder), tolerance=run.config.prune.tolerance))


def member_folder(run: R20Run, stage: str, member: str) -> Path:
    """Where a stage keeps a member: network, predictions, log. Of `pruned`, the step that validation chose."""
    return chosen_step(run, member) if stage == "pruned" else run.out / stage / member


def is_done(run: R20Run, stage: str, members: Sequence[str]) -> bool:
    """Whether all members have come through a stage."""
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
