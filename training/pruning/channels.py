"""Channels out of a network: which ones go at a step of iterative pruning, and their physical removal.

A network becomes its units: channels that can only go together, because a sum, a depthwise convolution or a grouped one
couples them. `choose` ranks the units' channels by their shares of zeros (`training.pruning.apoz`), as R20 does over the whole
network or layer by layer; `remove` takes them out with every weight that reads or makes them (Torch-Pruning's dependency
graph), so that the network is a smaller ordinary one.
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
from training.pruning.apoz import Followed, followed

__all__ = ["Member", "Unit", "choose", "prunable", "remove", "unit_shares"]


@dataclass(frozen=True, kw_only=True)
class Member:
    """A convolution in a unit: its channel `own[i]` is the unit's channel `of_unit[i]`.

    activated: an activation follows. passive: depthwise or a gate, so that a channel which others leave at zero stays zero.
    """

    conv: str
    own: tuple[int, ...]
    of_unit: tuple[int, ...]
    activated: bool
    passive: bool


@dataclass(frozen=True, kw_only=True)
class Unit:
    """Channels that go together over all members; numbered as those of `root`, the first convolution that makes them.

    ties: the unit's channels, in sets of which all go or none (more than one where a grouped convolution needs its groups
    of one width).
    """

    root: str
    channels: int
    members: tuple[Member, ...]
    ties: tuple[tuple[int, ...], ...]

    @property
    def activated(self) -> bool:
        """Whether an activation follows at all; without one, no zeros speak for removing anything."""
        return any(m.activated for m in self.members)


def prunable(network: nn.Module, example: Tensor) -> list[Unit]:
    """The units of a network, in the order of its modules; each channel of a convolution is in one unit at most.

    example: one image (1, C, S, S). The last map (of labels) is in none, nor are channels of the image itself.
    """
    after = followed(network, example)
    with _traced(network, example) as graph:
        names = {m: n for n, m in network.named_modules()}
        units: list[Unit] = []
        seen: set[nn.Module] = set()
        for conv in [m for m in names if isinstance(m, nn.Conv2d) and m in graph.module2node]:
            if conv in seen or _filters(conv):
                continue
            group = _group(graph, conv, range(conv.out_channels))
            seen.update(m for m, _, _, makes in group if makes)
            if _can_go(group):
                units.append(_unit(conv, group, names, after))
    return units


def unit_shares(unit: Unit, shares: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    """(channels,): the mean of the members' zero shares; 1 only if every member's activation is always zero.

    shares: of `training.pruning.apoz.zero_shares`. A gate, or a depthwise member without an activation, has no say: it passes
    zeros on. Another member without one (a linear projection into the same sum) counts as 0: its removal would be felt.
    """
    total, members = np.zeros(unit.channels), np.zeros(unit.channels)
    for member in unit.members:
        if member.activated or not member.passive:
            of_unit, own = list(member.of_unit), list(member.own)
            total[of_unit] += shares[member.conv][own] if member.activated else 0.0
            members[of_unit] += 1
    return total / np.maximum(members, 1)


def choose(
    units: Sequence[Unit],
    shares: Mapping[str, NDArray[np.float64]],
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
    """The channels that go at step 1, 2, ...: unit's root -> its channels, ascending.

    After step k, these are gone: of all units together k * floor(fraction of the ORIGINAL channels) (`global`, what R20's
    code does and what reproduces its Table 6), or of each unit floor(k * fraction of its original channels) (`layer`, what
    its text says; 2 % of 32 channels are less than one per step, so only the total can be rounded). What one step leaves
    over, for want of a whole multiple or because layers are at their floor, is thereby due at the next.

    units, shares: of the network as it is now. original: root -> channels of the fresh network. ms_per_channel: of each
    convolution, then zero share times milliseconds ranks. multiple_of: a unit's remaining channels are, once it loses any, a
    multiple of this. ahead: how many times as fast as all together a unit may shrink; None for no limit, as R20. Units that
    no activation follows lose none. Raises InputError for a scope or mapping that does not fit.
    """
    if scope not in ("global", "layer"):
        raise InputError(f"the scope of pruning is 'global' or 'layer', not {scope!r}")
    if missing := [u.root for u in units if u.root not in original]:
        raise InputError(f"the fresh network's counts lack {', '.join(missing)}: was it the same network?")
    blocks = [
        b
        for u in units
        if u.activated
        for b in _blocks(u, _scores(u, shares, ms_per_channel), multiple_of, keep_at_least)
    ]
    batches = [list(units)] if scope == "global" else [[u] for u in units]
    gone: dict[str, list[int]] = {}
    for batch in batches:
        due = _due(batch, original, fraction, step, scope)
        allowed = {u.root: _allowed(u, original, fraction * step, ahead) for u in batch}
        for block in _within([b for b in blocks if b.root in allowed], due, allowed):
            gone.setdefault(block.root, []).extend(block.channels)
    return {root: tuple(sorted(channels)) for root, channels in gone.items()}


def remove(network: nn.Module, example: Tensor, chosen: Mapping[str, Sequence[int]]) -> None:
    """Take the chosen channels (unit's root -> channels) out of the network, in place.

    Channels that were zero after their activation leave the function as it was. Raises InputError for a name that is no
    convolution, and for a removal that would leave a layer empty.
    """
    convs = {n: m for n, m in network.named_modules() if isinstance(m, nn.Conv2d)}
    for root, channels in chosen.items():
        if root not in convs or len(set(channels)) >= convs[root].out_channels:
            raise InputError(f"{root!r} cannot lose {len(channels)} channels: it is no convolution, or has no more")
    with _traced(network, example) as graph:
        for root, channels in chosen.items():
            if channels:
                graph.get_pruning_group(convs[root], torch_pruning.prune_conv_out_channels, sorted(channels)).prune()


# What one convolution's removal touches: layer, its channels, the root's channels, whether they are its outputs.
_Touched = tuple[nn.Module, Sequence[int], Sequence[int], bool]


@contextmanager
def _traced(network: nn.Module, example: Tensor) -> Iterator[torch_pruning.DependencyGraph]:
    """The dependency graph; tracing needs gradients and evaluation, and what was is put back after."""
    training = {m: m.training for m in network.modules()}
    frozen = [n for n, p in network.named_parameters() if not p.requires_grad]
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    try:
        with torch.enable_grad():
            network.requires_grad_(True)
            # A tuple: a lone tensor would be unpacked along its batch.
            yield torch_pruning.DependencyGraph().build_dependency(
                network, (example.to(device),), output_transform=_tensors, verbose=False
            )
    finally:
        for m, was in training.items():
            m.training = was
        for name in frozen:
            network.get_parameter(name).requires_grad_(False)


def _tensors(output: Any) -> list[Tensor]:
    """What a network gives, without the class activation map that one with dense layers has not."""
    return [output] if isinstance(output, Tensor) else [value for value in output if value is not None]


def _group(graph: torch_pruning.DependencyGraph, conv: nn.Conv2d, channels: Sequence[int]) -> list[_Touched]:
    group = graph.get_pruning_group(conv, torch_pruning.prune_conv_out_channels, list(channels))
    return [(i.dep.target.module, i.idxs, i.root_idxs, graph.is_out_channel_pruning_fn(i.dep.handler)) for i in group]


def _filters(conv: nn.Conv2d) -> bool:
    # One channel in and out is what pruning may leave of a depthwise convolution, and has none to give either way.
    return conv.groups == conv.out_channels == conv.in_channels


def _can_go(group: Sequence[_Touched]) -> bool:
    """Whether a later layer reads the channels; if none does they are the answer. Group norm would mix what is left."""
    reads = any(isinstance(m, nn.Conv2d | nn.ConvTranspose2d | nn.Linear) and not makes for m, _, _, makes in group)
    answers = any(isinstance(m, torch_pruning.ops._OutputOp | nn.GroupNorm) for m, _, _, _ in group)
    return reads and not answers


def _unit(root: nn.Conv2d, group: Sequence[_Touched], names: Mapping[nn.Module, str], after: Followed) -> Unit:
    members = tuple(
        Member(
            conv=names[m],
            own=tuple(own),
            of_unit=tuple(of),
            activated=names[m] in after.activated,
            passive=_filters(m) or names[m] in after.gates,
        )
        for m, own, of, makes in group
        if makes and isinstance(m, nn.Conv2d)
    )
    return Unit(root=names[root], channels=root.out_channels, members=members, ties=_ties(root.out_channels, group))


def _ties(channels: int, group: Sequence[_Touched]) -> tuple[tuple[int, ...], ...]:
    """A grouped convolution stays one if every group loses its channel at the same place."""
    tie = np.arange(channels)
    for layer, own, of_unit, makes in group:
        if isinstance(layer, nn.Conv2d) and layer.groups > 1 and not _filters(layer):
            width = (layer.out_channels if makes else layer.in_channels) // layer.groups
            for place in range(width):
                together = tie[[u for o, u in zip(own, of_unit, strict=True) if o % width == place]]
                tie[np.isin(tie, together)] = together.min(initial=channels)
    return tuple(tuple(np.flatnonzero(tie == t).tolist()) for t in np.unique(tie))


@dataclass(frozen=True, kw_only=True)
class _Block:
    """Channels of one unit that go at once. place: how far down its own unit's ranking, in (0, 1]."""

    root: str
    channels: tuple[int, ...]
    score: float
    place: float


def _scores(
    unit: Unit, shares: Mapping[str, NDArray[np.float64]], ms_per_channel: Mapping[str, float] | None
) -> NDArray[np.float64]:
    scores = unit_shares(unit, shares)
    if ms_per_channel is None:
        return scores
    if missing := [m.conv for m in unit.members if m.conv not in ms_per_channel]:
        raise InputError(f"no milliseconds a channel are given for {', '.join(missing)}")
    ms = np.zeros(unit.channels)
    for member in unit.members:
        ms[list(member.of_unit)] += ms_per_channel[member.conv]
    return scores * ms


def _blocks(unit: Unit, scores: NDArray[np.float64], multiple_of: int, keep_at_least: int) -> list[_Block]:
    """The unit's channels, most silent first, cut so that after every block what is left is a multiple."""
    ranked = sorted(unit.ties, key=lambda tie: -scores[list(tie)].mean())
    blocks, block, left = [], [], unit.channels
    for tie in ranked:
        block.extend(tie)
        left -= len(tie)
        if left < max(keep_at_least, 1):
            break
        if left % multiple_of == 0:
            score, place = float(scores[block].mean()), (unit.channels - left) / unit.channels
            blocks.append(_Block(root=unit.root, channels=tuple(block), score=score, place=place))
            block = []
    return blocks


def _due(units: Sequence[Unit], original: Mapping[str, int], fraction: float, step: int, scope: str) -> int:
    fresh = sum(original[u.root] for u in units)
    # 0.02 * 5250 must floor to 105 whatever the binary fraction says.
    total = step * floor(fraction * fresh + 1e-9) if scope == "global" else floor(step * fraction * fresh + 1e-9)
    return total - (fresh - sum(u.channels for u in units))


def _allowed(unit: Unit, original: Mapping[str, int], share: float, ahead: float | None) -> int:
    """How many channels a unit may lose when all together have lost `share` of theirs."""
    if ahead is None:
        return unit.channels
    return floor(ahead * share * original[unit.root] + 1e-9) - (original[unit.root] - unit.channels)


def _within(blocks: Sequence[_Block], due: int, allowed: Mapping[str, int]) -> Iterator[_Block]:
    """The best blocks that fit in what is due of all and allowed of each. Equal scores (many zeros are total) spread over
    the units by `place`."""
    left, closed = dict(allowed), set[str]()
    for block in sorted(blocks, key=lambda b: (-b.score, b.place)):
        size = len(block.channels)
        if block.root in closed:
            continue
        if size > min(due, left[block.root]):
            closed.add(block.root)
            continue
        due, left[block.root] = due - size, left[block.root] - size
        yield block
