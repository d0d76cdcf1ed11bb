"""Weight shapes of pruned networks: a network in, its shapes out, and resizing of a network to given shapes.

Forward passes do not depend on channel counts, so a new network becomes the pruned one by resizing its weights. A pruned
network is therefore a JSON object and a file of tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from cxr_edge.errors import BundleError

__all__ = ["Shapes", "resize", "shapes_of"]

Shapes = Mapping[str, tuple[int, ...]]

_CONV, _NORM = nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase
# Layers whose tensors all follow from the shape of their weight; a subclass may have others besides.
_KNOWN = (_CONV, _NORM, nn.GroupNorm, nn.LayerNorm, nn.Linear, nn.PReLU)
_THEIR_OWN = frozenset(["weight", "bias", "running_mean", "running_var", "num_batches_tracked"])


def shapes_of(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return module name -> weight shape of every layer with a weight, and tensor name -> shape of all other tensors."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, module in network.named_modules():
        if (shape := _weight_shape(module)) is not None:
            shapes[name] = shape
        shapes |= {f"{name}.{k}".lstrip("."): tuple(v.shape) for k, v in _others(module)}
    return shapes


def _weight_shape(module: nn.Module) -> tuple[int, ...] | None:
    """Return the shape of the weight; of a norm without one, the shape that it would have."""
    weight = getattr(module, "weight", None)
    if isinstance(weight, Tensor):
        return tuple(weight.shape)
    if isinstance(module, _NORM):
        return (module.num_features,)
    return (module.num_channels,) if isinstance(module, nn.GroupNorm) else None


def _others(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the module's own tensors that do not follow from its weight: factors per channel of layers of other projects."""
    known = isinstance(module, _KNOWN)
    for tensors in (module.named_parameters(recurse=False), module.named_buffers(recurse=False)):
        yield from ((name, tensor) for name, tensor in tensors if not (known and name in _THEIR_OWN))


def resize(network: nn.Module, shapes: Shapes) -> None:
    """Resize the weights of the named layers and the named tensors, in place; their values are undefined until loaded.

    Raises BundleError for a layer that does not exist or is of a type that cannot be resized.
    """
    layers = dict(network.named_modules())
    for name, shape in shapes.items():
        layer = layers.get(name)
        if isinstance(layer, _KNOWN):
            _resize_layer(layer, tuple(shape))
        elif layer is None and _has_tensor(layers, name):
            parent, _, own = name.rpartition(".")
            _set_tensors(layers[parent], {own: tuple(shape)})
        elif layer is None or not any(f"{name}.{k}" in shapes for k, _ in _others(layer)):
            raise BundleError(
                f"the network has no layer {name!r} that could be resized to {shape}: another architecture?"
            )


def _resize_layer(layer: nn.Module, shape: tuple[int, ...]) -> None:
    outs = shape[:1]
    if isinstance(layer, _CONV):
        outs = _set_conv_channels(layer, shape)
    elif isinstance(layer, _NORM):
        layer.num_features = shape[0]
    elif isinstance(layer, nn.GroupNorm):
        width = layer.num_channels // layer.num_groups  # pruning removes whole groups
        layer.num_channels, layer.num_groups = shape[0], shape[0] // width
    elif isinstance(layer, nn.LayerNorm):
        layer.normalized_shape = outs = shape
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = shape
    elif isinstance(layer, nn.PReLU):
        layer.num_parameters = shape[0]
    _set_tensors(layer, {"weight": shape, "bias": outs, "running_mean": outs, "running_var": outs})


def _set_conv_channels(layer: nn.modules.conv._ConvNd, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Set the channel counts of a convolution; returns the shape of its bias."""
    if layer.groups > 1:
        # A depthwise layer stays depthwise; another grouped one keeps its number of groups, which get narrower.
        layer.groups = shape[0] if layer.groups == layer.in_channels == layer.out_channels else layer.groups
    own, others = shape[0], shape[1] * layer.groups
    layer.in_channels, layer.out_channels = (own, others) if layer.transposed else (others, own)
    return (layer.out_channels,)


def _has_tensor(layers: Mapping[str, nn.Module], name: str) -> bool:
    parent, _, own = name.rpartition(".")
    return parent in layers and own in dict(_others(layers[parent]))


def _set_tensors(layer: nn.Module, shapes: Shapes) -> None:
    """Replace those of the tensors that the layer has."""
    for name, shape in shapes.items():
        tensor = getattr(layer, name, None)
        if isinstance(tensor, nn.Parameter):
            setattr(layer, name, nn.Parameter(torch.zeros(shape)))
        elif isinstance(tensor, Tensor):
            setattr(layer, name, torch.zeros(shape, dtype=tensor.dtype))
