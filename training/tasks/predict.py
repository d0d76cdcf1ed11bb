"""Run a network on preprocessed canvases: batches of inputs, and logits as an array."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from cxr_edge.ops.preprocess import normalize
from cxr_edge.specs.preprocess import PreprocessSpec

__all__ = ["images_of", "logits_of"]


def images_of(lungs: npt.NDArray[np.uint8], spec: PreprocessSpec, *, batch: int = 64) -> Iterator[Tensor]:
    """Deployed canvases (N, S, S) as batches of what a network takes."""
    for start in range(0, len(lungs), batch):
        yield torch.from_numpy(np.stack([normalize(canvas, spec) for canvas in lungs[start : start + batch]]))


@torch.no_grad()
def logits_of(model: nn.Module, lungs: npt.NDArray[np.uint8], spec: PreprocessSpec) -> npt.NDArray[np.float32]:
    """Logits (N, labels) of a network on deployed canvases (N, S, S), on the device that it is on."""
    model.eval()
    device = next(model.parameters()).device
    parts = []
    for images in images_of(lungs, spec):
        logits = model(images.to(device, memory_format=torch.channels_last)).logits
        parts.append(logits.float().cpu().numpy())
    return np.concatenate(parts)
