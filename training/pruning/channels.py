"""Channel selection and removal: a network and its shares of zeros in, a smaller network out.

A network is divided into channel groups: channels that can only be removed together, because a sum, a depthwise or a grouped
convolution couples them. `select_channels` ranks the groups' channels by their shares of zeros (`training.pruning.apoz`), as
R20 does over the full network or per layer; `remove` deletes them with every weight that reads or writes them
(Torch-Pruning's dependency graph), so that the result is a smaller ordinary network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import floor
from typing import Any, Literal

import numpy as np
import torch
import torch_pruning
from numpy.typing import NDArray
from torch import Tensor, nn

from cxr_edge.errors import InputError
from training.models.layers import evaluation_mode
from training.pruning.apoz import ActivationUse, activation_use

__all__ = ["ChannelGroup", "GroupLayer", "group_shares", "prunable", "remove", "select_channels"]

Floats = NDArray[np.float64]


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
    # The channels in sets that are removed as one; larger than 1 where a grouped convolution needs equal group widths.
    ties: tuple[tuple[int, ...], ...]

    @property
    def activated(self) -> bool:
        """True if a layer has an activation; without one, zeros are no reason to remove a channel."""
        return any(layer.activated for layer in self.layers)


def prunable(network: nn.Module, example: Tensor) -> list[ChannelGroup]:
    """Return the channel groups of a network, in module order; a convolution's channel is in one group at most.

    example: one image (1, C, S, S). The last map (of labels) and the image's own channels are in no group.
    """
    use = activation_use(network, example)
    with _traced(network, example) as graph:
        names = {m: n for n, m in network.named_modules()}
        groups: list[ChannelGroup] = []
        done: set[nn.Module] = set()
        for conv in [m for m in names if isinstance(m, nn.Conv2d) and m in graph.module2node]:
            if conv in done or _is_depthwise(conv):
                continue
            affected = _affected(graph, conv, range(conv.out_channels))
            done.update(m for m, _, _, writes in affected if writes)
            if _is_removable(affected):
                groups.append(_channel_group(conv, affected, names, use))
    return groups


def group_shares(group: ChannelGroup, shares: Mapping[str, Floats]) -> Floats:
    """Return the mean of the layers' shares of zeros (channels,); 1 only if every layer's activation is always zero.

    shares: of `training.pruning.apoz.zero_shares`. A gate, or a depthwise layer without an activation, is not counted: it
    passes zeros on. Another layer without an activation (a linear projection into the same sum) counts as 0: its removal
    would change the output.
    """
    total, layers = np.zeros(group.channels), np.zeros(group.channels)
    for layer in group.layers:
        if layer.activated or not layer.passive:
            of_group, own = list(layer.of_group), list(layer.own)
            total[of_group] += shares[layer.conv][own] if layer.activated else 0.0
            layers[of_group] += 1
    return total / np.maximum(layers, 1)


def select_channels(
    groups: Sequence[ChannelGroup],
    shares: Mapping[str, Floats],
    *,
    step: int,
    original: Mapping[str, int],
    fraction: float = 0.02,
    scope: Literal["global", "layer"] = "global",
    ms_per_channel: Mapping[str, float] | None = None,
    multiple_of: int = 1,
    keep_at_least: int = 1,
    ahead: float | None = None,
) -> dict[str, tuple[int, ...]]:
    """Return the channels to remove at step 1, 2, ...: group's root -> its channels, ascending.

    After step k the number of removed channels is, with scope `global`, k * floor(fraction of the ORIGINAL channels) of all
    groups together (R20's code, which reproduces its Table 6), or, with scope `layer`, floor(k * fraction of its original
    channels) of each group (R20's text; 2 % of 32 channels are less than one per step, so only the total can be rounded).
    Channels that one step cannot remove, because of `multiple_of` or `keep_at_least`, are due at the next.

    groups, shares: of the current network.
    original: root -> channels of the unpruned network.
    ms_per_channel: of each convolution; channels are then ranked by share of zeros times milliseconds.
    multiple_of: the remaining channels of a pruned group are a multiple of this.
    ahead: a group shrinks at most this many times as fast as all together; None for no limit, as R20.

    Groups without an activation lose no channel. Raises InputError for an unknown scope or a mapping that lacks a layer.
    """
    if scope not in ("global", "layer"):
        raise InputError(f"the scope of pruning is 'global' or 'layer', not {scope!r}")
    if missing := [g.root for g in groups if g.root not in original]:
        raise InputError(f"the unpruned network's channel counts lack {', '.join(missing)}: is it the same network?")
    blocks = [
        b
        for g in groups
        if g.activated
        for b in _blocks(g, _scores(g, shares, ms_per_channel), multiple_of, keep_at_least)
    ]
    batches = [list(groups)] if scope == "global" else [[g] for g in groups]
    selected: dict[str, list[int]] = {}
    for batch in batches:
        due = _channels_due(batch, original, fraction, step, scope)
        limits = {g.root: _removable_channels(g, original, fraction * step, ahead) for g in batch}
        for block in _best_blocks([b for b in blocks if b.root in limits], due, limits):
            selected.setdefault(block.root, []).extend(block.channels)
    return {root: tuple(sorted(channels)) for root, channels in selected.items()}


def remove(network: nn.Module, example: Tensor, chosen: Mapping[str, Sequence[int]]) -> None:
    """Remove the chosen channels (group's root -> channels) from the network, in place.

    Removing channels that are zero after their activation does not change the output. Raises InputError for a name that is
    not a convolution, and for a removal that would leave a layer empty.
    """
    convs = {n: m for n, m in network.named_modules() if isinstance(m, nn.Conv2d)}
    for root, channels in chosen.items():
        if root not in convs or len(set(channels)) >= convs[root].out_channels:
            raise InputError(f"{root!r} cannot lose {len(channels)} channels: it is no convolution, or has no more")
    with _traced(network, example) as graph:
        for root, channels in chosen.items():
            if channels:
                graph.get_pruning_group(convs[root], torch_pruning.prune_conv_out_channels, sorted(channels)).prune()


# A layer affected by a removal: module, its channels, the root's channels, whether they are its outputs.
_Affected = tuple[nn.Module, Sequence[int], Sequence[int], bool]


@contextmanager
def _traced(network: nn.Module, example: Tensor) -> Iterator[torch_pruning.DependencyGraph]:
    """Yield the dependency graph; tracing needs gradients and evaluation mode, both are restored after."""
    frozen = [n for n, p in network.named_parameters() if not p.requires_grad]
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    try:
        with evaluation_mode(network), torch.enable_grad():
            network.requires_grad_(True)
            # A tuple: a single tensor would be unpacked along its batch.
            yield torch_pruning.DependencyGraph().build_dependency(
                network, (example.to(device),), output_transform=_tensors, verbose=False
            )
    finally:
        for name in frozen:
            network.get_parameter(name).requires_grad_(False)


def _tensors(output: Any) -> list[Tensor]:
    """Return a network's output tensors; a network with dense layers has no class activation map."""
    return [output] if isinstance(output, Tensor) else [value for value in output if value is not None]


def _affected(graph: torch_pruning.DependencyGraph, conv: nn.Conv2d, channels: Sequence[int]) -> list[_Affected]:
    found = graph.get_pruning_group(conv, torch_pruning.prune_conv_out_channels, list(channels))
    return [(i.dep.target.module, i.idxs, i.root_idxs, graph.is_out_channel_pruning_fn(i.dep.handler)) for i in found]


def _is_depthwise(conv: nn.Conv2d) -> bool:
    # One channel in and out can be the rest of a pruned depthwise convolution; it has none to lose in any case.
    return conv.groups == conv.out_channels == conv.in_channels


def _is_removable(affected: Sequence[_Affected]) -> bool:
    """Return whether a later layer reads the channels; else they are the output. Group norm would mix the rest."""
    reads = any(
        isinstance(m, nn.Conv2d | nn.ConvTranspose2d | nn.Linear) and not writes for m, _, _, writes in affected
    )
    fixed = any(isinstance(m, torch_pruning.ops._OutputOp | nn.GroupNorm) for m, _, _, _ in affected)
    return reads and not fixed


def _channel_group(
    root: nn.Conv2d, affected: Sequence[_Affected], names: Mapping[nn.Module, str], use: ActivationUse
) -> ChannelGroup:
    layers = tuple(
        GroupLayer(
            conv=names[m],
            own=tuple(own),
            of_group=tuple(of),
            activated=names[m] in use.activated,
            passive=_is_depthwise(m) or names[m] in use.gates,
        )
        for m, own, of, writes in affected
        if writes and isinstance(m, nn.Conv2d)
    )
    ties = _ties(root.out_channels, affected)
    return ChannelGroup(root=names[root], channels=root.out_channels, layers=layers, ties=ties)


def _ties(channels: int, affected: Sequence[_Affected]) -> tuple[tuple[int, ...], ...]:
    """Return the sets of channels to remove as one: every group of a grouped convolution loses the same index."""
    tie = np.arange(channels)
    for layer, own, of_group, writes in affected:
        if isinstance(layer, nn.Conv2d) and layer.groups > 1 and not _is_depthwise(layer):
            width = (layer.out_channels if writes else layer.in_channels) // layer.groups
            for index in range(width):
                together = tie[[g for o, g in zip(own, of_group, strict=True) if o % width == index]]
                tie[np.isin(tie, together)] = together.min(initial=channels)
    return tuple(tuple(np.flatnonzero(tie == t).tolist()) for t in np.unique(tie))


@dataclass(frozen=True, kw_only=True)
class _Block:
    """Channels of one group to remove at once."""

    root: str
    channels: tuple[int, ...]
    score: float
    rank: float  # in its own group, as a share of the channels, in (0, 1]


def _scores(group: ChannelGroup, shares: Mapping[str, Floats], ms_per_channel: Mapping[str, float] | None) -> Floats:
    scores = group_shares(group, shares)
    if ms_per_channel is None:
        return scores
    if missing := [layer.conv for layer in group.layers if layer.conv not in ms_per_channel]:
        raise InputError(f"milliseconds per channel are missing for {', '.join(missing)}")
    ms = np.zeros(group.channels)
    for layer in group.layers:
        ms[list(layer.of_group)] += ms_per_channel[layer.conv]
    return scores * ms


def _blocks(group: ChannelGroup, scores: Floats, multiple_of: int, keep_at_least: int) -> list[_Block]:
    """Return the group's channels by falling score, in blocks that each leave a multiple of `multiple_of` channels."""
    ranked = sorted(group.ties, key=lambda tie: -scores[list(tie)].mean())
    blocks: list[_Block] = []
    block: list[int] = []
    left = group.channels
    for tie in ranked:
        block.extend(tie)
        left -= len(tie)
        if left < max(keep_at_least, 1):
            break
        if left % multiple_of == 0:
            score, rank = float(scores[block].mean()), (group.channels - left) / group.channels
            blocks.append(_Block(root=group.root, channels=tuple(block), score=score, rank=rank))
            block = []
    return blocks


def _channels_due(
    groups: Sequence[ChannelGroup], original: Mapping[str, int], fraction: float, step: int, scope: str
) -> int:
    """Return how many channels of the groups are to be removed by this step and are still there."""
    count = sum(original[g.root] for g in groups)
    # 0.02 * 5250 must floor to 105 in spite of the binary fraction.
    total = step * floor(fraction * count + 1e-9) if scope == "global" else floor(step * fraction * count + 1e-9)
    return total - (count - sum(g.channels for g in groups))


def _removable_channels(group: ChannelGroup, original: Mapping[str, int], share: float, ahead: float | None) -> int:
    """Return how many channels a group may lose when all groups together have lost `share` of theirs."""
    if ahead is None:
        return group.channels
    return floor(ahead * share * original[group.root] + 1e-9) - (original[group.root] - group.channels)


def _best_blocks(blocks: Sequence[_Block], due: int, limits: Mapping[str, int]) -> Iterator[_Block]:
    """Yield the blocks of highest score within `due` channels in total and the limit of each group.

    Equal scores (many channels are always zero) are spread over the groups by `rank`.
    """
    left, closed = dict(limits), set[str]()
    for block in sorted(blocks, key=lambda b: (-b.score, b.rank)):
        size = len(block.channels)
        if block.root in closed:
            continue
        if size > min(due, left[block.root]):
            closed.add(block.root)
            continue
        due, left[block.root] = due - size, left[block.root] - size
        yield block
