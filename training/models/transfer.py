"""Modality-specific transfer: a network trained on one X-ray task in, one for another task with its trunk out.

As R20 does: cut the trained network at its deepest convolution, put a new task head on. A trunk that was pruned stays
pruned, so a small network can be transferred as well as a whole one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import nn

from cxr_edge.errors import InputError
from training.models.networks import NetworkSpec, build
from training.models.shapes import Shapes, resize, shapes_of

__all__ = ["with_trunk_of"]


def with_trunk_of(source: nn.Module, spec: NetworkSpec) -> nn.Module:
    """A fresh network of `spec` with the source's trunk weights (copied) and a random head.

    source: any network of `training.models.names()` but COVID-Net with its dense layers, pruned or not, with any number of
    labels. spec: of the new network; its `shapes` are not read, since the trunk's are the source's and the head is whole.
    Raises InputError where the source has no trunk and head, or a trunk of another architecture or for another number of input
    channels.
    """
    if not (isinstance(getattr(source, "trunk", None), nn.Module) and hasattr(getattr(source, "head", None), "map")):
        raise InputError(
            f"a {type(source).__name__} has no trunk and head to take over: give a network of this toolkit"
        )
    network = build(replace(spec, shapes={}))
    _check_same_design(source.trunk, network.trunk, spec)
    resize(network.trunk, _changed(source.trunk, network.trunk))
    network.trunk.load_state_dict(source.trunk.state_dict())
    _narrow_head(network.head, next(iter(_readers(source.head).values())).in_channels)
    return network


def _check_same_design(source: nn.Module, fresh: nn.Module, spec: NetworkSpec) -> None:
    """Same tensors by name, same kernels; only channel counts may differ, and those of the input may not."""
    ours, theirs = fresh.state_dict(), source.state_dict()
    other = sorted(ours.keys() ^ theirs.keys())
    other += [
        k for k in ours if k in theirs and (ours[k].ndim, ours[k].shape[2:]) != (theirs[k].ndim, theirs[k].shape[2:])
    ]
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


def _readers(head: nn.Module) -> Mapping[str, nn.Conv2d]:
    """The head's convolutions that are as wide as the trunk's map, the first reading it: R20's, or the map of labels."""
    return getattr(head, "convolutions", None) or {"map": head.map}


def _narrow_head(head: nn.Module, maps: int) -> None:
    """Let a fresh head read a pruned trunk: of its random weights, take those of the first `maps` channels."""
    for name, conv in _readers(head).items():
        if maps == conv.in_channels:
            continue
        of_all = {k: v.detach().clone() for k, v in conv.state_dict().items()}
        depthwise = conv.groups > 1
        shape = (maps, 1) if depthwise else (conv.out_channels, maps)
        resize(head, {name: (*shape, *conv.kernel_size)})
        weight = of_all["weight"][:maps] if depthwise else of_all["weight"][:, :maps]
        with torch.no_grad():
            conv.load_state_dict({**of_all, "weight": weight})
