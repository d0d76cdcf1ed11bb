"""APoZ, the average percentage of zeros per convolution channel: a network and images in, shares of zeros out.

R20 prunes the channels that are zero most often after the activation that follows their convolution. That activation is
found during the forward pass: every tensor carries the indices of the convolution channels that it originates from,
through batch norm, pooling, concatenations and sums, up to the next activation, where its zeros are counted. So the
branches of an Inception block count for their own convolutions, and a residual sum for all convolutions that feed it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cxr_edge.errors import InputError
from training.models.layers import evaluation_mode

__all__ = ["ActivationUse", "activation_use", "zero_shares"]

# Attribute of a tensor with its origins, so that they are freed with the tensor.
_ORIGINS = "_apoz_origins"

# By name, in-place twins included. Those without exact zeros (SiLU) are here too: they end a layer as well.
_ACTIVATIONS = frozenset(
    [
        *("relu", "relu6", "hardtanh", "clamp", "clamp_min", "threshold", "leaky_relu", "rrelu", "prelu", "elu"),
        *("selu", "celu", "silu", "mish", "gelu", "hardswish", "logsigmoid", "tanh", "softplus"),
    ]
)
# These end a layer too, but give a factor for other channels (squeeze and excitation): their zeros are not counted.
_GATES = frozenset(["sigmoid", "hardsigmoid"])
# After these the channels are new or in another order. (The hook of a Conv2d sets the origins of its output.)
_ENDS = frozenset(
    [
        *("conv1d", "conv2d", "conv3d", "conv_transpose2d", "linear", "matmul", "bmm", "einsum", "channel_shuffle"),
        *("permute", "transpose", "swapaxes", "reshape", "view", "flip", "roll", "index_select"),
    ]
)
_JOINS = frozenset(["cat", "concat", "concatenate"])


def zero_shares(network: nn.Module, batches: Iterable[Tensor]) -> dict[str, NDArray[np.float64]]:
    """Return each Conv2d's module name -> share of exact zeros of each of its output channels, in [0, 1].

    batches: images (N, C, H, W), of any N. The share is over all values of all images; if several activations follow
    (DenseNet), over the values of all of them; if none does (a linear projection, a gate's sigmoid), it is 0. Memory: two
    counts per channel. The network's modes and hooks are restored. Raises InputError without images.
    """
    with _counting(network) as counts:
        for batch in batches:
            counts.run(network, batch)
    if counts.images == 0:
        raise InputError("no images to count zeros on: give at least one batch")
    return counts.shares()


@dataclass(frozen=True, kw_only=True)
class ActivationUse:
    """Names of Conv2d modules, by the function that follows them."""

    activated: frozenset[str]  # followed by an activation
    gates: frozenset[str]  # followed by a sigmoid that scales other channels


def activation_use(network: nn.Module, image: Tensor) -> ActivationUse:
    """Return the activations that follow the convolutions, found by a forward pass of one image (1, C, H, W)."""
    with _counting(network) as counts:
        counts.run(network, image)
    return ActivationUse(activated=counts.where(counts.values), gates=counts.where(counts.gated))


class _Counts:
    """Counts of zeros and values, over the channels of all convolutions in one array.

    The last element collects channels that originate from no convolution.
    """

    def __init__(self, network: nn.Module) -> None:
        self.convs = {name: m for name, m in network.named_modules() if isinstance(m, nn.Conv2d)}
        self.device = next((p.device for p in network.parameters()), torch.device("cpu"))
        ends = np.cumsum([m.out_channels for m in self.convs.values()]).tolist()
        self.slices = {n: slice(e - m.out_channels, e) for (n, m), e in zip(self.convs.items(), ends, strict=True)}
        self.no_origin = ends[-1] if ends else 0
        self.zeros = torch.zeros(self.no_origin + 1, dtype=torch.int64, device=self.device)
        self.values, self.gated = torch.zeros_like(self.zeros), torch.zeros_like(self.zeros)
        self.images = 0

    def run(self, network: nn.Module, batch: Tensor) -> None:
        with _OriginTracker(self), torch.no_grad():
            network(batch.to(self.device))
        self.images += batch.shape[0]

    def add(self, activated: Tensor, origins: Tensor) -> None:
        """Count an activation's output (N, C, h, w). origins: (K, C) channel indices of the K convolutions that feed it."""
        values = activated.numel() // activated.shape[1]
        zeros = values - torch.count_nonzero(activated, dim=[d for d in range(activated.dim()) if d != 1])
        for row in origins:
            self.zeros.index_add_(0, row, zeros)
            self.values.index_add_(0, row, torch.full_like(zeros, values))

    def indices(self, name: str) -> Tensor:
        """Return the indices of a convolution's channels (1, C), the origins of its output."""
        channels = self.slices[name]
        return torch.arange(channels.start, channels.stop, device=self.device)[None]

    def shares(self) -> dict[str, NDArray[np.float64]]:
        shares = self.zeros.cpu().numpy() / np.maximum(self.values.cpu().numpy(), 1)
        return {name: shares[channels] for name, channels in self.slices.items()}

    def where(self, marked: Tensor) -> frozenset[str]:
        """Return the convolutions with a channel that is not 0 in `marked`."""
        return frozenset(name for name, channels in self.slices.items() if bool(marked[channels].any()))


class _OriginTracker(TorchFunctionMode):
    """Passes the origins from call to call, and counts at activations."""

    def __init__(self, counts: _Counts) -> None:
        super().__init__()
        self.counts = counts

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name, kwargs = getattr(func, "__name__", "").rstrip("_"), kwargs or {}
        # Before the call: an in-place one returns its argument.
        joins = name in _JOINS
        origins = _concatenated(args, kwargs, self.counts.no_origin) if joins else _union((*args, *kwargs.values()))
        out = func(*args, **kwargs)
        if isinstance(out, Tensor):
            self._set_origins(name, out, origins)
        return out

    def _set_origins(self, name: str, out: Tensor, origins: Tensor | None) -> None:
        if origins is None or name in _ENDS or out.dim() != 4 or out.shape[1] != origins.shape[1]:
            origins = None
        elif name in _ACTIVATIONS:
            self.counts.add(out, origins)
            origins = None
        elif name in _GATES:
            self.counts.gated[origins.flatten()] = 1
            origins = None
        if origins is not None or hasattr(out, _ORIGINS):
            setattr(out, _ORIGINS, origins)


def _origins(value: Any) -> Tensor | None:
    return getattr(value, _ORIGINS, None) if isinstance(value, Tensor) else None


def _union(args: Sequence[Any]) -> Tensor | None:
    """Return the origins of all terms of a sum (a mask of one channel, or a constant, has none)."""
    known = [o for a in args if (o := _origins(a)) is not None]
    if len(known) < 2:
        return known[0] if known else None
    widest = max(o.shape[1] for o in known)
    union: Tensor = torch.unique(torch.cat([o for o in known if o.shape[1] == widest]), dim=0)
    return union


def _concatenated(args: Sequence[Any], kwargs: Mapping[str, Any], no_origin: int) -> Tensor | None:
    """Return the origins of a concatenation along the channels, padded to the same number of rows."""
    given = {**dict(zip(("tensors", "dim"), args, strict=False)), **kwargs}
    parts, dim = given["tensors"], given.get("dim", given.get("axis", 0))
    known = [_origins(p) for p in parts]
    if all(o is None for o in known) or any(p.dim() != 4 for p in parts):
        return None
    if dim not in (1, -3):
        return next(o for o in known if o is not None)
    rows = max(o.shape[0] for o in known if o is not None)
    blank = [torch.full((rows, p.shape[1]), no_origin, device=p.device) for p in parts]
    for b, o in zip(blank, known, strict=True):
        if o is not None:
            b[: o.shape[0]] = o
    return torch.cat(blank, dim=1)


@contextmanager
def _counting(network: nn.Module) -> Iterator[_Counts]:
    """Yield the counts while the network is in evaluation mode and its convolutions mark their outputs; restore both after."""
    counts = _Counts(network)
    hooks = [m.register_forward_hook(_marker(counts.indices(name))) for name, m in counts.convs.items()]
    try:
        with evaluation_mode(network):
            yield counts
    finally:
        for hook in hooks:
            hook.remove()


def _marker(indices: Tensor) -> Callable[[nn.Module, Any, Tensor], None]:
    return lambda module, inputs, output: setattr(output, _ORIGINS, indices)
