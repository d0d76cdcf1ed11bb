"""Losses of findings that do not exclude each other: logits and what is known of each finding in, a scalar out.

`bce`: cross entropy of each finding, positives weighted. `focal`: Lin et al. 2017, gamma 2. `asymmetric`: Ridnik et al. 2021 with
the paper's gamma+ 0, gamma- 4 and margin 0.05: negatives that are easy count little, and below the margin nothing.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["FINDING_LOSSES", "FindingLoss", "finding_loss"]

FindingLoss = Literal["bce", "focal", "asymmetric"]
FINDING_LOSSES: tuple[FindingLoss, ...] = ("bce", "focal", "asymmetric")

_FOCAL_GAMMA = 2
_GAMMA_NEGATIVE, _MARGIN = 4, 0.05


def finding_loss(
    logits: Tensor,
    truth: Tensor,
    *,
    kind: FindingLoss = "bce",
    smoothing: float = 0.0,
    weights: Tensor | None = None,
    positive_weights: Tensor | None = None,
    offsets: Tensor | None = None,
) -> Tensor:
    """Return the loss over the known findings.

    logits: (N, K).
    truth: (N, K), 1 present, 0 absent, NaN unknown: an unknown finding has no loss and no gradient.
    smoothing: share of the truth that is replaced by a half, against overconfidence.
    weights: (K,), of a finding. positive_weights: (K,), of a finding where it is present.
    offsets: (K,), added to the logits, so that the network need not learn a prevalence that weights or drawing have changed.

    The sum is divided by N K whatever is unknown, so that the loss does not depend on how processes share a batch.
    """
    known = ~torch.isnan(truth)
    present = torch.where(known, truth, 0.0) * (1 - smoothing) + smoothing / 2
    z = logits if offsets is None else logits + offsets
    on_present, on_absent = _terms(z, kind)
    if positive_weights is not None:
        on_present = on_present * positive_weights
    loss = (present * on_present + (1 - present) * on_absent).masked_fill(~known, 0.0)
    return (loss if weights is None else loss * weights).sum() / max(1, truth.numel())


def _terms(z: Tensor, kind: FindingLoss) -> tuple[Tensor, Tensor]:
    """Return the losses of each logit (N, K) if the finding is present, and if it is absent."""
    on_present, on_absent = functional.softplus(-z), functional.softplus(z)
    if kind == "bce":
        return on_present, on_absent
    p = z.sigmoid()
    if kind == "focal":
        return (1 - p) ** _FOCAL_GAMMA * on_present, p**_FOCAL_GAMMA * on_absent
    shifted = (p - _MARGIN).clamp_min(0.0)
    return on_present, -(shifted**_GAMMA_NEGATIVE) * torch.log1p(-shifted)
