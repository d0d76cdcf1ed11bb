"""FLANNEL's neural weight module: the learners' probabilities in, a weight for each learner, image by image, out.

f holds all probabilities of an image; tanh of a dense layer on the outer product f f^T weighs the learners, and the softmax
of the weighted sum of their probabilities is the answer (Qiao et al. 2020, section III and Figure 1). With weights below 1
the largest probability stays below e^M / (e^M + K - 1) for M learners and K labels, 0.9802 for 5 and 4: the answer must be
sharpened by a temperature before it is read as a probability.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from cxr_edge.errors import InputError
from cxr_edge.specs.combination import Combination
from training.tasks.losses import focal_loss

__all__ = ["FitPlan", "NeuralWeightModule", "alpha_of", "as_combination", "fit_dense", "fit_module", "most"]


@dataclass(frozen=True, kw_only=True)
class FitPlan:
    """Stage 2, of the module and of every combination that it is compared with.

    gamma: of the focal loss; the text has 3, the code 10. alpha: `balanced` is images / (labels x images of the label),
    `count` is the code's 1000 / images, `none` is 1. reduction: of the loss over a batch; the code sums. learning_rate:
    Adam's, falling to nothing along a cosine if `decay`. No epoch is chosen: the last one's weights are kept.
    """

    epochs: int = 60
    batch: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    decay: bool = True
    gamma: float = 3.0
    alpha: Literal["balanced", "count", "none"] = "balanced"
    reduction: Literal["mean", "sum"] = "mean"

    def __post_init__(self) -> None:
        if self.alpha not in ("balanced", "count", "none") or self.reduction not in ("mean", "sum"):
            raise InputError(
                f"stage 2 has the alpha balanced, count or none and the reduction mean or sum, got {self.alpha!r}, "
                f"{self.reduction!r}"
            )
        if self.epochs < 1 or self.batch < 1 or self.learning_rate <= 0 or min(self.gamma, self.weight_decay) < 0:
            raise InputError(
                f"stage 2 needs an epoch, a batch, a learning rate above 0, gamma and weight decay from 0 on; got {self}"
            )


class NeuralWeightModule(nn.Module):
    """(N, members, labels) probabilities -> (N, members) weights in (-1, 1). 2,005 parameters for 5 members and 4 labels."""

    def __init__(self, members: int, labels: int) -> None:
        super().__init__()
        self.dense = nn.Linear((members * labels) ** 2, members)

    def forward(self, probabilities: Tensor) -> Tensor:
        f = probabilities.flatten(1)
        return torch.tanh(self.dense(torch.einsum("ni,nj->nij", f, f).flatten(1)))

    def combined(self, probabilities: Tensor) -> Tensor:
        """The weighted sum (N, labels), whose softmax is the answer."""
        return torch.einsum("nm,nmk->nk", self(probabilities), probabilities)


def most(members: int, labels: int) -> float:
    """What no probability of the module's answer can pass."""
    return float(np.exp(members) / (np.exp(members) + labels - 1))


def alpha_of(truth: npt.NDArray[np.int64], labels: int, kind: str) -> npt.NDArray[np.float32]:
    """The weight of each label (K,) in the focal loss, from how often it occurs; a label that does not counts as once."""
    counts = np.maximum(np.bincount(truth, minlength=labels), 1)
    values = {"balanced": len(truth) / (labels * counts), "count": 1000 / counts, "none": np.ones(labels)}
    return values[kind].astype(np.float32)


def fit_module(
    probabilities: npt.NDArray[np.float64],
    truth: npt.NDArray[np.int64],
    plan: FitPlan,
    *,
    seed: int,
    focal: bool = True,
    oversample: bool = False,
) -> NeuralWeightModule:
    """Train the module on the learners' probabilities (N, members, labels) and the truth (N,).

    focal: else the loss is cross entropy. oversample: draw as many images of each label an epoch as the commonest has.
    """
    _, members, labels = probabilities.shape
    own = plan if focal else replace(plan, gamma=0.0, alpha="none")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = NeuralWeightModule(members, labels)
    return _fitted(module, module.combined, probabilities, truth, own, seed=seed, oversample=oversample)


def fit_dense(
    probabilities: npt.NDArray[np.float64], truth: npt.NDArray[np.int64], plan: FitPlan, *, seed: int, layers: int
) -> nn.Module:
    """Table 3's multi-layer perceptrons: cross entropy on all probabilities side by side, one or two dense layers.

    layers: 2 has as many hidden units as inputs, as R20's stacking. Maps (N, members, labels) to logits (N, labels).
    """
    if layers not in (1, 2):
        raise InputError(f"Table 3's perceptrons have one layer or two, not {layers}")
    _, members, labels = probabilities.shape
    width = members * labels
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        hidden = [nn.Linear(width, width), nn.ReLU()] if layers == 2 else []
        network = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(width, labels))
    own = replace(plan, gamma=0.0, alpha="none")
    return _fitted(network, network, probabilities, truth, own, seed=seed, oversample=False)


def _fitted(
    network: Any,
    logits_of: Any,
    probabilities: npt.NDArray[np.float64],
    truth: npt.NDArray[np.int64],
    plan: FitPlan,
    *,
    seed: int,
    oversample: bool,
) -> Any:
    labels = probabilities.shape[2]
    x, y = torch.from_numpy(probabilities.astype(np.float32)), torch.from_numpy(truth)
    alpha = torch.from_numpy(alpha_of(truth, labels, plan.alpha))
    optimizer = torch.optim.Adam(network.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay)
    rng = np.random.default_rng(seed)
    for epoch in range(plan.epochs):
        fall = 0.5 * (1 + np.cos(np.pi * epoch / plan.epochs)) if plan.decay else 1.0
        for group in optimizer.param_groups:
            group["lr"] = plan.learning_rate * fall
        order = rng.permutation(_oversampled(truth, rng) if oversample else len(truth))
        for start in range(0, len(order), plan.batch):
            rows = torch.from_numpy(order[start : start + plan.batch])
            loss = focal_loss(logits_of(x[rows]), y[rows], alpha=alpha, gamma=plan.gamma, reduction=plan.reduction)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network.eval()


def _oversampled(truth: npt.NDArray[np.int64], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Rows with as many of each label as the commonest has; the rarer labels' drawn again."""
    rows = [np.flatnonzero(truth == k) for k in np.unique(truth)]
    largest = max(map(len, rows))
    return np.concatenate([np.concatenate([r, rng.choice(r, largest - len(r))]) for r in rows])


def as_combination(module: NeuralWeightModule) -> Combination:
    """The module as a bundle holds it, temperatures 1; `Combiner` computes the same as `softmax(combined)`."""
    return Combination(
        strategy="flannel",
        member_temperatures=(1.0,) * module.dense.out_features,
        temperature=1.0,
        parameters={
            "module_weight": module.dense.weight.detach().double().tolist(),
            "module_bias": module.dense.bias.detach().double().tolist(),
        },
    )
