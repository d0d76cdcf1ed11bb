"""Dependency graph of a network: which layers lose which channels together, and the removal itself, unchecked.

Torch-Pruning follows the autograd graph of one forward pass from layer to layer. What it finds is not always right (a split,
a sum over channels, a module of another project), so `training.pruning.removal` checks every removal before it is kept.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning
import torch_pruning.dependency.graph as search
from torch import Tensor, nn

from cxr_edge.errors import InputError
from training.models.layers import evaluation_mode

__all__ = [
    "Change",
    "changes_of",
    "coupled",
    "delete",
    "is_depthwise",
    "one_line",
    "output_tensors",
    "pruning_group",
    "traced",
]

_MOST_COUPLED = 10_000  # layers and operations, each once for every set of channels


@dataclass(frozen=True, kw_only=True)
class Change:
    """A layer that loses channels when a convolution does."""

    layer: Any  # nn.Module, nn.Parameter or an operation of Torch-Pruning
    own: tuple[int, ...]  # its channels
    of_root: tuple[int, ...]  # own[i] follows from the root's channel of_root[i]
    writes: bool  # the channels are its outputs (of a norm: both)


@contextmanager
def traced(network: nn.Module, example: Tensor) -> Iterator[torch_pruning.DependencyGraph]:
    """Yield the dependency graph; tracing needs gradients and evaluation mode, both are restored after.

    Raises InputError if the network does not take the example or cannot be followed at all.
    """
    frozen = [n for n, p in network.named_parameters() if not p.requires_grad]
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    try:
        with evaluation_mode(network), torch.enable_grad():
            network.requires_grad_(True)
            yield _graph(network, example.to(device))
    finally:
        parameters = dict(network.named_parameters())
        for name in frozen:
            parameters[name].requires_grad_(False)


def _graph(network: nn.Module, example: Tensor) -> torch_pruning.DependencyGraph:
    check_takes(network, example)  # Torch-Pruning calls again with other arguments if this fails, and reports only that
    try:
        with warnings.catch_warnings():  # of limits of its search: the removal is checked in any case
            warnings.simplefilter("ignore")
            # A tuple: a single tensor would be unpacked along its batch.
            return torch_pruning.DependencyGraph().build_dependency(
                network, (example,), output_transform=output_tensors, verbose=False
            )
    except Exception as error:  # of any kind, from the depths of the graph
        raise InputError(
            f"{type(network).__name__} cannot be pruned: its layers cannot be followed from its output to the image: "
            f"{one_line(error)}: train it whole, or choose another network"
        ) from error


def check_takes(network: nn.Module, example: Tensor) -> None:
    """Raise InputError unless the network computes an output for the example."""
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    try:
        with evaluation_mode(network), torch.no_grad():
            network(example.to(device))
    except InputError:
        raise
    except Exception as error:  # of any kind, of the network's own code
        raise InputError(
            f"{type(network).__name__} cannot be pruned: it does not take an image of {tuple(example.shape)}: "
            f"{one_line(error)}: give the shape that it was made for"
        ) from error


def output_tensors(output: Any) -> list[Tensor]:
    """Return a network's output tensors in order; a network with dense layers has no class activation map."""
    if isinstance(output, Tensor):
        return [output]
    values = output.values() if isinstance(output, Mapping) else output if isinstance(output, Sequence) else ()
    return [tensor for value in values for tensor in output_tensors(value)]


def pruning_group(
    network: nn.Module, graph: torch_pruning.DependencyGraph, root: str, channels: Sequence[int]
) -> torch_pruning.Group:
    """Return Torch-Pruning's group of what loses channels with these outputs of a convolution.

    Raises whatever it does where it cannot follow (IndexError, AssertionError and others), and RecursionError where its search
    would not end.
    """
    conv = network.get_submodule(root)
    with _bounded(network):
        return graph.get_pruning_group(conv, torch_pruning.prune_conv_out_channels, sorted(channels))


@contextmanager
def _bounded(network: nn.Module) -> Iterator[None]:
    """End a search that takes more channels than any layer has: a pooled map that is reshaped (ECA) makes it go round in
    circles, with ever more channels until the memory is full (Torch-Pruning 1.6.1)."""
    widest = max(max(p.shape[:2]) for p in network.parameters() if p.ndim > 1)

    class Bounded(torch_pruning.Group):  # type: ignore[misc]  # it has no types
        def add_dep(self, dep: Any, idxs: Any) -> None:
            if len(idxs) > 4 * widest or len(self.items) > _MOST_COUPLED:
                raise RecursionError("its channels are coupled in a circle")
            super().add_dep(dep, idxs)

    before = search.Group
    search.Group = Bounded
    try:
        yield
    finally:
        search.Group = before


def coupled(
    network: nn.Module, graph: torch_pruning.DependencyGraph, root: str, channels: Sequence[int]
) -> list[Change]:
    """Return what changes if a convolution loses these outputs; raises as `pruning_group`."""
    return [
        Change(
            layer=i.dep.target.module,
            own=tuple(i.idxs),
            of_root=tuple(i.root_idxs),
            writes=graph.is_out_channel_pruning_fn(i.dep.handler),
        )
        for i in pruning_group(network, graph, root, channels)
    ]


def changes_of(
    network: nn.Module, graph: torch_pruning.DependencyGraph, chosen: Mapping[str, Sequence[int]]
) -> list[tuple[str, Change]]:
    """Return the changes of all modules by name, for a removal of `chosen` (convolution -> its channels)."""
    names = {m: n for n, m in network.named_modules()}
    changes = [c for root, gone in chosen.items() if gone for c in coupled(network, graph, root, gone)]
    return [(names[c.layer], c) for c in changes if isinstance(c.layer, nn.Module) and c.layer in names]


def delete(network: nn.Module, graph: torch_pruning.DependencyGraph, chosen: Mapping[str, Sequence[int]]) -> None:
    """Delete the chosen channels with every weight that reads or writes them, in place and unchecked."""
    widths = {m: m.num_channels // m.num_groups for m in network.modules() if isinstance(m, nn.GroupNorm)}
    for root, channels in chosen.items():
        if channels:
            pruning_group(network, graph, root, channels).prune()
    for norm, width in widths.items():  # Torch-Pruning keeps the number of groups, and so mixes other channels
        norm.num_groups = norm.num_channels // width


def is_depthwise(conv: nn.Conv2d) -> bool:
    """Return whether every channel is filtered by itself."""
    # One channel in and out can be the rest of a pruned depthwise convolution; it has none to lose in any case.
    return conv.groups == conv.out_channels == conv.in_channels


def one_line(error: Exception) -> str:
    """Return an exception's type and the first line of its message, for a sentence."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__
