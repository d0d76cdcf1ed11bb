"""The starter's members: three compact trunks of different design, each under half a million parameters.

Different designs err differently, which is what an ensemble lives on. All use ReLU (APoZ pruning counts its zeros, int8
likes its range), channel counts in multiples of 8, a strided stem (most time goes where maps are large), and end at 1/16
of the input so that the class activation map stays 10x10 at 160 px.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from training.models.head import CamHead, MemberOutput

__all__ = ["ARCHITECTURES", "build_member"]

_HEAD_DROPOUT = 0.3


class _Member(nn.Module):
    """A trunk and the head; the first line of each builder's docstring below is the architecture's name in bundles."""

    def __init__(self, trunk: nn.Sequential, channels: int, labels: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = CamHead(channels, labels, _HEAD_DROPOUT)

    def forward(self, image: Tensor) -> MemberOutput:
        return self.head(self.trunk(image))


def build_member(architecture: str, labels: int) -> nn.Module:
    """A fresh member: `plain`, `inverted` or `inception`. Input (N, 1, S, S), S divisible by 16."""
    if architecture not in ARCHITECTURES:
        raise ValueError(f"no member architecture is called {architecture!r}: choose from {', '.join(ARCHITECTURES)}")
    member = ARCHITECTURES[architecture](labels)
    for m in member.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
    nn.init.normal_(member.head.map.weight, std=0.01)
    return member


def _conv(ins: int, outs: int, kernel: int = 3, stride: int = 1, groups: int = 1, relu: bool = True) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(ins, outs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outs),
    ]
    return nn.Sequential(*layers, *([nn.ReLU(inplace=True)] if relu else []))


def _plain(labels: int) -> _Member:
    """VGG's idea, narrow: 3x3 convolutions and max pooling, nothing else"""
    trunk = nn.Sequential(
        _conv(1, 16, stride=2),
        _conv(16, 24),
        nn.MaxPool2d(2),
        _conv(24, 48),
        _conv(48, 48),
        nn.MaxPool2d(2),
        _conv(48, 80),
        _conv(80, 80),
        nn.MaxPool2d(2),
        _conv(80, 128),
        _conv(128, 128),
    )
    return _Member(trunk, 128, labels)


class _InvertedResidual(nn.Module):
    """MobileNet-V2's block: widen, filter each channel by itself, narrow without an activation."""

    def __init__(self, ins: int, outs: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = ins * expansion
        self.block = nn.Sequential(
            _conv(ins, wide, 1), _conv(wide, wide, 3, stride, groups=wide), _conv(wide, outs, 1, relu=False)
        )
        self.skips = stride == 1 and ins == outs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x) if self.skips else self.block(x)


def _inverted(labels: int) -> _Member:
    """MobileNet-V2's idea: widen, filter each channel by itself, narrow"""
    # (outs, stride, expansion) a block.
    plan = [(24, 2, 2), (24, 1, 3), (48, 2, 4), (48, 1, 4), (48, 1, 4), (80, 2, 4), (80, 1, 4), (80, 1, 4)]
    blocks: list[nn.Module] = [_conv(1, 16, stride=2)]
    ins = 16
    for outs, stride, expansion in plan:
        blocks.append(_InvertedResidual(ins, outs, stride, expansion))
        ins = outs
    return _Member(nn.Sequential(*blocks, _conv(ins, 320, 1)), 320, labels)


class _Inception(nn.Module):
    """Three views of the same place, 1x1, 3x3 and 5x5 (as two 3x3), side by side, added to what came in."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        narrow = channels // 2
        self.one = _conv(channels, narrow, 1)
        self.three = nn.Sequential(_conv(channels, narrow, 1), _conv(narrow, narrow))
        self.five = nn.Sequential(_conv(channels, narrow, 1), _conv(narrow, narrow), _conv(narrow, narrow))
        self.join = _conv(3 * narrow, channels, 1, relu=False)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(x + self.join(torch.cat([self.one(x), self.three(x), self.five(x)], dim=1)))


def _inception(labels: int) -> _Member:
    """Inception-ResNet's idea, narrow: 1x1, 3x3 and 5x5 side by side, added to what came in"""
    trunk = nn.Sequential(
        _conv(1, 16, stride=2),
        _conv(16, 32, stride=2),
        _Inception(32),
        _conv(32, 64, stride=2),
        _Inception(64),
        _conv(64, 96, stride=2),
        _Inception(96),
        _Inception(96),
        _conv(96, 192, 1),
    )
    return _Member(trunk, 192, labels)


ARCHITECTURES: Mapping[str, Callable[[int], _Member]] = {
    "plain": _plain,
    "inverted": _inverted,
    "inception": _inception,
}
