"""Channel removal with proof: a network and the channels to remove in, the smaller network in place, or an error and no change.

The proof is a comparison on a copy with random weights: what the smaller copy computes must be what the whole one computes with
those channels held at zero where they are computed. Random weights, because a trained network has layers that pass
nothing on (a norm that is still zero, a dead channel) and would hide a mistake.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cxr_edge.errors import InputError
from training.models.layers import evaluation_mode, without_compilation
from training.pruning.apoz import zero_shares
from training.pruning.graph import Change, changes_of, check_takes, delete, one_line, output_tensors, traced

__all__ = ["Removal", "difference", "outputs", "random_copy", "remove", "why_not", "without_proof", "zeros_on_noise"]

Removal = Mapping[str, Sequence[int]]  # convolution -> its channels
# Differences relative to the largest output. In float32, sums in another order differ by 1e-7 to 1e-3, the more the deeper the
# network, and a wrong channel by 1e-3 or more: between the first two the comparison is made again in float64.
_SAME, _OTHER, _SAME_IN_DOUBLE = 1e-5, 1e-2, 1e-8
_BATCHES = (1, 3)


def remove(network: nn.Module, example: Tensor, chosen: Removal) -> None:
    """Remove the chosen channels (group's root -> channels) from the network, in place.

    example: one image (1, C, S, S). Removing channels that are zero after their activation does not change the output.
    Raises InputError, and leaves the network as it was, for a name that is not a convolution, for a removal that would leave a
    layer empty, and for one after which the network would compute something else than with those channels at zero.
    """
    network, chosen = without_compilation(network), {root: gone for root, gone in chosen.items() if gone}
    convs = {n: m for n, m in network.named_modules() if isinstance(m, nn.Conv2d)}
    for root, channels in chosen.items():
        if root not in convs or len(set(channels)) >= convs[root].out_channels:
            raise InputError(f"{root!r} cannot lose {len(channels)} channels: it is no convolution, or has no more")
        if not set(channels) <= set(range(convs[root].out_channels)):
            raise InputError(f"{root!r} has channels 0 to {convs[root].out_channels - 1}, got {sorted(set(channels))}")
    if not chosen:
        return
    if culprits := without_proof(random_copy(network, example), example, chosen):
        raise InputError(
            f"{type(network).__name__} cannot lose these channels: {_listed(culprits)}. Nothing was removed: leave the layers "
            f"whole (exclude = [{', '.join(_quoted(name) for name in culprits)}])"
        )
    with traced(network, example) as graph:
        delete(network, graph, chosen)


def without_proof(
    whole: nn.Module, example: Tensor, chosen: Removal, rebuild: Callable[[nn.Module], nn.Module] | None = None
) -> dict[str, str]:
    """Return the convolutions of `chosen` that cannot lose their channels -> why; the others can, all together.

    whole: of `random_copy`. rebuild: returns the network as it comes back from its files, which is then compared.
    """
    why = why_not(whole, example, chosen, rebuild)
    roots = list(chosen)
    if why is None:
        return {}
    if len(roots) == 1:
        return {roots[0]: why}

    def of(names: Sequence[str]) -> dict[str, str]:
        return without_proof(whole, example, {n: chosen[n] for n in names}, rebuild) if names else {}

    found = of(roots[: len(roots) // 2]) | of(roots[len(roots) // 2 :])
    if not found:  # each half holds and both together do not: no single layer is at fault
        return dict.fromkeys(roots, why)
    return found | of([n for n in roots if n not in found])


def why_not(
    whole: nn.Module, example: Tensor, chosen: Removal, rebuild: Callable[[nn.Module], nn.Module] | None = None
) -> str | None:
    """Return why the network without `chosen` is not the one with those channels at zero; None if it is."""
    try:
        change = _change(whole, example, chosen, rebuild)
        if change <= _SAME:
            return None
        if change < _OTHER:
            change = _change(copy.deepcopy(whole).double(), example.double(), chosen, rebuild)
    except Exception as error:  # of any kind: whatever a forward pass of half a network may raise
        return f"the smaller network does not run ({one_line(error)})"
    return None if change <= _SAME_IN_DOUBLE else f"other outputs change, by {min(change, 9.99):.1g} of the largest"


def _change(
    whole: nn.Module, example: Tensor, chosen: Removal, rebuild: Callable[[nn.Module], nn.Module] | None
) -> float:
    """Return the difference of the outputs with the channels removed and with them held at zero."""
    smaller = copy.deepcopy(whole)
    with traced(smaller, example) as graph:
        changes = changes_of(smaller, graph, chosen)
        delete(smaller, graph, chosen)
    smaller = rebuild(smaller).to(example.dtype) if rebuild else smaller
    worst = 0.0
    for images in _images(example):
        result = outputs(smaller, images)
        with _silenced(whole, changes):
            worst = max(worst, difference(outputs(whole, images), result))
        if worst >= _OTHER:
            break
    return worst


def outputs(network: nn.Module, images: Tensor) -> list[Tensor]:
    """Return the outputs in evaluation mode for images (N, C, S, S)."""
    with evaluation_mode(network):
        return _run(network, images)


def zeros_on_noise(network: nn.Module, example: Tensor) -> dict[str, NDArray[np.float64]]:
    """Return the shares of zeros as `zero_shares`, of such a network with random weights, on random images."""
    return zero_shares(random_copy(without_compilation(network), example), _images(example))


def difference(expected: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """Return the largest difference relative to each output's largest magnitude; infinite for other shapes and for NaN."""
    if [e.shape for e in expected] != [f.shape for f in found]:
        return torch.inf
    worst = 0.0
    for e, f in zip(expected, found, strict=True):
        relative = float((e - f).abs().max() / e.abs().max().clamp_min(torch.finfo(torch.float32).tiny))
        worst = max(worst, torch.inf if math.isnan(relative) else relative)
    return worst


def random_copy(network: nn.Module, example: Tensor) -> nn.Module:
    """Return a copy with random weights, its norms fitted to noise.

    Raises InputError if the network does not take the example, or cannot be copied.
    """
    check_takes(network, example)
    try:
        twin = copy.deepcopy(network).requires_grad_(False).eval()
    except (RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"{type(network).__name__} cannot be copied, so its pruning cannot be checked: {one_line(error)}"
        ) from error
    draw = torch.Generator().manual_seed(0)
    for module in twin.modules():
        for name, parameter in module.named_parameters(recurse=False):
            parameter.data = _drawn(module, name, parameter, draw)
    _fit_norms(twin, example)
    return twin


def _drawn(module: nn.Module, name: str, parameter: Tensor, draw: torch.Generator) -> Tensor:
    """Return random values: fan-in scaled for kernels, around 1 for factors, around 0 for biases."""
    if not parameter.is_floating_point():
        return parameter.data
    noise: Tensor = torch.randn(parameter.shape, generator=draw).to(parameter)
    kernel = (parameter.ndim > 1 and max(parameter.shape[1:]) > 1) or isinstance(module, nn.Linear)
    if kernel:
        return noise.mul_((2 / max(parameter[0].numel(), 1)) ** 0.5)
    return 0.1 * noise if name == "bias" else 1 + noise.clamp(-2, 2) / 4


def _fit_norms(network: nn.Module, example: Tensor) -> None:
    """Set the running statistics to those of noise, so that values stay in range and every channel is alive."""
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [m.momentum for m in norms]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    _run(network, _images(example)[-1])
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def _images(example: Tensor) -> list[Tensor]:
    draw = torch.Generator().manual_seed(1)
    return [torch.randn(n, *example.shape[1:], generator=draw).to(example.dtype) for n in _BATCHES]


def _run(network: nn.Module, images: Tensor) -> list[Tensor]:
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    with torch.no_grad():
        return output_tensors(network(images.to(device)))


@contextmanager
def _silenced(network: nn.Module, changes: Sequence[tuple[str, Change]]) -> Iterator[None]:
    """Hold the changed channels at zero in the block, as outputs of what computes them: convolutions, dense layers and norms.

    An activation that is not zero at zero, or an offset after it, lets the channel be seen: its removal would change more.
    """
    modules, hooks = dict(network.named_modules()), []
    for name, change in changes:
        dim = _channel_dim(modules[name])
        if change.writes and dim is not None:
            hooks.append(modules[name].register_forward_hook(_zero_output(dim, change.own)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _channel_dim(layer: nn.Module) -> int | None:
    if isinstance(layer, nn.Linear):
        return -1
    per_channel = nn.modules.conv._ConvNd | nn.modules.batchnorm._NormBase | nn.GroupNorm | nn.PReLU
    return 1 if isinstance(layer, per_channel) else None


def _zero_output(dim: int, channels: Sequence[int]) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    index = torch.tensor(channels)
    return lambda layer, inputs, output: output.index_fill(dim, index.to(output.device), 0)


def _listed(culprits: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {why}" for name, why in culprits.items())


def _quoted(name: str) -> str:
    return f'"{name}"'
