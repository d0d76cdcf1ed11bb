"""Classifiers of the starter bundle: three compact designs, each with less than half a million parameters.

Different designs make different errors, from which an ensemble gains. All have ReLU (APoZ pruning counts its zeros, and its
range suits int8), channel counts in multiples of 8, a strided stem (large maps take most of the time), and maps of 1/16 of
the input, so that the class activation map is 10x10 at 160 px.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from training.models.head import CamHead, MemberOutput

__all__ = ["ARCHITECTURES", "build_member"]

_HEAD_DROPOUT = 0.3


class _Member(nn.Module):
    """A trunk and the head. The first line of each builder's docstring is the description of the architecture in bundles."""

    def __init__(self, trunk: nn.Sequential, channels: int, labels: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = CamHead(channels, labels, _HEAD_DROPOUT)

    def forward(self, image: Tensor) -> MemberOutput:
        output: MemberOutput = self.head(self.trunk(image))
        return output


def build_member(architecture: str, labels: int) -> nn.Module:
    """Return an untrained member: `plain`, `inverted` or `inception`. Input (N, 1, S, S), S divisible by 16."""
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
    """VGG's design, narrow: 3x3 convolutions and max pooling only"""
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
    """MobileNet-V2's block: expand, depthwise convolution, project without an activation."""

    def __init__(self, ins: int, outs: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = ins * expansion
        self.block = nn.Sequential(
            _conv(ins, wide, 1), _conv(wide, wide, 3, stride, groups=wide), _conv(wide, outs, 1, relu=False)
        )
        self.skips = stride == 1 and ins == outs

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = x + self.block(x) if self.skips else self.block(x)
        return maps


def _inverted(labels: int) -> _Member:
    """MobileNet-V2's design: expand, depthwise convolution, project"""
    # (outs, stride, expansion) per block.
    plan = [(24, 2, 2), (24, 1, 3), (48, 2, 4), (48, 1, 4), (48, 1, 4), (80, 2, 4), (80, 1, 4), (80, 1, 4)]
    blocks: list[nn.Module] = [_conv(1, 16, stride=2)]
    ins = 16
    for outs, stride, expansion in plan:
        blocks.append(_InvertedResidual(ins, outs, stride, expansion))
        ins = outs
    return _Member(nn.Sequential(*blocks, _conv(ins, 320, 1)), 320, labels)


class _Inception(nn.Module):
    """Parallel 1x1, 3x3 and 5x5 (as two 3x3) convolutions with a residual connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        narrow = channels // 2
        self.one = _conv(channels, narrow, 1)
        self.three = nn.Sequential(_conv(channels, narrow, 1), _conv(narrow, narrow))
        self.five = nn.Sequential(_conv(channels, narrow, 1), _conv(narrow, narrow), _conv(narrow, narrow))
        self.join = _conv(3 * narrow, channels, 1, relu=False)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.relu(x + self.join(torch.cat([self.one(x), self.three(x), self.five(x)], dim=1)))
        return maps


def _inception(labels: int) -> _Member:
    """Inception-ResNet's design, narrow: parallel 1x1, 3x3 and 5x5 convolutions with a residual connection"""
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
