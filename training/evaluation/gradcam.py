"""Grad-CAM of any member, pruned or not: a network and an image in, the evidence map of one label out.

R20 shows Grad-CAM, the device shows the head's class activation map, which needs no gradient (`cxr_edge.ops.heatmap`). This
module measures how far the two agree; on the layer before the head's map they are equal up to a factor 1 / (h w).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from cxr_edge.errors import InputError
from training.models.layers import evaluation_mode

__all__ = ["Agreement", "agreement", "grad_cam"]

TOP_SHARE = 0.1  # of the cells: the visible hot spot

Map = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Similarity of two maps of one label."""

    correlation: float  # Pearson's, -1..1; 1 if both maps are constant, 0 if one is
    # Cells in the top decile of both maps over those in the larger decile, 0..1; cells without evidence are in no decile.
    top_overlap: float


def grad_cam(network: nn.Module, image: Tensor, label: int, layer: nn.Module | None = None) -> Map:
    """Return the map (h, w) of Selvaraju et al., "Grad-CAM" (ICCV 2017), 0 or more, in logits per cell.

    network: returns a `MemberOutput`; runs in eval mode, its modes are restored, and no gradients accumulate.
    image: (1, C, S, S).
    label: index of the logit, before softmax.
    layer: the map is of its output (for a convolution after its activation, give the activation); None: the input of the
        head's map, the deepest convolution after its activation.

    Raises InputError for an image, label or layer without a map.
    """
    if image.ndim != 4 or image.shape[0] != 1:
        raise InputError(f"Grad-CAM takes one image (1, C, S, S), not {tuple(image.shape)}")
    with evaluation_mode(network), torch.enable_grad():
        features, logits = _forward(network, image, layer)
        if not 0 <= label < logits.shape[1]:
            raise InputError(f"the network has labels 0 to {logits.shape[1] - 1}, not {label}")
        (gradient,) = torch.autograd.grad(logits[0, label], features, allow_unused=True)
    if gradient is None:
        raise InputError("the logits do not depend on the layer's last output: give a layer on the way to them")
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    return (weights * features).sum(dim=1)[0].relu().detach().float().cpu().numpy()


def agreement(grad_cam: Map, cam: Map) -> Agreement:
    """Return the similarity of two maps of one label. cam: (h, w), `MemberOutput.cam[0, label]`, rectified here.

    The coarser map is enlarged as on the device. A common factor has no influence.
    """
    a, b = np.maximum(grad_cam, 0).astype(np.float64), np.maximum(cam, 0).astype(np.float64)
    height, width = (max(n, m) for n, m in zip(a.shape, b.shape, strict=True))
    a, b = (cv2.resize(m, (width, height), interpolation=cv2.INTER_LINEAR) for m in (a, b))
    return Agreement(correlation=_correlation(a, b), top_overlap=_top_overlap(a, b))


def _forward(network: nn.Module, image: Tensor, layer: nn.Module | None) -> tuple[Tensor, Tensor]:
    """Return the layer's output (1, n, h, w) in the graph, and the logits (1, K).

    The network continues with a copy, since an in-place activation would change the output.
    """
    outputs: list[Tensor] = []

    def record(value: Tensor) -> Tensor:
        outputs.append(value)
        return value.clone()

    if layer is None:
        hook = network.get_submodule("head.map").register_forward_pre_hook(lambda _, values: record(values[0]))
    else:
        hook = layer.register_forward_hook(lambda _, __, value: record(value))
    try:
        # The image requires a gradient so that there is a graph even if all weights are frozen.
        logits = network(image.detach().clone().requires_grad_()).logits
    finally:
        hook.remove()
    if not outputs or outputs[-1].ndim != 4:
        raise InputError("Grad-CAM needs a layer of this network with an output map (1, n, h, w)")
    return outputs[-1], logits


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
    """Return the top decile, with all cells that tie at its edge; a cell at 0 is never hot."""
    count = int(np.ceil(TOP_SHARE * evidence.size))
    hot: npt.NDArray[np.bool_] = (evidence >= np.sort(evidence, axis=None)[-count]) & (evidence > 0)
    return hot
