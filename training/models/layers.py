"""The layers of a network from its input to its head: a network in, the number of each parameter's layer out.

Fine-tuning asks for them: a rate that falls from layer to layer, a trunk that is frozen. A layer here is what timm calls one
(a residual block, a dense block, one convolution of VGG), or a child of the trunk where the network is not timm's.
"""

from __future__ import annotations

import re

from timm.models import group_parameters
from torch import nn

from cxr_edge.errors import InputError

__all__ = ["freeze_trunk", "layer_of"]


def layer_of(network: nn.Module) -> dict[str, int]:
    """Parameter name -> its layer; 0 is nearest to the input, the head has the highest number."""
    trunk = getattr(network, "trunk", None)
    if not isinstance(trunk, nn.Module):
        return _by_child(network)
    inner = getattr(trunk, "network", None)
    if hasattr(inner, "group_matcher"):
        layers = {f"trunk.network.{k}": n for k, n in _timms(inner).items()}
    else:
        layers = {f"trunk.{k}": n for k, n in _by_child(trunk).items()}
    highest = max(layers.values()) + 1
    return {name: layers.get(name, highest) for name, _ in network.named_parameters()}


def freeze_trunk(network: nn.Module, frozen: bool) -> None:
    """Let the trunk's weights be learnt, or not; norms are put in evaluation, where they keep their statistics, if not.

    Raises InputError for a network without trunk and head.
    """
    trunk = getattr(network, "trunk", None)
    if not isinstance(trunk, nn.Module):
        raise InputError(
            f"frozen_epochs needs a network with trunk and head, and a {type(network).__name__} has none: leave it out"
        )
    trunk.requires_grad_(not frozen)
    trunk.train(not frozen)


def _timms(network: nn.Module) -> dict[str, int]:
    """Numbers without gaps: timm counts the classifier, which was cut off."""
    found = group_parameters(network, network.group_matcher(coarse=False), reverse=True)
    order = {n: i for i, n in enumerate(sorted(set(found.values())))}
    return {name: order[n] for name, n in found.items()}


# A child of a Sequential, of a list of cells, or any other.
_CHILD = re.compile(r"\d+|[^.]+\.\d+|[^.]+")


def _by_child(module: nn.Module) -> dict[str, int]:
    children = {name: _CHILD.match(name)[0] for name, _ in module.named_parameters()}  # type: ignore[index]
    number = {child: i for i, child in enumerate(dict.fromkeys(children.values()))}
    return {name: number[child] for name, child in children.items()}
