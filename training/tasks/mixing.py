"""Mixup and CutMix: a batch of images and targets in, mixed images with both targets and the share of the first out.

A target is a set of possible labels, which no library's mixing supports: so both targets are returned, and the loss is the
mean of two losses, weighted by the share.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from training.loop.plan import Plan

__all__ = ["Mixing", "mixing_from_plan"]


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """Mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019); with both, half of the batches each."""

    mixup: float = 0.0  # alpha of the Beta distribution of a batch's share; 0 for none
    cutmix: float = 0.0  # the same for CutMix

    def mix(self, images: Tensor, targets: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Mix each image of a batch (N, C, H, W) with its neighbour.

        Returns images, their targets, the neighbours' targets and the share of the first. Neighbours are pairs (0 and 1, 2
        and 3), so that processes with even parts of a batch compute together the same as one process with the full batch.
        """
        cuts = self.cutmix > 0 and (self.mixup == 0 or rng.random() < 0.5)
        alpha = self.cutmix if cuts else self.mixup
        share = float(rng.beta(alpha, alpha))
        neighbours = torch.arange(len(images)) ^ 1
        neighbours[neighbours == len(images)] = 0  # the last of an odd number
        others = images[neighbours]
        if cuts:
            images, share = _paste(images, others, share, rng)
        else:
            images = share * images + (1 - share) * others
        return images, targets, targets[neighbours], torch.tensor(share, dtype=torch.float32)


def _paste(images: Tensor, others: Tensor, share: float, rng: np.random.Generator) -> tuple[Tensor, float]:
    """Paste a rectangle of the others' images, of area 1 - share before clipping. Returns the images and the actual share."""
    height, width = images.shape[2:]
    side = np.sqrt(1 - share)
    y, x = rng.integers(height), rng.integers(width)
    top, bottom = (int(np.clip(y + d * side * height / 2, 0, height)) for d in (-1, 1))
    left, right = (int(np.clip(x + d * side * width / 2, 0, width)) for d in (-1, 1))
    images = images.clone()
    images[:, :, top:bottom, left:right] = others[:, :, top:bottom, left:right]
    return images, 1 - (bottom - top) * (right - left) / (height * width)


def mixing_from_plan(plan: Plan) -> Mixing | None:
    """Return the mixing of a plan, or None."""
    return Mixing(mixup=plan.mixup, cutmix=plan.cutmix) if plan.mixup or plan.cutmix else None
