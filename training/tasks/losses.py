"""Loss functions: logits and targets in, a scalar out; for lung masks, full or partial labels, and FLANNEL's focal loss."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["focal_loss", "mask_loss", "partial_label_loss"]


def mask_loss(logits: Tensor, lung: Tensor, known: Tensor) -> Tensor:
    """Return R20's BCE + (1 - Dice) over the pixels with a known label.

    logits: (N, 1, S, S).
    lung, known: (N, 1, S, S), 0 or 1.
    """
    bce = functional.binary_cross_entropy_with_logits(logits, lung, weight=known, reduction="sum") / known.sum()
    p = logits.sigmoid() * known
    lung = lung * known
    overlap = (p * lung).sum((1, 2, 3))
    dice = (2 * overlap + 1) / (p.sum((1, 2, 3)) + lung.sum((1, 2, 3)) + 1)
    return bce + (1 - dice).mean()


def partial_label_loss(
    logits: Tensor, target_mask: Tensor, *, smoothing: float, weights: Tensor | None = None
) -> Tensor:
    """Return cross entropy for images with one possible label, -log(sum of p) for images with several.

    logits: (N, K).
    target_mask: (N, K) booleans, at least one per row: a pneumonia that is not COVID-19 has `bacterial` and `viral`.
    smoothing: share of the loss that is spread over all labels, against overconfidence.
    weights: (K,) per label; an image has the mean over its possible labels. The sum is divided by N, as in Keras, so that the
    loss does not depend on how processes share a batch.
    """
    log_p = functional.log_softmax(logits, dim=1)
    log_likelihood = torch.logsumexp(log_p.masked_fill(~target_mask, float("-inf")), dim=1)
    loss = -((1 - smoothing) * log_likelihood + smoothing * log_p.mean(dim=1))
    if weights is None:
        return loss.mean()
    return (loss * (target_mask * weights).sum(dim=1) / target_mask.sum(dim=1)).mean()


def focal_loss(
    logits: Tensor, targets: Tensor, *, alpha: Tensor, gamma: float, reduction: Literal["mean", "sum"] = "mean"
) -> Tensor:
    """Return FLANNEL's multi-class focal loss: -alpha_y (1 - p_y)^gamma log p_y, with p the softmax of the logits.

    logits: (N, K).
    targets: (N,) label indices.
    alpha: (K,); with alpha 1 and gamma 0 the loss is cross entropy.

    log p is computed from the logits, so that the loss is finite for p near 0, and 1 - p from the other labels' probabilities,
    so that the gradient for p near 1 is small and not 0 or NaN.
    """
    log_p = functional.log_softmax(logits, dim=1)
    own = functional.one_hot(targets, logits.shape[1]).bool()
    rest = log_p.exp().masked_fill(own, 0.0).sum(dim=1).clamp(0.0, 1.0)
    # pow(0, gamma < 1) has no finite gradient, hence the smallest normal number instead of 0.
    weight = rest.clamp_min(torch.finfo(logits.dtype).tiny) ** gamma if gamma else torch.ones_like(rest)
    # Near 1 the logarithm is computed from the rest, which has digits left where log p has none.
    log_own = torch.where(rest < 0.5, torch.log1p(-rest.clamp_max(0.5)), log_p[own])
    loss = -alpha[targets] * weight * log_own
    return loss.sum() if reduction == "sum" else loss.mean()
