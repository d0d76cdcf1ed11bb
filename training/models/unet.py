"""Lung segmenter: a gray frame (N, 1, S, S) in, lung logits (N, 1, S, S) out.

R20's U-Net with Gaussian dropout 0.2 in the encoder, but narrower: at the papers' width it takes more time than all members
together.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["GaussianDropout", "LungUNet"]


class GaussianDropout(nn.Module):
    """Multiply by noise of mean 1 and variance rate / (1 - rate) in training (Keras' GaussianDropout)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"the rate must be in [0, 1), got {rate}")
        self.deviation = (rate / (1 - rate)) ** 0.5

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.deviation == 0:
            return x
        # randn_like draws one number at a time on channels-last tensors; a flat draw is ten times faster.
        noise = torch.randn(x.numel(), device=x.device).to(x.dtype).as_strided(x.size(), x.stride())
        noisy: Tensor = x * (1 + self.deviation * noise)
        return noisy


class LungUNet(nn.Module):
    """U-Net. widths: channels per level, from full resolution down; S must be divisible by 2 ** (len(widths) - 1)."""

    def __init__(self, widths: Sequence[int] = (16, 16, 32, 48, 64), dropout: float = 0.2) -> None:
        super().__init__()
        ins = [1, *widths[:-1]]
        self.encoder = nn.ModuleList(_level(i, o) for i, o in zip(ins, widths, strict=True))
        self.dropout = GaussianDropout(dropout)
        self.pool = nn.MaxPool2d(2)
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        deep, skip = list(widths[:0:-1]), list(widths[-2::-1])
        self.decoder = nn.ModuleList(_level(d + s, s) for d, s in zip(deep, skip, strict=True))
        self.head = nn.Conv2d(widths[0], 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for i, level in enumerate(self.encoder):
            x = self.dropout(level(x if i == 0 else self.pool(x)))
            skips.append(x)
        for level, skip in zip(self.decoder, skips[-2::-1], strict=True):
            x = level(torch.cat([self.up(x), skip], dim=1))
        logits: Tensor = self.head(x)
        return logits


def _level(ins: int, outs: int) -> nn.Sequential:
    return nn.Sequential(*_conv(ins, outs), *_conv(outs, outs))


def _conv(ins: int, outs: int) -> list[nn.Module]:
    return [nn.Conv2d(ins, outs, 3, padding=1, bias=False), nn.BatchNorm2d(outs), nn.ReLU(inplace=True)]
