"""How weights move: a plan and a network in, the optimizer, the rate of each step and what lowers it after epochs out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import MultiStepLR, ReduceLROnPlateau

from training.loop.plan import Plan
from training.models.layers import layer_of

__all__ = ["RateSchedule", "optimizer_of", "rate_at", "set_rate"]


def optimizer_of(network: nn.Module, plan: Plan) -> torch.optim.Optimizer:
    """torch's optimizer, with groups of parameters by weight decay and, where it falls from layer to layer, by rate."""
    groups = _groups(network, plan)
    if plan.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=plan.learning_rate, momentum=plan.momentum, nesterov=plan.momentum > 0)
    kind = torch.optim.Adam if plan.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, lr=plan.learning_rate)


def _groups(network: nn.Module, plan: Plan) -> list[dict[str, Any]]:
    """Frozen parameters are in them too: what has no gradient is not moved."""
    layers = layer_of(network) if plan.layer_decay < 1 else {}
    highest = max(layers.values(), default=0)
    named = list(network.named_parameters())
    groups = []
    for layer in range(highest + 1):
        own = [p for name, p in named if layers.get(name, 0) == layer]
        decayed = [p for p in own if p.ndim > 1 or plan.decayed == "all"]
        plain = [p for p in own if p.ndim <= 1 and plan.decayed != "all"]
        scale = plan.layer_decay ** (highest - layer)
        for parameters, decay in ((decayed, plan.weight_decay), (plain, 0.0)):
            groups.append({"params": parameters, "weight_decay": decay, "scale": scale})
    return groups


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the head's rate; that of other layers is a share of it."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("scale", 1.0)


def rate_at(plan: Plan, *, progress: float, epochs_done: float, steps: int, left: float) -> float:
    """The rate of a step. progress: 0 at the start, 1 at the end. left: what plateaus or steps have left of it."""
    warm = min(1.0, (epochs_done + 0.02) / plan.warmup_epochs) if plan.warmup_epochs else 1.0
    rate = plan.learning_rate * warm / (1 + plan.rate_decay * steps)
    if plan.schedule != "cosine":
        return rate * left
    return rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))


class RateSchedule:
    """What a plan's plateaus or steps leave of the rate, epoch by epoch.

    torch's schedule acts on an optimizer of its own, whose rate is that share: the network's also follows warm-up and cosine
    within an epoch.
    """

    def __init__(self, plan: Plan) -> None:
        self._share = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=1.0)
        self._schedule = _torchs(plan, self._share)

    @property
    def left(self) -> float:
        """The share of the rate that is left."""
        return self._share.param_groups[0]["lr"]

    @property
    def lowers(self) -> bool:
        """Whether it ever lowers the rate."""
        return self._schedule is not None

    def after_epoch(self, score: float) -> None:
        """Let an epoch's score count."""
        if isinstance(self._schedule, ReduceLROnPlateau):
            self._schedule.step(score)
        elif self._schedule is not None:
            self._share.step()  # moves nothing; without it torch warns of a wrong order
            self._schedule.step()

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it: what epochs change. The rest is the plan's."""
        state = {} if self._schedule is None else self._schedule.state_dict()
        return {k: state[k] for k in ("last_epoch", "best", "num_bad_epochs") if k in state}

    def load(self, state: Mapping[str, Any], left: float) -> None:
        """Go on from a checkpoint's state and share."""
        if self._schedule is not None:
            self._schedule.load_state_dict(dict(state))
        self._share.param_groups[0]["lr"] = left


def _torchs(plan: Plan, share: torch.optim.Optimizer) -> MultiStepLR | ReduceLROnPlateau | None:
    if plan.schedule == "step":
        return MultiStepLR(share, plan.step_epochs, plan.step_factor)
    if plan.schedule == "plateau":
        least = plan.least_rate / plan.learning_rate
        # torch waits for one epoch more than its patience. No threshold: any better score counts, as for the best weights.
        patience = plan.plateau_epochs - 1
        return ReduceLROnPlateau(share, "max", plan.plateau_factor, patience, threshold=0.0, min_lr=least, eps=0.0)
    return None
