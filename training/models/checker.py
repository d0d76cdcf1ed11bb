"""The checker network: a gray frame (N, 1, 128, 128) in, scores of reasons to refuse it out.

It must take a twentieth of a screening at most, so it has 50,000 parameters: a strided convolution, depthwise separable blocks,
and one depthwise convolution over the last maps in place of average pooling, because where the heart is tells left from right.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["CheckerForExport", "CheckerNetwork"]

_STEM = 16
# (channels, stride) of each block.
_BLOCKS = ((32, 2), (32, 1), (64, 2), (64, 1), (64, 1), (96, 2), (96, 1), (96, 1))
_STRIDE = 2 ** (1 + sum(stride == 2 for _, stride in _BLOCKS))


class CheckerNetwork(nn.Module):
    """Logits of `outputs` scores from 96 features. side_px: of the frames, a multiple of 16."""

    def __init__(self, outputs: int, *, side_px: int = 128, dropout: float = 0.1) -> None:
        super().__init__()
        if side_px % _STRIDE:
            raise ValueError(f"side_px must be a multiple of {_STRIDE}, got {side_px}")
        layers: list[nn.Module] = _convolution(1, _STEM, 3, stride=2)
        channels = _STEM
        for width, stride in _BLOCKS:
            layers += _convolution(channels, channels, 3, stride=stride, groups=channels)
            layers += _convolution(channels, width, 1)
            channels = width
        self.trunk = nn.Sequential(*layers)
        self.gather = nn.Conv2d(channels, channels, side_px // _STRIDE, groups=channels, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(channels, outputs)
        self.features_count = channels

    def features(self, image: Tensor) -> Tensor:
        """Return the features (N, 96) that the scores are linear in."""
        found: Tensor = torch.flatten(self.norm(self.gather(self.trunk(image))), 1)
        return found

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.head(self.dropout(self.features(image)))
        return logits


class CheckerForExport(nn.Module):
    """The checker with its probabilities (N, K), and as a last score the distance of the features from those of good images.

    mean: (F,), whitening: (F, F), so that the features of good training images, less the mean, times it have variance 1; the
    score is the mean of the squares, the squared Mahalanobis distance by feature: about 1 for an image like those.
    """

    mean: Tensor
    whitening: Tensor

    def __init__(self, network: CheckerNetwork, mean: Tensor, whitening: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", mean)
        self.register_buffer("whitening", whitening)

    def forward(self, image: Tensor) -> Tensor:
        features = self.network.features(image)
        white = (features - self.mean) @ self.whitening
        return torch.cat([self.network.head(features).sigmoid(), (white * white).mean(dim=1, keepdim=True)], dim=1)


def _convolution(ins: int, outs: int, size: int, *, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(ins, outs, size, stride=stride, padding=size // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(outs), nn.ReLU(inplace=True)]
