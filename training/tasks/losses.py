"""What training minimises: logits and targets in, one number out. Lung masks, findings known whole or in part, focal loss."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["allowed_label_loss", "focal_loss", "mask_loss"]


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


def focal_loss(
    logits: Tensor, truth: Tensor, *, alpha: Tensor, gamma: float, reduction: Literal["mean", "sum"] = "mean"
) -> Tensor:
    """FLANNEL's focal loss for many classes: -alpha_y (1 - p_y)^gamma log p_y, p the softmax of the logits.

    logits: (N, K). truth: (N,) label indices. alpha: (K,). With alpha 1 and gamma 0 it is cross entropy. log p is taken from
    the logits, so that a p near 0 costs much and not infinitely much, and 1 - p from the other labels' probabilities, so that
    a p near 1 has a gradient that is small and not 0 or NaN.
    """
    log_p = functional.log_softmax(logits, dim=1)
    own = functional.one_hot(truth, logits.shape[1]).bool()
    rest = log_p.exp().masked_fill(own, 0.0).sum(dim=1).clamp(0.0, 1.0)
    # pow(0, gamma < 1) has no finite gradient; the smallest normal number stands in for nothing.
    weight = rest.clamp_min(torch.finfo(logits.dtype).tiny) ** gamma if gamma else torch.ones_like(rest)
    # Near 1 the logarithm is taken from the rest, which has digits left where log p has none.
    log_own = torch.where(rest < 0.5, torch.log1p(-rest.clamp_max(0.5)), log_p[own])
    loss = -alpha[truth] * weight * log_own
    return loss.sum() if reduction == "sum" else loss.mean()
