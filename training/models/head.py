"""The end of every member: features (N, C, h, w) in, logits (N, K) and class activation map (N, K, h, w) out.

GAP + dense commutes: a 1x1 convolution gives the map, whose mean plus the bias is the logit. So an engine has the heat
map as a second output, without gradients; `training.gradcam` shows that it is what Grad-CAM gives on the same layer.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["CamHead", "MemberOutput", "TaskHead"]


class MemberOutput(NamedTuple):
    """logits: (N, K). cam: (N, K, h, w), with logits = mean of cam over h and w + bias; None of a baseline without one."""

    logits: Tensor
    cam: Tensor | None


class CamHead(nn.Module):
    """Dropout (whole channels, in training only), 1x1 convolution, global mean, bias.

    Dropping a channel of the map is dropping its mean, so this is GAP, dropout, dense in another order.
    """

    def __init__(self, channels: int, labels: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout2d(dropout)
        self.map = nn.Conv2d(channels, labels, 1, bias=False)
        self.bias = nn.Parameter(torch.zeros(labels))

    def forward(self, features: Tensor) -> MemberOutput:
        cam = self.map(self.dropout(features))
        return MemberOutput(cam.mean(dim=(2, 3)) + self.bias, cam)


class TaskHead(CamHead):
    """R20's head: a 3x3 convolution (padded, with bias), ReLU, then GAP, dropout, dense.

    An ordinary convolution with 1024 maps reproduces the parameters of the paper's tables; its text says a separable 5x5.
    """

    def __init__(self, channels: int, maps: int, labels: int, dropout: float) -> None:
        super().__init__(maps, labels, dropout)
        self.conv = nn.Conv2d(channels, maps, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, features: Tensor) -> MemberOutput:
        return super().forward(self.relu(self.conv(features)))
