"""Inference on canvases: deployed canvases and a network in, input batches or logits as an array out."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from cxr_edge.ops.preprocess import normalize
from cxr_edge.specs.preprocess import PreprocessSpec

__all__ = ["input_batches", "predict_logits"]


def input_batches(lungs: npt.NDArray[np.uint8], spec: PreprocessSpec, *, batch: int = 64) -> Iterator[Tensor]:
    """Yield network inputs (batch, C, S, S) from deployed canvases (N, S, S)."""
    for start in range(0, len(lungs), batch):
        yield torch.from_numpy(np.stack([normalize(canvas, spec) for canvas in lungs[start : start + batch]]))


@torch.no_grad()
def predict_logits(model: nn.Module, lungs: npt.NDArray[np.uint8], spec: PreprocessSpec) -> npt.NDArray[np.float32]:
    """Return logits (N, labels) of deployed canvases (N, S, S), computed on the network's device."""
    model.eval()
    device = next(model.parameters()).device
    parts = []
    for images in input_batches(lungs, spec):
        logits = model(images.to(device, memory_format=torch.channels_last)).logits
        parts.append(logits.float().cpu().numpy())
    return np.concatenate(parts)
