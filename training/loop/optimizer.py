"""Optimizer and learning rate: a plan and a network in, the optimizer, its rate schedule and the rate of each step out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import MultiStepLR, ReduceLROnPlateau

from training.loop.plan import Plan
from training.models.layers import layer_numbers

__all__ = ["RateSchedule", "build_optimizer", "learning_rate_at", "set_learning_rate"]


def build_optimizer(network: nn.Module, plan: Plan) -> torch.optim.Optimizer:
    """Return torch's optimizer with parameter groups by weight decay and, with `layer_decay`, by layer."""
    groups = _groups(network, plan)
    if plan.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=plan.learning_rate, momentum=plan.momentum, nesterov=plan.momentum > 0)
    kind = torch.optim.Adam if plan.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, lr=plan.learning_rate)


def _groups(network: nn.Module, plan: Plan) -> list[dict[str, Any]]:
    """Return the parameter groups, frozen parameters included: without a gradient they are not updated."""
    layers = layer_numbers(network) if plan.layer_decay < 1 else {}
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


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the head's learning rate; other layers get their share of it (`layer_decay`)."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("scale", 1.0)


def learning_rate_at(plan: Plan, *, progress: float, epochs_done: float, steps: int, factor: float) -> float:
    """Return the rate of a step.

    progress: of the training, 0 at the start, 1 at the end.
    factor: from `RateSchedule`, 1 until a plateau or step lowers it.
    """
    warm = min(1.0, (epochs_done + 0.02) / plan.warmup_epochs) if plan.warmup_epochs else 1.0
    rate = plan.learning_rate * warm / (1 + plan.rate_decay * steps)
    if plan.schedule != "cosine":
        return rate * factor
    return rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))


class RateSchedule:
    """Factor of the learning rate by plateaus or steps, updated per epoch.

    torch's scheduler acts on a separate optimizer whose rate is the factor, because the network's rate also follows warm-up
    and cosine within an epoch.
    """

    def __init__(self, plan: Plan) -> None:
        self._dummy = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=1.0)
        self._schedule = _torch_scheduler(plan, self._dummy)

    @property
    def factor(self) -> float:
        """Factor of the learning rate, from 0 to 1."""
        factor: float = self._dummy.param_groups[0]["lr"]
        return factor

    @property
    def is_active(self) -> bool:
        """True if the plan has plateaus or steps."""
        return self._schedule is not None

    def after_epoch(self, score: float) -> None:
        """Update the factor with the score of a finished epoch."""
        if isinstance(self._schedule, ReduceLROnPlateau):
            self._schedule.step(score)
        elif self._schedule is not None:
            self._dummy.step()  # updates nothing; without it torch warns about the order of calls
            self._schedule.step()

    def state(self) -> dict[str, Any]:
        """Return the values that epochs change, for a checkpoint; the others are the plan's."""
        state = {} if self._schedule is None else self._schedule.state_dict()
        return {k: state[k] for k in ("last_epoch", "best", "num_bad_epochs") if k in state}

    def load(self, state: Mapping[str, Any], factor: float) -> None:
        """Restore state and factor of a checkpoint."""
        if self._schedule is not None:
            self._schedule.load_state_dict(dict(state))
        self._dummy.param_groups[0]["lr"] = factor


def _torch_scheduler(plan: Plan, dummy: torch.optim.Optimizer) -> MultiStepLR | ReduceLROnPlateau | None:
    if plan.schedule == "step":
        return MultiStepLR(dummy, plan.step_epochs, plan.step_factor)
    if plan.schedule == "plateau":
        lowest = plan.least_rate / plan.learning_rate
        # torch waits for one epoch more than its patience. No threshold: any better score counts, as for the best weights.
        patience = plan.plateau_epochs - 1
        return ReduceLROnPlateau(dummy, "max", plan.plateau_factor, patience, threshold=0.0, min_lr=lowest, eps=0.0)
    return None
