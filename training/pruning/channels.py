"""Channels that can be removed: a network in, its channel groups out, and what is left whole with the reason.

A network is divided into channel groups (`training.pruning.groups`); each is tried on a copy (`training.pruning.removal`), and
those after whose removal the network does not run, or computes something else, are left whole, so that the rest can be pruned.
`select_channels` ranks the groups' channels, `remove` deletes them: this module has all that a loop of pruning calls.
"""

from __future__ import annotations

import fnmatch
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from cxr_edge.errors import InputError
from training.models.layers import without_compilation
from training.pruning.groups import ChannelGroup, GroupLayer, LeftWhole, listed
from training.pruning.removal import random_copy, remove, without_proof
from training.pruning.selection import group_shares, select_channels

__all__ = [
    "ChannelGroup", "GroupLayer", "LeftWhole", "Survey", "channel_groups", "group_shares", "known_names", "prunable", "remove",
    "select_channels", "survey",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Survey:
    """Channel groups that can be pruned, and the convolutions that are left whole."""

    groups: tuple[ChannelGroup, ...]
    whole: tuple[LeftWhole, ...]

    @property
    def excluded(self) -> tuple[str, ...]:
        """Names of the layers that are left whole, for `exclude`."""
        return tuple(name for left in self.whole for name in left.layers)


def prunable(network: nn.Module, example: Tensor, *, exclude: Sequence[str] = ()) -> list[ChannelGroup]:
    """Return the channel groups of a network that can be pruned, in module order; `survey` without the rest."""
    return list(survey(network, example, exclude=exclude).groups)


def survey(
    network: nn.Module,
    example: Tensor,
    *,
    exclude: Sequence[str] = (),
    rebuild: Callable[[nn.Module], nn.Module] | None = None,
) -> Survey:
    """Try to remove channels of every group, on copies with random weights, and return which groups hold.

    example: one image (1, C, S, S).
    exclude: names of modules to leave whole, with everything in them; `*` matches any part of a name.
    rebuild: returns a pruned network as it comes back from its files; what does not come back equal is left whole.

    Raises InputError if the network does not take the example or cannot be followed, and for a name in `exclude` that matches
    no convolution.
    """
    network = without_compilation(network)
    groups, whole = _without(network, *listed(network, example), exclude)
    trials = {g.root: _trial(g) for g in groups if len(g.ties) > 1}
    failed = without_proof(random_copy(network, example), example, trials, rebuild) if trials else {}
    whole += [LeftWhole(layers=g.convolutions, why=failed[g.root]) for g in groups if g.root in failed]
    return Survey(groups=tuple(g for g in groups if g.root not in failed), whole=tuple(whole))


def channel_groups(network: nn.Module, example: Tensor, *, exclude: Sequence[str] = ()) -> list[ChannelGroup]:
    """Return the channel groups without trying them: for a network whose `survey` is known, with its `excluded` layers."""
    network = without_compilation(network)
    return _without(network, *listed(network, example), exclude)[0]


def _without(
    network: nn.Module, groups: Sequence[ChannelGroup], whole: Sequence[LeftWhole], exclude: Sequence[str]
) -> tuple[list[ChannelGroup], list[LeftWhole]]:
    """Move groups to `whole` that `exclude` names, that share weights with other layers, or that a layer left whole couples."""
    reasons = {name: left.why for left in whole for name in left.layers}
    reasons |= dict.fromkeys(_shared(network), "its weights are shared with another layer")
    reasons |= dict.fromkeys(_matching(network, exclude), "excluded by the plan")
    kept: list[ChannelGroup] = []
    left = list(whole)
    for group in groups:
        why = next((reasons[name] for name in group.convolutions if name in reasons), None)
        if why is None:
            kept.append(group)
        else:
            left.append(LeftWhole(layers=group.convolutions, why=why))
    return kept, left


def _shared(network: nn.Module) -> list[str]:
    """Return the convolutions with a parameter that another module has too: removal would separate them."""
    owners: dict[int, list[str]] = {}
    for name, module in network.named_modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), []).append(name)
    return [name for names in owners.values() if len(names) > 1 for name in names]


def _matching(network: nn.Module, exclude: Sequence[str]) -> list[str]:
    """Return the convolutions that are named in `exclude`, or are inside of a module that is."""
    convs = [n for n, m in network.named_modules() if isinstance(m, nn.Conv2d)]
    if unknown := [pattern for pattern in exclude if not _inside(convs, pattern)]:
        raise InputError(
            f"exclude names {unknown[0]!r}, in which the network has no convolution: its convolutions are "
            f"{', '.join(convs[:8])}{' and others' if len(convs) > 8 else ''}"
        )
    return [name for pattern in exclude for name in _inside(convs, pattern)]


def known_names(network: nn.Module, exclude: Sequence[str]) -> tuple[str, ...]:
    """Return the names of `exclude` that this network has: a plan may be for several networks."""
    convs = [n for n, m in without_compilation(network).named_modules() if isinstance(m, nn.Conv2d)]
    return tuple(pattern for pattern in exclude if _inside(convs, pattern))


def _inside(convs: Sequence[str], pattern: str) -> list[str]:
    return [n for n in convs if fnmatch.fnmatchcase(n, pattern) or fnmatch.fnmatchcase(n, f"{pattern}.*")]


def _trial(group: ChannelGroup) -> tuple[int, ...]:
    """Return some of the group's channels, about a third, irregularly: a mistake must not cancel out."""
    rng = np.random.default_rng(zlib.crc32(group.root.encode()))
    count = min(max(len(group.ties) // 3, 1), len(group.ties) - 1)
    return tuple(sorted(c for i in rng.permutation(len(group.ties))[:count] for c in group.ties[i]))
