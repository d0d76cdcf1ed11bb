"""R20's customised CNN: three strided separable 5x5 convolutions, batch norm and ReLU after each.

64, 128 and 256 filters: with a 3-channel input, GAP and a dense layer for two classes these are the 47,885 trainable
parameters of the paper's Table 3 (the 32, 64, 128 of its text give 13,293).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import nn

from cxr_edge.errors import InputError

__all__ = ["ACTIVATIONS", "FILTERS", "custom_trunk"]

FILTERS = (64, 128, 256)

# Activations of R20's search. The slope is Keras' default (the paper gives none); torch's default is 0.01.
ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {
    "relu": lambda: nn.ReLU(inplace=True),
    "elu": lambda: nn.ELU(inplace=True),
    "leaky-relu": lambda: nn.LeakyReLU(0.3, inplace=True),
}


def custom_trunk(channels: int, filters: Sequence[int] = FILTERS, activation: str = "relu") -> nn.Sequential:
    """Return the trunk (N, channels, S, S) -> (N, filters[-1], S/8, S/8).

    activation: a name of `ACTIVATIONS`. Only ReLU has exact zeros, so a network with another activation cannot be pruned by
    APoZ. Raises InputError for an unknown name.
    """
    if activation not in ACTIVATIONS:
        raise InputError(f"the custom CNN has no activation {activation!r}: choose from {', '.join(ACTIVATIONS)}")
    ins = [channels, *filters[:-1]]
    return nn.Sequential(*(_separable(i, o, activation) for i, o in zip(ins, filters, strict=True)))


def _separable(ins: int, outs: int, activation: str) -> nn.Sequential:
    """Return Keras' SeparableConv2D with batch norm and activation: depthwise without bias, pointwise with bias."""
    return nn.Sequential(
        nn.Conv2d(ins, ins, 5, stride=2, padding=2, groups=ins, bias=False),
        nn.Conv2d(ins, outs, 1),
        nn.BatchNorm2d(outs),
        ACTIVATIONS[activation](),
    )
