"""Grad-CAM of any member, pruned or not: a network and an image in, the evidence for one label by place out.

R20 shows Grad-CAM, the device shows the head's class activation map, which needs no gradient (`cxr_edge.ops.heatmap`). This
module says how far the two agree; on the layer before the head's map they are the same but for a factor 1 / (h w).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from cxr_edge.errors import InputError

__all__ = ["Agreement", "agreement", "grad_cam"]

TOP_SHARE = 0.1  # of the cells: what an eye takes for the hot spot

Map = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """correlation: Pearson's, -1..1; 1 where both maps are constant, 0 where one is. top_overlap: cells in the top decile
    of both maps over those in the larger of the two deciles, 0..1; cells without evidence are in no decile.
    """

    correlation: float
    top_overlap: float


def grad_cam(network: nn.Module, image: Tensor, label: int, layer: nn.Module | None = None) -> Map:
    """The map (h, w) of Selvaraju et al., "Grad-CAM" (ICCV 2017), not below 0, in logits a cell.

    network: gives a `MemberOutput`; runs in eval mode, is left in the mode it came in, and gathers no gradients. image:
    (1, C, S, S). label: index of the logit, before softmax. layer: whose output is looked at (for a convolution after its
    activation, give the activation); None: what enters the head's map, the deepest convolution after its activation.
    Raises InputError for an image, label or layer that has no such map.
    """
    if image.ndim != 4 or image.shape[0] != 1:
        raise InputError(f"Grad-CAM takes one image (1, C, S, S), not {tuple(image.shape)}")
    with _evaluating(network), torch.enable_grad():
        features, logits = _forward(network, image, layer)
        if not 0 <= label < logits.shape[1]:
            raise InputError(f"the network has labels 0 to {logits.shape[1] - 1}, not {label}")
        (gradient,) = torch.autograd.grad(logits[0, label], features, allow_unused=True)
    if gradient is None:
        raise InputError("the logits do not depend on the layer's last output: give a layer on the way to them")
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    return (weights * features).sum(dim=1)[0].relu().detach().float().cpu().numpy()


def agreement(grad_cam: Map, cam: Map) -> Agreement:
    """How far two maps of one label show the same place. cam: (h, w), `MemberOutput.cam[0, label]`, rectified here.

    Either may be the finer one: the coarser is enlarged as the device does it. A common factor does not matter.
    """
    a, b = np.maximum(grad_cam, 0).astype(np.float64), np.maximum(cam, 0).astype(np.float64)
    height, width = (max(n, m) for n, m in zip(a.shape, b.shape, strict=True))
    a, b = (cv2.resize(m, (width, height), interpolation=cv2.INTER_LINEAR) for m in (a, b))
    return Agreement(correlation=_correlation(a, b), top_overlap=_top_overlap(a, b))


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Eval mode, and afterwards each module in its own mode again: some may have been frozen in a network that trains."""
    modes = [(m, m.training) for m in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for m, mode in modes:
            m.training = mode


def _forward(network: nn.Module, image: Tensor, layer: nn.Module | None) -> tuple[Tensor, Tensor]:
    """The layer's output (1, n, h, w) in the graph, and the logits (1, K).

    The network goes on with a copy, since an in-place activation would change what is looked at.
    """
    seen: list[Tensor] = []

    def keep(value: Tensor) -> Tensor:
        seen.append(value)
        return value.clone()

    if layer is None:
        hook = network.head.map.register_forward_pre_hook(lambda _, values: keep(values[0]))
    else:
        hook = layer.register_forward_hook(lambda _, __, value: keep(value))
    try:
        # The image asks for a gradient so that there is a graph even where all weights are frozen.
        logits = network(image.detach().clone().requires_grad_()).logits
    finally:
        hook.remove()
    if not seen or seen[-1].ndim != 4:
        raise InputError("Grad-CAM needs a layer of this network that gives a map (1, n, h, w)")
    return seen[-1], logits


def _correlation(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    constant = int(np.ptp(a) == 0) + int(np.ptp(b) == 0)
    if constant:
        return float(constant == 2)
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def _top_overlap(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    hot_a, hot_b = _hottest(a), _hottest(b)
    larger = max(int(hot_a.sum()), int(hot_b.sum()))
    return float((hot_a & hot_b).sum() / larger) if larger else 1.0


def _hottest(evidence: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """The top decile, all cells that tie at its edge included; a cell at 0 is never hot."""
    count = int(np.ceil(TOP_SHARE * evidence.size))
    return (evidence >= np.sort(evidence, axis=None)[-count]) & (evidence > 0)
