"""What training minimises: logits and targets in, one number out. Lung masks, and findings known whole or in part."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["allowed_label_loss", "mask_loss"]


def mask_loss(logits: Tensor, lung: Tensor, known: Tensor) -> Tensor:
    """R20's BCE + (1 - Dice), over the pixels that the annotator was sure of.

    logits, lung, known: (N, 1, S, S); lung and known are 0 or 1.
    """
    bce = functional.binary_cross_entropy_with_logits(logits, lung, weight=known, reduction="sum") / known.sum()
    p = logits.sigmoid() * known
    lung = lung * known
    overlap = (p * lung).sum((1, 2, 3))
    dice = (2 * overlap + 1) / (p.sum((1, 2, 3)) + lung.sum((1, 2, 3)) + 1)
    return bce + (1 - dice).mean()


def allowed_label_loss(logits: Tensor, allowed: Tensor, *, smoothing: float, weights: Tensor | None = None) -> Tensor:
    """Cross entropy where the truth is one label, -log(sum of p) where it is only known to be among several.

    logits: (N, K). allowed: (N, K) booleans, at least one a row: a pneumonia that is not COVID-19 allows `bacterial` and
    `viral`. smoothing: share of the loss that is spread over all labels, which keeps certainty honest. weights: (K,) of
    the labels, of which an image has the mean over those allowed; the sum is divided by N, as Keras does, so that
    processes that share a batch agree.
    """
    log_p = functional.log_softmax(logits, dim=1)
    truth = torch.logsumexp(log_p.masked_fill(~allowed, float("-inf")), dim=1)
    loss = -((1 - smoothing) * truth + smoothing * log_p.mean(dim=1))
    if weights is None:
        return loss.mean()
    return (loss * (allowed * weights).sum(dim=1) / allowed.sum(dim=1)).mean()
