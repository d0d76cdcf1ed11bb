"""Selection of channels: groups and their shares of zeros (or their importance) in, the channels to remove at a step out.

Channels are ranked by their shares of zeros (`training.pruning.apoz`) as R20 does, over the full network or per layer, or by
the importance that weights and gradients give them (`training.pruning.importance`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import floor
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cxr_edge.errors import InputError
from training.pruning.groups import ChannelGroup

__all__ = ["group_shares", "select_channels"]

Floats = NDArray[np.float64]


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
    importances: Mapping[str, Floats] | None = None,
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
    importances: root -> importance of its channels (`training.pruning.importance`); the least important are removed, shares are
    not used, and groups without an activation lose channels too.
    multiple_of: the remaining channels of a pruned group are a multiple of this.
    ahead: a group shrinks at most this many times as fast as all together; None for no limit, as R20.

    By zeros, groups without an activation lose no channel. Raises InputError for an unknown scope or a mapping that lacks a
    layer.
    """
    if scope not in ("global", "layer"):
        raise InputError(f"the scope of pruning is 'global' or 'layer', not {scope!r}")
    if missing := [g.root for g in groups if g.root not in original]:
        raise InputError(f"the unpruned network's channel counts lack {', '.join(missing)}: is it the same network?")
    scores = _by_zeros(groups, shares, ms_per_channel) if importances is None else _by_importance(groups, importances)
    blocks = [b for g in groups if g.root in scores for b in _blocks(g, scores[g.root], multiple_of, keep_at_least)]
    batches = [list(groups)] if scope == "global" else [[g] for g in groups]
    selected: dict[str, list[int]] = {}
    for batch in batches:
        due = _channels_due(batch, original, fraction, step, scope)
        limits = {g.root: _removable_channels(g, original, fraction * step, ahead) for g in batch}
        for block in _best_blocks([b for b in blocks if b.root in limits], due, limits):
            selected.setdefault(block.root, []).extend(block.channels)
    return {root: tuple(sorted(channels)) for root, channels in selected.items()}


@dataclass(frozen=True, kw_only=True)
class _Block:
    """Channels of one group to remove at once."""

    root: str
    channels: tuple[int, ...]
    score: float
    rank: float  # in its own group, as a share of the channels, in (0, 1]


def _by_zeros(
    groups: Sequence[ChannelGroup], shares: Mapping[str, Floats], ms_per_channel: Mapping[str, float] | None
) -> dict[str, Floats]:
    return {g.root: _scores(g, shares, ms_per_channel) for g in groups if g.activated}


def _by_importance(groups: Sequence[ChannelGroup], importances: Mapping[str, Floats]) -> dict[str, Floats]:
    if missing := [g.root for g in groups if g.root not in importances]:
        raise InputError(f"importances are missing for {', '.join(missing)}: compute them from the same network")
    return {g.root: -importances[g.root] for g in groups}


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
