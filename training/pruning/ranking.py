"""Ranks of a pruning step: a network, its task and the plan in, zeros or importances of its channels out.

Also the check that a network has something to rank, so that a recipe can refuse one before it trains it for hours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cxr_edge.errors import InputError
from cxr_edge.specs.preprocess import PreprocessSpec
from training.loop.fit import Task
from training.models import NetworkSpec
from training.models.layers import evaluation_mode
from training.parallel import World, broadcast, world
from training.pruning import cost
from training.pruning.apoz import zero_shares
from training.pruning.channels import ChannelGroup, LeftWhole, channel_groups, group_shares, known_names
from training.pruning.importance import magnitude, taylor
from training.pruning.plan import PrunePlan
from training.pruning.removal import zeros_on_noise

__all__ = ["PrunableTask", "Ranks", "check_prunable", "equal_ranks", "nothing_to_prune", "rank"]

_TAYLOR_BATCHES = 32  # of training, for gradients; Molchanov et al. 2019 take 30
# Share of zeros on noise: 0.1 to 0.5 for ReLU, 0.005 and more for Hardswish; SiLU of values below -100 is zero, too.
_FEW_ZEROS = 1e-3
Floats = NDArray[np.float64]


class PrunableTask(Task, Protocol):
    """A task with validation images, on which zeros are counted."""

    def validation_images(self) -> Iterator[Tensor]:
        """Yield batches (N, C, S, S)."""
        ...


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """Zeros or importances that a step's channels are ranked by."""

    shares: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    times: Mapping[str, float] | None = None
    importances: Mapping[str, NDArray[np.float64]] | None = None


def rank(
    network: nn.Module,
    groups: Sequence[ChannelGroup],
    plan: PrunePlan,
    spec: NetworkSpec,
    example: Tensor,
    task_of: Callable[[nn.Module], PrunableTask],
) -> Ranks:
    """Return what the plan ranks the channels of the groups by.

    network: on the CPU, where it is again after the call. Raises InputError if channels are ranked by zeros and there are none.
    """
    if plan.ranking == "magnitude":
        return Ranks(importances=magnitude(network, example, groups))
    if plan.ranking == "taylor":
        return Ranks(importances=_taylor(network, groups, example, task_of(network)))
    shares = _zeros(network, spec, task_of(network))
    return Ranks(shares=shares, times=_times(network, example, plan) if plan.ranking == "latency" else None)


def equal_ranks(groups: Sequence[ChannelGroup], plan: PrunePlan) -> Ranks:
    """Return equal ranks for all channels: how many are due does not depend on which."""
    if plan.by_zeros:
        return Ranks(shares={layer.conv: np.ones(1 + max(layer.own)) for g in groups for layer in g.layers})
    return Ranks(importances={g.root: np.ones(g.channels) for g in groups})


def _zeros(network: nn.Module, spec: NetworkSpec, task: PrunableTask) -> dict[str, Floats]:
    device = world().device
    shares = zero_shares(network.to(device), (batch.to(device) for batch in task.validation_images()))
    network.cpu()
    if not any(share.any() for share in shares.values()):  # no channel can be preferred
        raise InputError(_no_zeros(spec))
    return shares


def _taylor(
    network: nn.Module, groups: Sequence[ChannelGroup], example: Tensor, task: PrunableTask
) -> dict[str, Floats]:
    """Return the importances on the first training batches; broadcast, since all processes must remove the same."""
    device = world().device
    batches = islice(task.batches(0, World(rank=0, size=1, device=device)), _TAYLOR_BATCHES)
    with evaluation_mode(network.to(device)):
        losses = (task.loss(network, tuple(t.to(device) for t in batch)) for batch in batches)
        found = taylor(network, example, groups, losses)
    network.cpu()
    flat = {f"{root} {i}": float(x) for root, values in found.items() for i, x in enumerate(values)}
    agreed = broadcast(flat, world())
    return {root: np.array([agreed[f"{root} {i}"] for i in range(len(values))]) for root, values in found.items()}


def _times(network: nn.Module, example: Tensor, plan: PrunePlan) -> dict[str, float]:
    """Return milliseconds per channel, by convolution; broadcast, since all processes must remove the same channels."""
    times = cost.layer_times_ms(network, example, threads=plan.retrain.threads)
    return broadcast(cost.ms_per_channel(network, times), world())


def check_prunable(network: nn.Module, spec: NetworkSpec, preprocess: PreprocessSpec, plan: PrunePlan) -> None:
    """Raise InputError if the plan can prune no channel of the network: no channel can be followed, or most are never zero.

    A forward pass or two on random images, so that a recipe can refuse a network before it trains it for hours. network: any
    of this spec, trained or not.
    """
    example = torch.zeros(1, *preprocess.tensor_shape)
    groups = channel_groups(network, example, exclude=known_names(network, plan.exclude))
    if not any(g.activated or not plan.by_zeros for g in groups):
        raise InputError(nothing_to_prune(spec))
    if plan.by_zeros:
        shares = zeros_on_noise(network, example)
        activated = [g for g in groups if g.activated]
        with_zeros = [g for g in activated if group_shares(g, shares).mean() >= _FEW_ZEROS]
        if 2 * len(with_zeros) < len(activated):  # not all: R20's head has a ReLU whatever its trunk has
            raise InputError(_no_zeros(spec))


def _no_zeros(spec: NetworkSpec) -> str:
    return (
        f"no channel of {spec.architecture} can be removed by its zeros: its activations are never exactly zero (SiLU, GELU, "
        'ELU, leaky ReLU), or few are. Rank by weights and gradients, ranking = "taylor" or "magnitude" in the plan of '
        'pruning, or choose a network with ReLU; activations = ["relu"] keeps a search from the others'
    )


def nothing_to_prune(spec: NetworkSpec, left_whole: Sequence[LeftWhole] = ()) -> str:
    """Return the error message for a network without a prunable channel."""
    whole = "; ".join(f"{', '.join(left.layers[:3])}: {left.why}" for left in left_whole[:3])
    return (
        f"no channel of {spec.architecture} can be removed: no activation follows any of its convolutions that another layer "
        f"reads{f', or they are left whole ({whole})' if whole else ''}: prune another network"
    )
