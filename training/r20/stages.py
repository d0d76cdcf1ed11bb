"""R20's stages, in order: a run in, trained, pruned and combined networks in its folder out.

segment -> search -> modality -> binary and multiclass -> prune -> ensemble -> bundle. A stage that finds its work done
does nothing; what a member is chosen by is always its validation score.
"""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from cxr_edge.errors import InputError
from training.classify import validation_figures
from training.engine import Plan, fit, load_best
from training.models import NetworkSpec, build, load_network, save_network
from training.models.transfer import with_trunk_of
from training.parallel import wait, world
from training.prune import best_step, export_network, prune, step_folder, steps_of
from training.r20.run import PREDICTIONS, Predictions, Run
from training.search import Trial, search
from training.targets import Target, binary, modality

__all__ = [
    "STAGES",
    "chosen_step",
    "found_by_search",
    "is_done",
    "member_folder",
    "plan_of",
    "take_segmenter",
    "top_members",
]

SEGMENTER = "segmenter"


def take_segmenter(run: Run, other: Path) -> None:
    """Take the segmenter of another run folder, which must have been trained on the same split.

    Raises InputError where it was not, since test patients would have trained the crops.
    """
    if (run.out / SEGMENTER).exists():
        return
    _same_split(run, other)
    load_network(other / SEGMENTER)
    shutil.copytree(other / SEGMENTER, run.out / SEGMENTER, ignore=shutil.ignore_patterns("*.pt"))


def _same_split(run: Run, other: Path) -> None:
    ours, theirs = (_sides(folder / "table.csv") for folder in (run.out, other))
    if ours != theirs:
        raise InputError(
            f"{other} has another split: what it trained may have seen our test patients; train it here instead"
        )


def _sides(table: Path) -> dict[str, str]:
    if not table.exists():
        raise InputError(f"{table} is missing: is it a run folder?")
    with table.open(newline="") as file:
        return {row.get("path") or row["key"]: row["side"] for row in csv.DictReader(file)}


def segment(run: Run) -> None:
    """Train the segmenter, prune it if asked for, export it; from then on it is frozen."""
    c, folder = run.config, run.out / SEGMENTER
    spec = NetworkSpec(architecture=c.segmenter_architecture, labels=1)
    if not (folder / "network.json").exists():
        torch.manual_seed(c.segmenter.seed)
        network = build(spec)
        network = load_best(network, fit(run.segment_task(network, c.segmenter), c.segmenter, folder))
        if world().first:
            save_network(network.cpu(), spec, folder)
        wait(world())
    final = folder
    if c.prune_segmenter is not None:
        plan, pruned = c.prune_segmenter, run.out / "pruned" / SEGMENTER
        steps = prune(lambda n: run.segment_task(n, plan.retrain), folder, plan, pruned, c.segmenter_spec)
        final = step_folder(pruned, best_step(steps, tolerance=plan.tolerance))
    if world().first and not run.segmenter_onnx.exists():
        network, spec = load_network(final)
        difference = export_network(network, spec, c.segmenter_spec, run.segmenter_onnx)
        print(f"segmenter.onnx: at most {difference:.1e} from torch", file=sys.stderr)
    wait(world())


def search_plans(run: Run) -> None:
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
                seed=c.seed,
            )
            file.write_text(json.dumps(found.as_json(), indent=1) + "\n", encoding="utf-8")


def _trial_score(run: Run, member: str, trial: Trial) -> float:
    plan = trial.plan(replace(_own_plan(run, member, run.config.modality), epochs=run.config.search.epochs))
    network, _ = run.fresh(member, 2, plan.seed, trial)
    folder = run.out / "search" / f"{member}-{trial.number}"
    task = run.task(network, modality(), plan, run.config.modality_sources)
    best = load_best(network, fit(task, plan, folder))
    score = task.score(best)["score"]
    shutil.rmtree(folder)
    return score


def found_by_search(run: Run, member: str) -> Trial:
    """What the search found best for a member; a trial that changes nothing if there was no search."""
    file = run.out / "search" / f"{member}.json"
    return Trial(**json.loads(file.read_text(encoding="utf-8"))["best"]) if file.exists() else Trial(number=0)


def plan_of(run: Run, member: str, plan: Plan) -> Plan:
    """A stage's plan with what the member's configuration and the search change."""
    return found_by_search(run, member).plan(_own_plan(run, member, plan))


def _own_plan(run: Run, member: str, plan: Plan) -> Plan:
    return replace(plan, **run.config.members[member].plan)


def learn_modality(run: Run) -> None:
    """Normal against abnormal, every member; none where trained networks are taken over."""
    for member in run.config.members if run.config.networks is None else ():
        plan = plan_of(run, member, run.config.modality)
        network, spec = run.fresh(member, 2, plan.seed, found_by_search(run, member))
        run.train(network, spec, modality(), plan, member_folder(run, "modality", member), run.config.modality_sources)


def top_members(run: Run) -> tuple[str, ...]:
    """The members that go on, the best on the modality's validation images first; taken-over networks all do."""
    if run.config.networks is not None:
        return tuple(run.config.members)
    scores = {m: _validation_score(run, member_folder(run, "modality", m), modality()) for m in run.config.members}
    return tuple(sorted(scores, key=lambda m: -scores[m])[: run.config.top])


def _validation_score(run: Run, folder: Path, target: Target) -> float:
    predictions = Predictions.load(folder / PREDICTIONS)
    on = run.on("validation", predictions)
    samples = [run.samples[i] for i in predictions.rows[on]]
    return validation_figures(predictions.logits[on], samples, target)["macro_f1"]


def fine_tune(run: Run) -> None:
    """The modality's trunks under task heads: normal against COVID-19, and all labels."""
    c = run.config
    if c.networks is not None:
        _taken_over(run, Path(c.networks))
        return
    if c.binary is not None:
        _fine_tuned(run, "binary", binary(), c.binary)
    _fine_tuned(run, "multiclass", c.target, c.multiclass)


def _taken_over(run: Run, other: Path) -> None:
    """Networks that another run of the same split trained, as if they had been fine-tuned here."""
    _same_split(run, other)
    for member in run.config.members:
        folder = member_folder(run, "multiclass", member)
        if not (folder / PREDICTIONS).exists():
            r20 = other / "multiclass" / member
            network, spec = load_network(r20 if r20.exists() else other / member)
            if spec.labels != len(run.config.labels):
                raise InputError(
                    f"{other / member} knows {spec.labels} labels, the configuration {len(run.config.labels)}"
                )
            run.keep(network, spec, run.config.target, folder, run.config.task_sources)


def _fine_tuned(run: Run, stage: str, target: Target, plan: Plan) -> None:
    for member in top_members(run):
        trunk, before = load_network(member_folder(run, "modality", member))
        spec = replace(before, labels=len(target.labels), shapes={})
        own = plan_of(run, member, plan)
        torch.manual_seed(own.seed)
        start = with_trunk_of(trunk, spec)
        run.train(start, spec, target, own, member_folder(run, stage, member), run.config.task_sources)


def prune_members(run: Run) -> None:
    """Iterative pruning of every member, and the chosen step's predictions."""
    c = run.config
    for member in top_members(run):
        folder, retrain = run.out / "pruned" / member, plan_of(run, member, c.prune.retrain)
        prune(
            lambda network, retrain=retrain: run.task(network, c.target, retrain, c.task_sources),
            member_folder(run, "multiclass", member),
            replace(c.prune, retrain=retrain),
            folder,
            c.member_spec,
        )
        chosen = chosen_step(run, member)
        if world().first and not (chosen / PREDICTIONS).exists():
            run.predict(load_network(chosen)[0], c.target, c.task_sources).save(chosen / PREDICTIONS)
        wait(world())


def chosen_step(run: Run, member: str) -> Path:
    """Folder of the pruned network that validation chose."""
    folder = run.out / "pruned" / member
    return step_folder(folder, best_step(steps_of(folder), tolerance=run.config.prune.tolerance))


def member_folder(run: Run, stage: str, member: str) -> Path:
    """Where a stage keeps a member: network, predictions, log. Of `pruned`, the step that validation chose."""
    return chosen_step(run, member) if stage == "pruned" else run.out / stage / member


def is_done(run: Run, stage: str, members: Sequence[str]) -> bool:
    """Whether all members have come through a stage."""
    if stage == "pruned" and not all(steps_of(run.out / stage / m)[1:] for m in members):
        return False
    return all((member_folder(run, stage, m) / PREDICTIONS).exists() for m in members)


STAGES: Mapping[str, Callable[[Run], None]] = {
    "segment": segment,
    "search": search_plans,
    "modality": learn_modality,
    "task": fine_tune,
    "prune": prune_members,
}
