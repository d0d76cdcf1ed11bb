"""Time plan: size of the data, speed of this machine and a budget in; epochs, and minutes of each stage, out.

The epochs are the most that fit the budget, but never fewer than the preset's least: a budget below that is exceeded, and the
plan says so.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from training.loop.plan import Plan
from training.recipes.config import Config, StagedMember
from training.recipes.own.configure import Epochs, Tables, members_config, sites_config
from training.recipes.own.speed import Speed

__all__ = ["Machine", "Stage", "TimePlan", "Work", "fit_epochs", "plan_lines", "time_plan"]

_TRIED = 20  # lengths between the least and the largest
_EXPORT_S = 12.0  # of a network to ONNX, with its checks
_BUNDLE_S = 25.0  # known answers, intervals and pages
_PASSES = 3  # predictions of all images by each member: features, activation ranges, lungs painted over


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Speed of this machine for one run."""

    processes: int  # that train at a time
    threads: int  # of each
    decoding_s: float  # of an image, with all threads
    speeds: Mapping[str, Speed]  # of each network, by member
    segmenter: float = 0.0  # training images a second with all threads; 0 if none is trained


@dataclass(frozen=True, kw_only=True)
class Work:
    """Size of the data."""

    images: int
    trained: int  # sides
    validated: int
    tested: int
    masks: int = 0  # of training images
    site_images: Mapping[str, int]  # fold -> images that are left out


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of the plan."""

    name: str
    minutes: float
    about: str


@dataclass(frozen=True, kw_only=True)
class TimePlan:
    """Minutes of each stage."""

    stages: tuple[Stage, ...]
    budget_minutes: float
    processes: int
    threads: int

    @property
    def minutes(self) -> float:
        """All stages together."""
        return sum(stage.minutes for stage in self.stages)

    def of(self, *names: str) -> float:
        """Return the minutes of some stages."""
        return sum(stage.minutes for stage in self.stages if stage.name in names)


def fit_epochs(make: Callable[[Epochs], Tables], work: Work, machine: Machine, budget_minutes: float) -> Tables:
    """Return the tables with the most epochs that fit the budget; those with the least if none do.

    Networks without a site have half of a member's epochs, and as many as it if there is time for that.
    """
    tables = make(Epochs(share=0.0))
    for epochs in (*(Epochs(share=k / _TRIED) for k in range(1, _TRIED + 1)), Epochs(share=1.0, sites_share=1.0)):
        longer = make(epochs)
        if time_plan(longer, work, machine, budget_minutes).minutes > budget_minutes:
            break
        tables = longer
    return tables


def time_plan(tables: Tables, work: Work, machine: Machine, budget_minutes: float) -> TimePlan:
    """Return the plan of a run with these tables."""
    candidate = "" if tables.sites is None else next(iter(tables.sites["variants"]))
    config = members_config(tables, candidate, threads=1)
    members = [_member_s(config, m, work, machine.speeds[name]) for name, m in config.members.items()]
    sites, about = _sites_s(tables, work, machine)
    predicted = sum(_PASSES * work.images / machine.speeds[name].predict for name in config.members)
    epochs = ", ".join(f"{name} {m.train.epochs}" for name, m in config.members.items())
    pruned = ", pruned" if any(m.prune for m in config.members.values()) else ""
    bundle = _BUNDLE_S + _EXPORT_S * len(members) + predicted + 2 * work.tested * machine.decoding_s
    segmented = 1.2 * config.segmenter.epochs * work.masks / machine.segmenter if machine.segmenter else 0.0
    found = [
        ("segmenter", segmented, f"trained on {work.masks} lung masks, epochs: {config.segmenter.epochs}"),
        ("lung boxes", work.images * machine.decoding_s * 1.2, f"{work.images} images cut by the lung segmenter"),
        ("left-out sites", _together(sites, machine.processes), about),
        ("members", _together(members, machine.processes), f"{len(members)} networks{pruned}, epochs: {epochs}"),
        ("bundle", bundle, "combination, figures on test patients, model card"),
    ]
    return TimePlan(
        stages=tuple(Stage(name=name, minutes=s / 60, about=text) for name, s, text in found if s),
        budget_minutes=budget_minutes,
        processes=machine.processes,
        threads=machine.threads,
    )


def _sites_s(tables: Tables, work: Work, machine: Machine) -> tuple[list[float], str]:
    """Return the seconds of each training without a site, and the stage in words."""
    if tables.sites is None:
        return [], ""
    config = sites_config(tables, threads=1)
    seconds = []
    for variant in config.variants.values():
        plan, speed = config.members[variant.member].train, machine.speeds[variant.member]
        validated = work.validated * plan.epochs
        seconds += [
            _training_s(plan, config.epoch_images, speed, validated + left_out)
            for left_out in work.site_images.values()
        ]
    epochs = ", ".join(f"{m.train.epochs}" for m in config.members.values())
    return (
        seconds,
        f"{len(seconds)} networks ({len(config.folds)} sites x {len(config.variants)} candidates), epochs: {epochs}",
    )


def _member_s(config: Config, member: StagedMember, work: Work, speed: Speed) -> float:
    validated = work.validated * (member.train.epochs + 1) + work.tested
    seconds = _training_s(member.train, config.epoch_images, speed, validated)
    if member.prune is None:
        return seconds
    steps, retrain = math.ceil(member.prune.until / member.prune.step), member.prune.retrain
    return seconds + steps * _training_s(retrain, config.epoch_images, speed, work.validated * (retrain.epochs + 1))


def _training_s(plan: Plan, epoch_images: int | None, speed: Speed, predicted: int) -> float:
    """Return the seconds of a training, a tenth of it for optimizer, average and checkpoints."""
    return 1.1 * plan.epochs * (epoch_images or 0) / speed.train + predicted / speed.predict


def _together(seconds: Sequence[float], processes: int) -> float:
    """Return the seconds of trainings that start in this order, each as soon as a process is free."""
    ends = [0.0] * processes
    for s in seconds:
        heapq.heapreplace(ends, ends[0] + s)
    return max(ends)


def plan_lines(plan: TimePlan, now: datetime, *, spent_minutes: float = 0.0, resumed: bool = False) -> list[str]:
    """Return the plan for a terminal.

    spent_minutes: of the budget, on reading and checking. resumed: the run was started before, so its end is not known.
    """
    if resumed:
        stages = ", ".join(f"{s.name} {s.minutes:.1f} min" for s in plan.stages)
        return [f"time plan of the first start: {stages}; finished trainings are not repeated"]
    ends = now + timedelta(minutes=plan.minutes)
    total = plan.minutes + spent_minutes
    lines = [
        f"time plan for this machine ({plan.processes} at a time, {plan.threads} threads each), measured just now:"
    ]
    lines += [f"  {s.name:<15}{s.minutes:>7.1f} min   {s.about}" for s in plan.stages]
    checked = f", after {spent_minutes:.1f} min of reading and checking" if spent_minutes else ""
    lines.append(f"  {'together':<15}{plan.minutes:>7.1f} min   done at about {ends:%H:%M} ({ends:%Y-%m-%d}){checked}")
    if total > plan.budget_minutes * 1.05:
        lines.append(
            f"  the budget is {plan.budget_minutes:.0f} min, but fewer epochs teach too little: about {total:.0f} min are needed"
        )
    return lines
