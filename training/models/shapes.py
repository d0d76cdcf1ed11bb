"""The shapes that pruning leaves: a network in, which weights are smaller than in a fresh one out; and the way back.

Forward passes do not name channel counts, so a fresh network becomes the pruned one by giving its layers smaller
weights. That makes a pruned network a JSON object and a file of tensors.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from cxr_edge.errors import BundleError

__all__ = ["Shapes", "resize", "shapes_of"]

Shapes = Mapping[str, tuple[int, ...]]


def shapes_of(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """Module name -> weight shape, of every layer that has a weight."""
    return {name: tuple(m.weight.shape) for name, m in network.named_modules() if _weight(m) is not None}


def _weight(module: nn.Module) -> torch.Tensor | None:
    weight = getattr(module, "weight", None)
    return weight if isinstance(weight, torch.Tensor) else None


def resize(network: nn.Module, shapes: Shapes) -> None:
    """Give the named layers weights of these shapes, in place; their values are random and wait to be loaded.

    Raises BundleError for a layer that is not there or of a kind that cannot be resized.
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
        # A depthwise layer stays depthwise; another grouped one keeps its groups and gets narrower ones.
        layer.groups = shape[0] if layer.groups == layer.in_channels == layer.out_channels else layer.groups
    layer.out_channels, layer.in_channels = shape[0], shape[1] * layer.groups
    layer.weight, layer.bias = _empty(shape), None if layer.bias is None else _empty(shape[:1])


def _resize_norm(layer: nn.BatchNorm2d, features: int) -> None:
    layer.num_features = features
    layer.weight, layer.bias = _empty((features,)), _empty((features,))
    layer.running_mean, layer.running_var = torch.zeros(features), torch.ones(features)


def _empty(shape: tuple[int, ...]) -> nn.Parameter:
    return nn.Parameter(torch.zeros(shape))
