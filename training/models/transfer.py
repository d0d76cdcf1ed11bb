"""Transfer learning: a network trained on one X-ray task in, a network with its trunk and a new head out.

As in R20: the trained network is cut at its deepest convolution and gets a new task head. A pruned trunk stays pruned, so
pruned networks can be transferred too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import nn

from cxr_edge.errors import InputError
from training.models.networks import NetworkSpec, build
from training.models.shapes import Shapes, resize, shapes_of

__all__ = ["transfer_trunk"]


def transfer_trunk(source: nn.Module, spec: NetworkSpec) -> nn.Module:
    """Return a new network of `spec` with a copy of the source's trunk weights and a random head.

    source: any network of `training.models.names()`, pruned or not, with any number of labels, except COVID-Net with its dense
    layers.
    spec: of the new network; its `shapes` are ignored, since the trunk has the source's and the head is not pruned.

    Raises InputError if the source has no trunk and head, or a trunk of another architecture or number of input channels.
    """
    if not (isinstance(getattr(source, "trunk", None), nn.Module) and hasattr(getattr(source, "head", None), "map")):
        raise InputError(f"a {type(source).__name__} has no trunk and head to transfer: give a network of this toolkit")
    network = build(replace(spec, shapes={}))
    old, new = source.get_submodule("trunk"), network.get_submodule("trunk")
    _check_same_architecture(old, new, spec)
    resize(new, _changed(old, new))
    new.load_state_dict(old.state_dict())
    maps = next(iter(_trunk_convolutions(source.get_submodule("head")).values())).in_channels
    _narrow_head(network.get_submodule("head"), maps)
    return network


def _check_same_architecture(source: nn.Module, fresh: nn.Module, spec: NetworkSpec) -> None:
    """Raise InputError unless tensor names, kernels and input channels are equal; other channel counts may differ."""
    new, old = fresh.state_dict(), source.state_dict()
    other = sorted(new.keys() ^ old.keys())
    other += [k for k in new if k in old and (new[k].ndim, new[k].shape[2:]) != (old[k].ndim, old[k].shape[2:])]
    if other:
        raise InputError(
            f"the source's trunk is not that of {spec.architecture}: they differ in {len(other)} tensors, {other[0]} first"
        )
    channels = _first_conv(source).in_channels
    if channels != spec.channels:
        raise InputError(
            f"the source takes {channels} input channels, the new network {spec.channels}: give one number"
        )


def _first_conv(trunk: nn.Module) -> nn.Conv2d:
    return next(m for m in trunk.modules() if isinstance(m, nn.Conv2d))


def _changed(source: nn.Module, fresh: nn.Module) -> Shapes:
    before = shapes_of(fresh)
    return {name: shape for name, shape in shapes_of(source).items() if shape != before[name]}


def _trunk_convolutions(head: nn.Module) -> Mapping[str, nn.Conv2d]:
    """Return the head's convolutions with the trunk's width; the first one reads the trunk: R20's, or the map of labels."""
    return getattr(head, "convolutions", None) or {"map": head.map}


def _narrow_head(head: nn.Module, maps: int) -> None:
    """Resize a new head to a pruned trunk: keep its random weights of the first `maps` channels."""
    for name, conv in _trunk_convolutions(head).items():
        if maps == conv.in_channels:
            continue
        full = {k: v.detach().clone() for k, v in conv.state_dict().items()}
        depthwise = conv.groups > 1
        shape = (maps, 1) if depthwise else (conv.out_channels, maps)
        resize(head, {name: (*shape, *conv.kernel_size)})
        weight = full["weight"][:maps] if depthwise else full["weight"][:, :maps]
        with torch.no_grad():
            conv.load_state_dict({**full, "weight": weight})
