"""Classifier heads: features (N, C, h, w) in, logits (N, K) and class activation map (N, K, h, w) out.

GAP and dense layer commute: a 1x1 convolution computes the map, whose mean plus the bias is the logit. So an engine has the
heat map as a second output, without gradients; `training.evaluation.gradcam` shows that it equals Grad-CAM on the same layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cxr_edge.errors import InputError

__all__ = ["HEADS", "CamHead", "MemberOutput", "TaskHead"]


class MemberOutput(NamedTuple):
    """Outputs of a classifier."""

    logits: Tensor  # (N, K)
    cam: Tensor | None  # (N, K, h, w), with logits = mean of cam over h and w + bias; None for a baseline without one


class CamHead(nn.Module):
    """Dropout (of full channels, in training only), 1x1 convolution, global mean, bias.

    Dropping a channel of the map drops its mean, so this is GAP, dropout, dense in another order.
    """

    def __init__(self, channels: int, labels: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout2d(dropout)
        self.map = nn.Conv2d(channels, labels, 1, bias=False)
        self.bias = nn.Parameter(torch.zeros(labels))

    def forward(self, features: Tensor) -> MemberOutput:
        if not _is_traced():
            _check_maps(features, self.map.in_channels)
        cam = self.map(self.dropout(features))
        return MemberOutput(cam.mean(dim=(2, 3)) + self.bias, cam)


def _is_traced() -> bool:
    """Return whether TorchScript traces, for which shapes are tensors; `benchmarks/peers` does."""
    traced: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]  # torch has no types here
    return traced


def _check_maps(features: Tensor, channels: int) -> None:
    """Raise InputError for tokens (transformers), for channels that come last, and for a trunk that timm cuts elsewhere."""
    if features.dim() != 4 or features.shape[1] != channels:
        raise InputError(
            f"the head needs maps of shape (N, {channels}, h, w), the trunk gives {tuple(features.shape)}, not maps that it "
            "could read: choose a convolutional network"
        )


@dataclass(frozen=True, kw_only=True)
class _Convolution:
    """Design of a head's convolution."""

    kernel: int
    stride: int
    separable: bool  # depthwise without bias, then 1x1 with bias, as Keras' SeparableConv2D


# R20's head convolutions by name, all after one row of zero padding. The 5x5 of its text and code have stride 2.
HEADS: Mapping[str, _Convolution] = {
    "conv-3x3": _Convolution(kernel=3, stride=1, separable=False),
    "separable-5x5": _Convolution(kernel=5, stride=2, separable=True),
    "conv-5x5": _Convolution(kernel=5, stride=2, separable=False),
}
_PADDING = 1


class TaskHead(CamHead):
    """R20's head: zero padding, a convolution of `HEADS`, ReLU, then GAP, dropout, dense.

    kind: conv-3x3, an ordinary convolution, reproduces the parameter counts of the paper's tables with 1024 maps. The paper's
    text has separable-5x5; its code has that for the modality and conv-5x5 for the tasks.
    """

    def __init__(self, channels: int, maps: int, labels: int, dropout: float, *, kind: str = "conv-3x3") -> None:
        super().__init__(maps, labels, dropout)
        head = _head_convolution(kind)
        self.kernel = head.kernel
        layout: dict[str, Any] = {"kernel_size": head.kernel, "stride": head.stride, "padding": _PADDING}
        if head.separable:
            self.depth = nn.Conv2d(channels, channels, groups=channels, bias=False, **layout)
            self.conv = nn.Conv2d(channels, maps, 1)
        else:
            self.conv = nn.Conv2d(channels, maps, **layout)
        self.relu = nn.ReLU(inplace=True)

    @property
    def convolutions(self) -> Mapping[str, nn.Conv2d]:
        """Convolutions by name; the first one reads the trunk's map."""
        return {name: m for name in ("depth", "conv") if (m := getattr(self, name, None)) is not None}

    def forward(self, features: Tensor) -> MemberOutput:
        if not _is_traced():
            _check_maps(features, next(iter(self.convolutions.values())).in_channels)
            self._check_size(features)
        for convolution in self.convolutions.values():
            features = convolution(features)
        return super().forward(self.relu(features))

    def _check_size(self, features: Tensor) -> None:
        if min(features.shape[2:]) + 2 * _PADDING < self.kernel:
            raise InputError(
                f"the head's {self.kernel}x{self.kernel} convolution needs maps of {self.kernel - 2 * _PADDING} cells per "
                f"side or more, got {tuple(features.shape[2:])}: give larger images (canvas_px) or another head"
            )


def _head_convolution(kind: str) -> _Convolution:
    if kind not in HEADS:
        raise InputError(f"no head is called {kind!r}: choose from {', '.join(HEADS)}")
    return HEADS[kind]
