"""Layers and modes of a network: layer number per parameter, freezing of the trunk, evaluation mode.

Fine-tuning needs the layers for layer-wise learning rates and for frozen trunks. A layer is as in timm (a residual block, a
dense block, one convolution of VGG), or a child of the trunk if the network is not timm's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from timm.models import group_parameters
from torch import nn

from cxr_edge.errors import InputError

__all__ = ["evaluation_mode", "freeze_layers", "freeze_trunk", "layer_numbers", "without_compilation"]


def layer_numbers(network: nn.Module) -> dict[str, int]:
    """Return parameter name -> layer number; 0 is nearest to the input, the head has the highest number."""
    trunk = getattr(network, "trunk", None)
    if not isinstance(trunk, nn.Module):
        return _by_child(network)
    inner: Any = getattr(trunk, "network", None)
    if hasattr(inner, "group_matcher"):
        layers = {f"trunk.network.{k}": n for k, n in _by_timm(inner).items()}
    else:
        layers = {f"trunk.{k}": n for k, n in _by_child(trunk).items()}
    highest = max(layers.values()) + 1
    return {name: layers.get(name, highest) for name, _ in network.named_parameters()}


def freeze_trunk(network: nn.Module, frozen: bool) -> None:
    """Freeze or unfreeze the trunk; frozen norm layers are in evaluation mode and keep their statistics.

    Raises InputError for a network without trunk and head.
    """
    trunk = getattr(network, "trunk", None)
    if not isinstance(trunk, nn.Module):
        raise InputError(
            f"frozen_epochs needs a network with trunk and head, and a {type(network).__name__} has none: leave it out"
        )
    trunk.requires_grad_(not frozen)
    trunk.train(not frozen)


def freeze_layers(network: nn.Module, count: int) -> None:
    """Freeze the `count` layers next to the input; norm layers in them are in evaluation mode and keep their statistics.

    Raises InputError if no layer would be left.
    """
    layers = layer_numbers(network)
    if count > max(layers.values()):
        raise InputError(
            f"frozen_layers = {count} leaves nothing to train: the network has {max(layers.values()) + 1} layers, give less"
        )
    for name, parameter in network.named_parameters():
        if layers[name] < count:
            parameter.requires_grad_(False)
    for module in network.modules():
        own = list(module.parameters(recurse=False))
        if own and not any(p.requires_grad for p in own):
            module.eval()


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[nn.Module]:
    """Set the network to evaluation mode during the block; restore the mode of each module afterwards (some may be frozen)."""
    modes = [(m, m.training) for m in network.modules()]
    try:
        yield network.eval()
    finally:
        for module, mode in modes:
            module.training = mode


def without_compilation(network: nn.Module) -> nn.Module:
    """Return the network that `torch.compile` wrapped, or the network itself; both have the same weights."""
    inner = getattr(network, "_orig_mod", network)
    assert isinstance(inner, nn.Module)
    return inner


def _by_timm(network: Any) -> dict[str, int]:
    """Return timm's numbers without gaps: timm counts the classifier, which was removed."""
    numbers: dict[str, int] = group_parameters(network, network.group_matcher(coarse=False), reverse=True)
    order = {n: i for i, n in enumerate(sorted(set(numbers.values())))}
    return {name: order[n] for name, n in numbers.items()}


# A child of a Sequential, of a list of cells, or any other.
_CHILD = re.compile(r"\d+|[^.]+\.\d+|[^.]+")


def _by_child(module: nn.Module) -> dict[str, int]:
    children = {name: _CHILD.match(name)[0] for name, _ in module.named_parameters()}  # type: ignore[index]
    number = {child: i for i, child in enumerate(dict.fromkeys(children.values()))}
    return {name: number[child] for name, child in children.items()}
