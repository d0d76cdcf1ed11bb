"""Importance of channels without zeros: a network (and losses) in, each group's importance per channel out.

For networks whose activations are never exactly zero (SiLU, GELU), where R20's criterion has nothing to count. `magnitude` is the
squared size of all weights of a channel, `taylor` the size of weight times gradient: the first-order change of the loss without
the channel (Molchanov et al. 2019). Both are Torch-Pruning's, as a share of their group's mean, so that groups compare.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch_pruning
from numpy.typing import NDArray
from torch import Tensor, nn

from cxr_edge.errors import InputError
from training.models.layers import without_compilation
from training.pruning.graph import pruning_group, traced
from training.pruning.groups import ChannelGroup

__all__ = ["magnitude", "taylor"]

Importances = dict[str, NDArray[np.float64]]  # group's root -> (channels,)


def magnitude(network: nn.Module, example: Tensor, groups: Sequence[ChannelGroup]) -> Importances:
    """Return the importance of each group's channels by the size of their weights."""
    return _scores(without_compilation(network), example, groups, torch_pruning.importance.GroupMagnitudeImportance())


def taylor(
    network: nn.Module, example: Tensor, groups: Sequence[ChannelGroup], losses: Iterable[Tensor]
) -> Importances:
    """Return the importance of each group's channels by the change of the loss without them.

    losses: of training batches, computed by `network` with gradients; consumed one after the other. Gradients of the network
    are none after the call. Raises InputError without a loss.
    """
    network = without_compilation(network)
    network.zero_grad(set_to_none=True)
    count = 0
    for loss in losses:
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
        count += 1
    if not count:
        raise InputError("no batch to compute gradients on: give at least one loss")
    for parameter in network.parameters():  # what the loss does not depend on
        parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    scores = _scores(network, example, groups, torch_pruning.importance.GroupTaylorImportance())
    network.zero_grad(set_to_none=True)
    return scores


def _scores(
    network: nn.Module, example: Tensor, groups: Sequence[ChannelGroup], importance: torch_pruning.importance.Importance
) -> Importances:
    with traced(network, example) as graph:
        found = {g.root: importance(pruning_group(network, graph, g.root, range(g.channels))) for g in groups}
    # A group of zeros has no mean to divide by: nothing in it matters.
    return {root: np.nan_to_num(values.double().cpu().numpy(), nan=0.0) for root, values in found.items()}
