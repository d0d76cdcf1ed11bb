"""Weight shapes of pruned networks: a network in, its shapes out, and resizing of a network to given shapes.

Forward passes do not depend on channel counts, so a new network becomes the pruned one by resizing its weights. A pruned
network is therefore a JSON object and a file of tensors.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from cxr_edge.errors import BundleError

__all__ = ["Shapes", "resize", "shapes_of"]

Shapes = Mapping[str, tuple[int, ...]]


def shapes_of(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return module name -> weight shape of every layer that has a weight."""
    return {name: tuple(m.weight.shape) for name, m in network.named_modules() if _weight(m) is not None}


def _weight(module: nn.Module) -> torch.Tensor | None:
    weight = getattr(module, "weight", None)
    return weight if isinstance(weight, torch.Tensor) else None


def resize(network: nn.Module, shapes: Shapes) -> None:
    """Resize the weights of the named layers, in place; their values are undefined until loaded.

    Raises BundleError for a layer that does not exist or is of a type that cannot be resized.
    """
    layers = dict(network.named_modules())
    for name, shape in shapes.items():
        layer = layers.get(name)
        if isinstance(layer, nn.Conv2d):
            _resize_conv(layer, shape)
        elif isinstance(layer, nn.BatchNorm2d):
            _resize_norm(layer, shape[0])
        elif isinstance(layer, nn.Linear):
            layer.out_features, layer.in_features = shape
            layer.weight, layer.bias = _empty(shape), None if layer.bias is None else _empty(shape[:1])
        else:
            raise BundleError(
                f"the network has no layer {name!r} that could be resized to {shape}: another architecture?"
            )


def _resize_conv(layer: nn.Conv2d, shape: tuple[int, ...]) -> None:
    if layer.groups > 1:
        # A depthwise layer stays depthwise; another grouped one keeps its number of groups, which get narrower.
        layer.groups = shape[0] if layer.groups == layer.in_channels == layer.out_channels else layer.groups
    layer.out_channels, layer.in_channels = shape[0], shape[1] * layer.groups
    layer.weight, layer.bias = _empty(shape), None if layer.bias is None else _empty(shape[:1])


def _resize_norm(layer: nn.BatchNorm2d, features: int) -> None:
    layer.num_features = features
    layer.weight, layer.bias = _empty((features,)), _empty((features,))
    layer.running_mean, layer.running_var = torch.zeros(features), torch.ones(features)


def _empty(shape: tuple[int, ...]) -> nn.Parameter:
    return nn.Parameter(torch.zeros(shape))
