"""Mixup and CutMix: a batch of images and targets in, mixed images with both targets and the share of the first out.

A target is a set of allowed labels, not one label, which no library's mixing takes: so both targets stay whole, and the loss
is the mean of two by the share.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from training.loop.plan import Plan

__all__ = ["Mixing", "mixing_of"]


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """mixup, cutmix: alpha of the Beta distribution that a batch's share is drawn from; 0 for none, and with both half of the
    batches each. As Zhang et al. 2018 and Yun et al. 2019 have them.
    """

    mixup: float = 0.0
    cutmix: float = 0.0

    def mixed(self, images: Tensor, targets: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Mix each image of a batch (N, C, H, W) with its neighbour: images, their targets, the neighbours', share of their own.

        Images are neighbours by pairs (0 and 1, 2 and 3), which several processes that share a batch have whole if their
        parts are even: then all of them together do what one does with the whole batch.
        """
        cuts = self.cutmix > 0 and (self.mixup == 0 or rng.random() < 0.5)
        alpha = self.cutmix if cuts else self.mixup
        share = float(rng.beta(alpha, alpha))
        neighbours = torch.arange(len(images)) ^ 1
        neighbours[neighbours == len(images)] = 0  # the last of an odd number
        others = images[neighbours]
        if cuts:
            images, share = _pasted(images, others, share, rng)
        else:
            images = share * images + (1 - share) * others
        return images, targets, targets[neighbours], torch.tensor(share, dtype=torch.float32)


def _pasted(images: Tensor, others: Tensor, share: float, rng: np.random.Generator) -> tuple[Tensor, float]:
    """A rectangle of the others' images, 1 - share of the area before the border cuts it; the share that is left."""
    height, width = images.shape[2:]
    side = np.sqrt(1 - share)
    y, x = rng.integers(height), rng.integers(width)
    top, bottom = (int(np.clip(y + d * side * height / 2, 0, height)) for d in (-1, 1))
    left, right = (int(np.clip(x + d * side * width / 2, 0, width)) for d in (-1, 1))
    images = images.clone()
    images[:, :, top:bottom, left:right] = others[:, :, top:bottom, left:right]
    return images, 1 - (bottom - top) * (right - left) / (height * width)


def mixing_of(plan: Plan) -> Mixing | None:
    """What a plan asks for; None for no mixing."""
    return Mixing(mixup=plan.mixup, cutmix=plan.cutmix) if plan.mixup or plan.cutmix else None
