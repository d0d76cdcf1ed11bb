"""R20's customised CNN: three strided separable 5x5 convolutions, batch norm and ReLU after each.

64, 128 and 256 filters: with a 3-channel input, GAP and a dense layer for two classes that makes the 47,885 trainable
parameters of the paper's Table 3 (its text says 32, 64, 128, which makes 13,293).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import nn

from cxr_edge.errors import InputError

__all__ = ["ACTIVATIONS", "FILTERS", "custom_trunk"]

FILTERS = (64, 128, 256)

# What R20's search may put in ReLU's place. The slope is Keras' (the paper names none); torch's own default is 0.01.
ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {
    "relu": lambda: nn.ReLU(inplace=True),
    "elu": lambda: nn.ELU(inplace=True),
    "leaky-relu": lambda: nn.LeakyReLU(0.3, inplace=True),
}


def custom_trunk(channels: int, filters: Sequence[int] = FILTERS, activation: str = "relu") -> nn.Sequential:
    """The trunk (N, channels, S, S) -> (N, filters[-1], S/8, S/8).

    activation: a name of `ACTIVATIONS`. Only ReLU gives exact zeros, so a network with another one cannot be pruned by
    APoZ: no channel's zeros would speak for removing it. Raises InputError for an unknown name.
    """
    if activation not in ACTIVATIONS:
        raise InputError(f"the custom CNN has no activation {activation!r}: choose from {', '.join(ACTIVATIONS)}")
    ins = [channels, *filters[:-1]]
    return nn.Sequential(*(_separable(i, o, activation) for i, o in zip(ins, filters, strict=True)))


def _separable(ins: int, outs: int, activation: str) -> nn.Sequential:
    """As Keras' SeparableConv2D: the depthwise half has no bias, the pointwise half has one."""
    return nn.Sequential(
        nn.Conv2d(ins, ins, 5, stride=2, padding=2, groups=ins, bias=False),
        nn.Conv2d(ins, outs, 1),
        nn.BatchNorm2d(outs),
        ACTIVATIONS[activation](),
    )
