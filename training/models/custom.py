"""R20's customised CNN: three strided separable 5x5 convolutions, batch norm and ReLU after each.

64, 128 and 256 filters: with a 3-channel input, GAP and a dense layer for two classes that makes the 47,885 trainable
parameters of the paper's Table 3 (its text says 32, 64, 128, which makes 13,293).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

__all__ = ["FILTERS", "custom_trunk"]

FILTERS = (64, 128, 256)


def custom_trunk(channels: int, filters: Sequence[int] = FILTERS) -> nn.Sequential:
    """The trunk (N, channels, S, S) -> (N, filters[-1], S/8, S/8)."""
    ins = [channels, *filters[:-1]]
    return nn.Sequential(*(_separable(i, o) for i, o in zip(ins, filters, strict=True)))


def _separable(ins: int, outs: int) -> nn.Sequential:
    """As Keras' SeparableConv2D: the depthwise half has no bias, the pointwise half has one."""
    return nn.Sequential(
        nn.Conv2d(ins, ins, 5, stride=2, padding=2, groups=ins, bias=False),
        nn.Conv2d(ins, outs, 1),
        nn.BatchNorm2d(outs),
        nn.ReLU(inplace=True),
    )
