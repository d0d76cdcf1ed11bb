"""FLANNEL's neural weight module: the learners' probabilities in, a weight per learner and image out.

f holds all probabilities of an image; tanh of a dense layer on the outer product f f^T weighs the learners, and the softmax
of the weighted sum of their probabilities is the output (Qiao et al. 2020, section III and Figure 1). With weights below 1
the largest probability stays below e^M / (e^M + K - 1) for M learners and K labels, 0.9802 for 5 and 4: a temperature must
sharpen the output before it is used as a probability.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from cxr_edge.errors import InputError
from cxr_edge.specs.combination import Combination
from training.tasks.losses import focal_loss

__all__ = [
    "FitPlan",
    "NeuralWeightModule",
    "alpha_of",
    "as_combination",
    "fit_dense",
    "fit_module",
    "highest_probability",
]

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class FitPlan:
    """Settings of stage 2, for the module and every combination that it is compared with.

    No epoch is selected: the last one's weights are used. Raises InputError for values that cannot work.
    """

    epochs: int = 60
    batch: int = 64
    learning_rate: float = 2e-3  # of Adam
    weight_decay: float = 1e-4
    decay: bool = True  # of the learning rate, along a cosine to 0
    gamma: float = 3.0  # of the focal loss; the text has 3, the code 10
    # `balanced`: images / (labels x images of the label); `count`: 1000 / images, as the code; `none`: 1
    alpha: Literal["balanced", "count", "none"] = "balanced"
    reduction: Literal["mean", "sum"] = "mean"  # of the loss over a batch; the code sums

    def __post_init__(self) -> None:
        if self.alpha not in ("balanced", "count", "none") or self.reduction not in ("mean", "sum"):
            raise InputError(
                f"stage 2 has the alpha balanced, count or none and the reduction mean or sum, got {self.alpha!r}, "
                f"{self.reduction!r}"
            )
        if self.epochs < 1 or self.batch < 1 or self.learning_rate <= 0 or min(self.gamma, self.weight_decay) < 0:
            raise InputError(
                f"stage 2 needs an epoch, a batch, a learning rate above 0, gamma and weight decay of 0 or more; got {self}"
            )


class NeuralWeightModule(nn.Module):
    """Map probabilities (N, members, labels) to weights (N, members) in (-1, 1). 5 members and 4 labels: 2,005 parameters."""

    def __init__(self, members: int, labels: int) -> None:
        super().__init__()
        self.dense = nn.Linear((members * labels) ** 2, members)

    def forward(self, probabilities: Tensor) -> Tensor:
        f = probabilities.flatten(1)
        return torch.tanh(self.dense(torch.einsum("ni,nj->nij", f, f).flatten(1)))

    def combined(self, probabilities: Tensor) -> Tensor:
        """Return the weighted sum (N, labels), the logits of the output."""
        return torch.einsum("nm,nmk->nk", self(probabilities), probabilities)


def highest_probability(members: int, labels: int) -> float:
    """Return the upper bound of the module's output probabilities."""
    return float(np.exp(members) / (np.exp(members) + labels - 1))


def alpha_of(true: npt.NDArray[np.int64], labels: int, kind: str) -> npt.NDArray[np.float32]:
    """Return the weight of each label (K,) in the focal loss, from its frequency; a label that does not occur counts as 1."""
    counts = np.maximum(np.bincount(true, minlength=labels), 1)
    values = {"balanced": len(true) / (labels * counts), "count": 1000 / counts, "none": np.ones(labels)}
    return values[kind].astype(np.float32)


def fit_module(
    probabilities: npt.NDArray[np.float64],
    true: npt.NDArray[np.int64],
    plan: FitPlan,
    *,
    seed: int,
    focal: bool = True,
    oversample: bool = False,
) -> NeuralWeightModule:
    """Train the module on the learners' probabilities (N, members, labels) and true label indices (N,).

    focal: focal loss; False is cross entropy.
    oversample: draw as many images of each label per epoch as the most frequent has.
    """
    _, members, labels = probabilities.shape
    own = plan if focal else replace(plan, gamma=0.0, alpha="none")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = NeuralWeightModule(members, labels)
    return _train(module, module.combined, probabilities, true, own, seed=seed, oversample=oversample)


def fit_dense(
    probabilities: npt.NDArray[np.float64], true: npt.NDArray[np.int64], plan: FitPlan, *, seed: int, layers: int
) -> nn.Module:
    """Train one of Table 3's multi-layer perceptrons, by cross entropy on all probabilities concatenated.

    layers: 1, or 2 with as many hidden units as inputs, as R20's stacking.

    Returns a network from (N, members, labels) to logits (N, labels). Raises InputError for another number of layers.
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
    return _train(network, network, probabilities, true, own, seed=seed, oversample=False)


def _train(
    network: Network,
    logits_of: Callable[[Tensor], Tensor],
    probabilities: npt.NDArray[np.float64],
    true: npt.NDArray[np.int64],
    plan: FitPlan,
    *,
    seed: int,
    oversample: bool,
) -> Network:
    labels = probabilities.shape[2]
    x, y = torch.from_numpy(probabilities.astype(np.float32)), torch.from_numpy(true)
    alpha = torch.from_numpy(alpha_of(true, labels, plan.alpha))
    optimizer = torch.optim.Adam(network.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay)
    rng = np.random.default_rng(seed)
    for epoch in range(plan.epochs):
        factor = 0.5 * (1 + np.cos(np.pi * epoch / plan.epochs)) if plan.decay else 1.0
        for group in optimizer.param_groups:
            group["lr"] = plan.learning_rate * factor
        order = rng.permutation(_oversampled(true, rng) if oversample else len(true))
        for start in range(0, len(order), plan.batch):
            rows = torch.from_numpy(order[start : start + plan.batch])
            loss = focal_loss(logits_of(x[rows]), y[rows], alpha=alpha, gamma=plan.gamma, reduction=plan.reduction)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch has no annotation here
            optimizer.step()
    return network.eval()


def _oversampled(true: npt.NDArray[np.int64], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return row indices with as many of each label as the most frequent has; rarer labels are drawn repeatedly."""
    rows = [np.flatnonzero(true == k) for k in np.unique(true)]
    largest = max(map(len, rows))
    return np.concatenate([np.concatenate([r, rng.choice(r, largest - len(r))]) for r in rows])


def as_combination(module: NeuralWeightModule) -> Combination:
    """Return the module in a bundle's form, temperatures 1; `Combiner` computes the same as `softmax(combined)`."""
    return Combination(
        strategy="flannel",
        member_temperatures=(1.0,) * module.dense.out_features,
        temperature=1.0,
        parameters={
            "module_weight": module.dense.weight.detach().double().tolist(),
            "module_bias": module.dense.bias.detach().double().tolist(),
        },
    )
