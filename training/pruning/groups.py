"""Channel groups: a network in, the channels that can only be removed together out, from its dependency graph alone.

A sum, a depthwise or a grouped convolution couples channels of several layers. What is listed here can still fail when it is
removed; `training.pruning.channels.survey` tries each group and leaves those whole that do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch_pruning
from numpy.typing import NDArray
from torch import Tensor, nn

from training.pruning.apoz import ActivationUse, activation_use
from training.pruning.graph import Change, check_takes, coupled, is_depthwise, one_line, traced

__all__ = ["ChannelGroup", "GroupLayer", "LeftWhole", "listed"]

Integers = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class GroupLayer:
    """A convolution in a channel group."""

    conv: str  # module name
    own: tuple[int, ...]  # its channels: own[i] is the group's channel of_group[i]
    of_group: tuple[int, ...]
    activated: bool  # an activation follows
    passive: bool  # depthwise or a gate: a channel with zeros as input stays zero


@dataclass(frozen=True, kw_only=True)
class ChannelGroup:
    """Channels that can only be removed together from all their layers."""

    root: str  # the first convolution that computes them; channels are numbered as its outputs
    channels: int
    layers: tuple[GroupLayer, ...]
    # The channels in sets that are removed as one; larger than 1 where a grouped convolution needs equal group widths, or
    # where a group norm averages over several channels.
    ties: tuple[tuple[int, ...], ...]

    @property
    def activated(self) -> bool:
        """True if a layer has an activation; without one, zeros are no reason to remove a channel."""
        return any(layer.activated for layer in self.layers)

    @property
    def convolutions(self) -> tuple[str, ...]:
        """Names of the layers."""
        return tuple(layer.conv for layer in self.layers)


@dataclass(frozen=True, kw_only=True)
class LeftWhole:
    """Convolutions that keep all their channels, and why."""

    layers: tuple[str, ...]
    why: str


def listed(network: nn.Module, example: Tensor) -> tuple[list[ChannelGroup], list[LeftWhole]]:
    """Return the channel groups in module order, and the convolutions that the graph cannot follow.

    A convolution's channel is in one group at most. The last map (of labels) and the image's own channels are in none.
    """
    check_takes(network, example)
    use = activation_use(network, example)
    names = {m: n for n, m in network.named_modules()}
    groups: list[ChannelGroup] = []
    whole: list[LeftWhole] = []
    done: set[nn.Module] = set()
    with traced(network, example) as graph:
        for conv in [m for m in names if isinstance(m, nn.Conv2d) and m in graph.module2node]:
            if conv in done or is_depthwise(conv):
                continue
            try:
                changes = coupled(network, graph, names[conv], range(conv.out_channels))
                if _is_read(changes):
                    together = _together(network, graph, names[conv], conv)
                    groups.append(_channel_group(conv, changes, names, use, together))
            except (
                Exception
            ) as error:  # Torch-Pruning raises IndexError, AssertionError and others, or gives channels beyond
                whole.append(
                    LeftWhole(layers=(names[conv],), why=f"its channels cannot be followed ({one_line(error)})")
                )
                continue
            done.update(c.layer for c in changes if c.writes and isinstance(c.layer, nn.Module))
    return groups, whole


def _together(
    network: nn.Module, graph: torch_pruning.DependencyGraph, root: str, conv: nn.Conv2d
) -> list[Sequence[int]]:
    """Return the sets of the root's channels of which one takes the others with it.

    GhostNet's cheap operation makes half of a map from the other half: a channel of a sum goes with another of the same sum.
    Torch-Pruning's group of all channels does not show it, those of single channels do; three tell whether there are any.
    """

    def taken(channel: int) -> Sequence[int]:
        return next(c.own for c in coupled(network, graph, root, [channel]) if c.layer is conv and c.writes)

    last = conv.out_channels - 1
    if all(len(taken(c)) == 1 for c in {0, last // 2, last}):
        return []
    return [taken(c) for c in range(conv.out_channels)]


def _is_read(changes: Sequence[Change]) -> bool:
    """Return whether a later layer reads the channels; else they are the output."""
    reads = any(isinstance(c.layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear) and not c.writes for c in changes)
    return reads and not any(isinstance(c.layer, torch_pruning.ops._OutputOp) for c in changes)


def _channel_group(
    root: nn.Conv2d,
    changes: Sequence[Change],
    names: Mapping[nn.Module, str],
    use: ActivationUse,
    together: Sequence[Sequence[int]],
) -> ChannelGroup:
    layers = tuple(
        GroupLayer(
            conv=names[c.layer],
            own=c.own,
            of_group=c.of_root,
            activated=names[c.layer] in use.activated,
            passive=is_depthwise(c.layer) or names[c.layer] in use.gates,
        )
        for c in changes
        if c.writes and isinstance(c.layer, nn.Conv2d)
    )
    return ChannelGroup(
        root=names[root], channels=root.out_channels, layers=layers, ties=_ties(root.out_channels, changes, together)
    )


def _ties(channels: int, changes: Sequence[Change], together: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    """Return the sets of channels to remove as one."""
    tie = np.arange(channels)
    roots = [np.array(c.of_root)[key == value] for c in changes for key in _tied_by(c) for value in np.unique(key)]
    for members in (*roots, *map(list, together)):
        old = tie[members]
        tie[np.isin(tie, old)] = old.min(initial=channels)
    return tuple(tuple(np.flatnonzero(tie == t).tolist()) for t in np.unique(tie))


def _tied_by(change: Change) -> list[Integers]:
    """Return a number per channel if those of equal number are tied: every group of a grouped convolution loses the same
    index, and a group norm loses whole groups, since it averages over each."""
    layer, own = change.layer, np.array(change.own)
    if isinstance(layer, nn.Conv2d) and layer.groups > 1 and not is_depthwise(layer):
        return [own % ((layer.out_channels if change.writes else layer.in_channels) // layer.groups)]
    if isinstance(layer, nn.GroupNorm):
        return [own // (layer.num_channels // layer.num_groups)]
    return []
