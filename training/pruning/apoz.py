"""Which channels stay silent: a network and images in, each convolution's share of zeros (APoZ) out.

R20 prunes the channels that are zero most often after the activation that follows their convolution. Which activation
that is, is found while the images run: every value carries the numbers of the convolution channels that it came from,
through batch norm, pooling, concatenations and sums, up to the next activation, where its zeros are counted. So the
branches of an Inception block count for their own convolutions, and a residual sum for all that feed it.
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

__all__ = ["Followed", "followed", "zero_shares"]

# Where the origins travel: on the tensor itself, so that they go when it goes.
_ORIGINS = "_apoz_origins"

# By name, in-place twins included. Those without exact zeros (SiLU) are here too: they end a layer as well.
_ACTIVATIONS = frozenset(
    [
        *(
            "relu",
            "relu6",
            "hardtanh",
            "clamp",
            "clamp_min",
            "threshold",
            "leaky_relu",
            "rrelu",
            "prelu",
            "elu",
            "selu",
        ),
        *("celu", "silu", "mish", "gelu", "hardswish", "logsigmoid", "tanh", "softplus"),
    ]
)
# These end a layer too, but make a factor for other channels (squeeze and excitation): their zeros are not counted.
_GATES = frozenset(["sigmoid", "hardsigmoid"])
# After these the channels are others, or in another order. (A Conv2d's own hook then says which they are.)
_ENDS = frozenset(
    [
        *("conv1d", "conv2d", "conv3d", "conv_transpose2d", "linear", "matmul", "bmm", "einsum", "channel_shuffle"),
        *("permute", "transpose", "swapaxes", "reshape", "view", "flip", "roll", "index_select"),
    ]
)
_JOINS = frozenset(["cat", "concat", "concatenate"])


def zero_shares(network: nn.Module, batches: Iterable[Tensor]) -> dict[str, NDArray[np.float64]]:
    """Each Conv2d's module name -> share of exact zeros of each of its output channels, in [0, 1].

    batches: images (N, C, H, W), of any N; the share is over all values of all images. Where several activations follow
    (DenseNet), it is over the values of all of them; where none does (a linear projection, a gate's
    sigmoid), it is 0. Nothing is kept but
    two counts a channel, and the network is left as it was. Raises InputError when there is no image.
    """
    with _counting(network) as counts:
        for batch in batches:
            counts.run(network, batch)
    if counts.images == 0:
        raise InputError("no images to count zeros on: give at least one batch")
    return counts.shares()


@dataclass(frozen=True, kw_only=True)
class Followed:
    """Names of Conv2d modules. activated: an activation follows. gates: a sigmoid does, to scale other channels."""

    activated: frozenset[str]
    gates: frozenset[str]


def followed(network: nn.Module, image: Tensor) -> Followed:
    """What follows which convolution, as one image (1, C, H, W) shows."""
    with _counting(network) as counts:
        counts.run(network, image)
    return Followed(activated=counts.where(counts.values), gates=counts.where(counts.gated))


class _Counts:
    """Zeros and values seen, of all channels of all convolutions in a row; the last place takes what has no origin."""

    def __init__(self, network: nn.Module) -> None:
        self.convs = {name: m for name, m in network.named_modules() if isinstance(m, nn.Conv2d)}
        self.device = next((p.device for p in network.parameters()), torch.device("cpu"))
        ends = np.cumsum([m.out_channels for m in self.convs.values()], dtype=int).tolist()
        self.places = {n: slice(e - m.out_channels, e) for (n, m), e in zip(self.convs.items(), ends, strict=True)}
        self.nowhere = ends[-1] if ends else 0
        self.zeros = torch.zeros(self.nowhere + 1, dtype=torch.int64, device=self.device)
        self.values, self.gated = torch.zeros_like(self.zeros), torch.zeros_like(self.zeros)
        self.images = 0

    def run(self, network: nn.Module, batch: Tensor) -> None:
        with _Follow(self), torch.no_grad():
            network(batch.to(self.device))
        self.images += batch.shape[0]

    def add(self, activated: Tensor, origins: Tensor) -> None:
        """activated: (N, C, h, w). origins: (K, C), K convolutions that feed it, their channels' places."""
        values = activated.numel() // activated.shape[1]
        zeros = values - torch.count_nonzero(activated, dim=[d for d in range(activated.dim()) if d != 1])
        for row in origins:
            self.zeros.index_add_(0, row, zeros)
            self.values.index_add_(0, row, torch.full_like(zeros, values))

    def numbers(self, name: str) -> Tensor:
        """(1, C): the places of a convolution's channels, as the origins of what it gives."""
        place = self.places[name]
        return torch.arange(place.start, place.stop, device=self.device)[None]

    def shares(self) -> dict[str, NDArray[np.float64]]:
        shares = self.zeros.cpu().numpy() / np.maximum(self.values.cpu().numpy(), 1)
        return {name: shares[place] for name, place in self.places.items()}

    def where(self, marked: Tensor) -> frozenset[str]:
        """The convolutions with a channel that is not 0 in `marked`."""
        return frozenset(name for name, place in self.places.items() if bool(marked[place].any()))


class _Follow(TorchFunctionMode):
    """Carries the origins from call to call, and counts at activations."""

    def __init__(self, counts: _Counts) -> None:
        super().__init__()
        self.counts = counts

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name, kwargs = getattr(func, "__name__", "").rstrip("_"), kwargs or {}
        # Before the call: an in-place one gives its argument back.
        came = _concatenated(args, kwargs, self.counts.nowhere) if name in _JOINS else _union((*args, *kwargs.values()))
        out = func(*args, **kwargs)
        if isinstance(out, Tensor):
            self._leave(name, out, came)
        return out

    def _leave(self, name: str, out: Tensor, came: Tensor | None) -> None:
        if came is None or name in _ENDS or out.dim() != 4 or out.shape[1] != came.shape[1]:
            came = None
        elif name in _ACTIVATIONS:
            self.counts.add(out, came)
            came = None
        elif name in _GATES:
            self.counts.gated[came.flatten()] = 1
            came = None
        if came is not None or hasattr(out, _ORIGINS):
            setattr(out, _ORIGINS, came)


def _origins(value: Any) -> Tensor | None:
    return getattr(value, _ORIGINS, None) if isinstance(value, Tensor) else None


def _union(args: Sequence[Any]) -> Tensor | None:
    """Of a sum: what feeds any of the terms (a mask of one channel, or a constant, feeds nothing)."""
    known = [o for a in args if (o := _origins(a)) is not None]
    if len(known) < 2:
        return known[0] if known else None
    widest = max(o.shape[1] for o in known)
    return torch.unique(torch.cat([o for o in known if o.shape[1] == widest]), dim=0)


def _concatenated(args: Sequence[Any], kwargs: Mapping[str, Any], nowhere: int) -> Tensor | None:
    """Of a concatenation along the channels: side by side, each with as many rows as the deepest has."""
    given = {**dict(zip(("tensors", "dim"), args, strict=False)), **kwargs}
    parts, dim = given["tensors"], given.get("dim", given.get("axis", 0))
    known = [_origins(p) for p in parts]
    if all(o is None for o in known) or any(p.dim() != 4 for p in parts):
        return None
    if dim not in (1, -3):
        return next(o for o in known if o is not None)
    rows = max(o.shape[0] for o in known if o is not None)
    blank = [torch.full((rows, p.shape[1]), nowhere, device=p.device) for p in parts]
    for b, o in zip(blank, known, strict=True):
        if o is not None:
            b[: o.shape[0]] = o
    return torch.cat(blank, dim=1)


@contextmanager
def _counting(network: nn.Module) -> Iterator[_Counts]:
    """The network in evaluation, its convolutions marking what they give; modes and hooks are put back at the end."""
    counts = _Counts(network)
    training = {m: m.training for m in network.modules()}
    hooks = [m.register_forward_hook(_marker(counts.numbers(name))) for name, m in counts.convs.items()]
    network.eval()
    try:
        yield counts
    finally:
        for hook in hooks:
            hook.remove()
        for m, was in training.items():
            m.training = was


def _marker(numbers: Tensor) -> Callable[[nn.Module, Any, Tensor], None]:
    return lambda module, inputs, output: setattr(output, _ORIGINS, numbers)
