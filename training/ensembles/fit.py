"""How the members become one answer: their logits on validation patients in, a combination and a decision rule out.

Everything runs through the deployed `Combiner`, so what is fitted is what a device computes. Strategies are compared on
patients that their own fitting did not see (folds within validation), and the simplest that is not clearly worse wins:
with a few hundred patients the flexible ones mostly fit luck.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize_scalar
from torch import nn

from cxr_edge.errors import InputError
from cxr_edge.ops.combine import Combiner, decide
from cxr_edge.specs.combination import Combination, Decision
from training.evaluation.metrics import log_loss

__all__ = [
    "STRATEGIES",
    "ChosenCombination",
    "ChosenDecision",
    "Strategy",
    "calibrated",
    "choose_combination",
    "choose_decision",
    "fit",
]

Strategy = Literal["average", "weighted-average", "voting", "stacking"]
STRATEGIES: tuple[Strategy, ...] = ("average", "weighted-average", "voting", "stacking")  # the simplest first

Logits = npt.NDArray[np.float32]
Truth = npt.NDArray[np.int64]

_FOLDS = 5
_WEIGHT_STEPS = 20  # weights are multiples of a twentieth: finer ones fit luck
_EM_ROUNDS = 2000
_THRESHOLDS = np.round(np.arange(0.20, 0.96, 0.05), 2)
_F1_PLATEAU = 0.01
_LOG_TEMPERATURES = (-2.0, 2.0)
_FLAT_LOG_TEMPERATURES = (-4.0, 2.0)  # FLANNEL's sums of weighted probabilities lie close together


@dataclass(frozen=True, kw_only=True)
class ChosenCombination:
    """log_loss: of each strategy tried, mean over validation images by folds; lower is better."""

    combination: Combination
    log_loss: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class ChosenDecision:
    """specificity: on validation, of the guarded label, on all that do not have it and on the adult normals."""

    decision: Decision
    f1: float
    specificity: float
    specificity_adult_normals: float


def choose_combination(logits: Logits, truth: Truth, patients: Sequence[str], *, seed: int) -> ChosenCombination:
    """logits: (N, members, labels); truth: (N,) label indices; patients: (N,) names, whole in one fold.

    The simplest strategy whose log loss is at most one standard error above the best one's is fitted on all.
    """
    losses = {s: _out_of_fold(s, logits, truth, patients, seed) for s in STRATEGIES}
    best = losses[min(STRATEGIES, key=lambda s: losses[s].mean())]
    near = (s for s in STRATEGIES if _excess(losses[s], best) <= 0)
    return ChosenCombination(
        combination=fit(next(near), logits, truth, seed=seed),
        log_loss={s: float(v.mean()) for s, v in losses.items()},
    )


def _excess(loss: npt.NDArray[np.float64], best: npt.NDArray[np.float64]) -> float:
    difference = loss - best
    return float(difference.mean() - difference.std() / np.sqrt(len(difference)))


def _out_of_fold(
    strategy: Strategy, logits: Logits, truth: Truth, patients: Sequence[str], seed: int
) -> npt.NDArray[np.float64]:
    """Log loss an image (N,), each by a combination that was fitted without its patient's fold."""
    names, whose = np.unique(np.asarray(patients), return_inverse=True)
    if len(names) < 2:
        raise InputError("a combination is chosen on two validation patients at least: give more images")
    fold = np.random.default_rng(seed).permutation(len(names))[whose] % _FOLDS
    loss = np.zeros(len(truth))
    for judged in (fold == k for k in np.unique(fold)):
        combination = fit(strategy, logits[~judged], truth[~judged], seed=seed)
        loss[judged] = log_loss(_probabilities(combination, logits[judged]), truth[judged])
    return loss


def fit(
    strategy: Strategy,
    logits: Logits,
    truth: Truth,
    *,
    seed: int,
    calibrate: bool = True,
    weights: Sequence[float] | None = None,
) -> Combination:
    """Temperature of each member, parameters, then the temperature of the whole, each by its log loss.

    calibrate: False leaves all temperatures at 1, as both papers. weights: of a weighted average, given and not searched.
    """
    members, labels = logits.shape[1:]
    temperatures = (1.0,) * members
    if calibrate:
        alone = Combination(strategy="average", member_temperatures=(1.0,), temperature=1.0, parameters={})
        temperatures = tuple(_temperature(alone, logits[:, i : i + 1], truth) for i in range(members))
    parameters: dict[str, Any] = {}
    if strategy == "weighted-average":
        found = _weights(logits, truth, temperatures) if weights is None else [float(w) for w in weights]
        parameters = {"weights": found}
    elif strategy == "stacking":
        parameters = _stacking(logits, truth, temperatures, seed)
    fitted = Combination(strategy=strategy, member_temperatures=temperatures, temperature=1.0, parameters=parameters)
    fitted.check_sizes(members=members, labels=labels)
    return fitted if strategy == "voting" or not calibrate else calibrated(fitted, logits, truth)


def calibrated(combination: Combination, logits: Logits, truth: Truth) -> Combination:
    """The combination with the temperature whose log loss on these images is least. logits: (N, members, labels)."""
    flat = combination.strategy == "flannel"
    bounds = _FLAT_LOG_TEMPERATURES if flat else _LOG_TEMPERATURES
    return replace(combination, temperature=_temperature(combination, logits, truth, bounds))


def _probabilities(combination: Combination, logits: Logits) -> npt.NDArray[np.float64]:
    found, _ = Combiner(combination, labels=logits.shape[2]).run(np.ascontiguousarray(logits))
    return found.astype(np.float64)


def _temperature(
    combination: Combination, logits: Logits, truth: Truth, bounds: tuple[float, float] = _LOG_TEMPERATURES
) -> float:
    def loss(log_t: float) -> float:
        tried = replace(combination, temperature=float(np.exp(log_t)))
        return float(log_loss(_probabilities(tried, logits), truth).mean())

    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-3})
    return round(float(np.exp(found.x)), 4)


def _weights(logits: Logits, truth: Truth, temperatures: tuple[float, ...]) -> list[float]:
    """Return the weights, multiples of 1 / _WEIGHT_STEPS that sum to 1, with the least log loss.

    The loss is convex in the weights, so the search starts at its minimum over all real weights, rounded, and moves one
    or two steps of weight between members until no move lowers it. For three members this is the minimum of the full grid
    (tested); the number of moves grows with the fourth power of the members, the grid exponentially.
    """
    p = _true_label_probabilities(logits, truth, temperatures)

    def loss(steps: npt.NDArray[np.int64]) -> float:
        return float(log_loss((p @ (steps / _WEIGHT_STEPS))[:, None], np.zeros(len(p), dtype=np.int64)).mean())

    best, moves = _rounded(_optimal_weights(p)), _weight_moves(p.shape[1])
    while True:
        candidates = [best, *(c for c in best + moves if (c >= 0).all())]
        lowest = min(candidates, key=loss)
        if lowest is best:
            return [round(float(w), 4) for w in best / _WEIGHT_STEPS]
        best = lowest


def _true_label_probabilities(logits: Logits, truth: Truth, temperatures: tuple[float, ...]) -> npt.NDArray[np.float64]:
    """Return each member's probability of the true label (N, members), as the deployed combiner computes it."""
    single = Combination(strategy="average", member_temperatures=(1.0,), temperature=1.0, parameters={})
    members = (replace(single, member_temperatures=(t,)) for t in temperatures)
    found = [_probabilities(m, logits[:, i : i + 1]) for i, m in enumerate(members)]
    return np.stack([p[np.arange(len(truth)), truth] for p in found], axis=1)


def _optimal_weights(p: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the weights on the simplex with the least log loss, by expectation maximisation of a mixture's shares."""
    weights = np.full(p.shape[1], 1 / p.shape[1])
    for _ in range(_EM_ROUNDS):
        previous = weights
        weights = weights * (p / np.maximum(p @ weights, 1e-12)[:, None]).mean(axis=0)
        weights /= weights.sum()
        if np.abs(weights - previous).max() < 1e-6:
            break
    return weights


def _rounded(weights: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Return the weights in whole steps that sum to _WEIGHT_STEPS: the largest remainders are rounded up."""
    steps = np.floor(weights * _WEIGHT_STEPS).astype(np.int64)
    steps[np.argsort(steps - weights * _WEIGHT_STEPS)[: _WEIGHT_STEPS - steps.sum()]] += 1
    return steps


def _weight_moves(members: int) -> npt.NDArray[np.int64]:
    """Return all moves (M, members) of one step of weight from a member to another, and all pairs of such moves."""
    identity = np.eye(members, dtype=np.int64)
    single = [identity[a] - identity[b] for a, b in itertools.permutations(range(members), 2)]
    pairs = [a + b for a, b in itertools.combinations_with_replacement(single, 2)]
    return np.unique(np.reshape([*single, *pairs], (-1, members)), axis=0)


def _stacking(logits: Logits, truth: Truth, temperatures: tuple[float, ...], seed: int) -> dict[str, Any]:
    """R20's dense(relu(dense(P))), with as many hidden units as probabilities."""
    _, members, labels = logits.shape
    scaled = torch.from_numpy(logits) / torch.tensor(temperatures)[:, None]
    inputs, targets = scaled.softmax(dim=2).flatten(1), torch.from_numpy(truth)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        width = members * labels
        network = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, labels))
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.02, weight_decay=0.01)
    for _ in range(400):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(inputs), targets).backward()
        optimizer.step()
    first, last = network[0], network[2]
    return {
        "hidden_weight": first.weight.tolist(),
        "hidden_bias": first.bias.tolist(),
        "output_weight": last.weight.tolist(),
        "output_bias": last.bias.tolist(),
    }


def choose_decision(
    combination: Combination,
    logits: Logits,
    truth: Truth,
    adult_normal: npt.NDArray[np.bool_],
    labels: tuple[str, ...],
    *,
    guarded: str = "covid-19",
    least_specificity: float = 0.97,
    uncertain_share: float = 0.15,
) -> ChosenDecision:
    """The threshold of `guarded`, and below which probability a decision is called uncertain.

    truth: (N,) label indices, -1 for images of a finding that no label covers, which count as not `guarded`. Among the
    thresholds that keep the specificity, both on all and on the adult normals, at `least_specificity`, those within 0.01
    of the best F1 form a plateau, and its upper end is taken: a site that was never seen raises more false alarms than
    validation shows (see `training.unseen`). If none keeps it, the most specific is taken. uncertain_share: share of
    validation images that are to be flagged.
    """
    probabilities, winners = Combiner(combination, labels=len(labels)).run(np.ascontiguousarray(logits))
    positive, k = truth == labels.index(guarded), labels.index(guarded)

    def judge(threshold: float) -> ChosenDecision:
        decision = Decision(thresholds={guarded: float(threshold)}, uncertain_below=0.0)
        rows = zip(probabilities, winners, strict=True)
        said = np.array([labels.index(decide(p, int(w), labels, decision)[0]) for p, w in rows]) == k
        known = truth >= 0
        both = said[known].sum() + positive[known].sum()
        return ChosenDecision(
            decision=decision,
            f1=float(2 * (said & positive).sum() / both) if both else 0.0,
            specificity=_share(~said[~positive]),
            specificity_adult_normals=_share(~said[adult_normal]),
        )

    tried = [judge(t) for t in _THRESHOLDS]
    kept = [c for c in tried if min(c.specificity, c.specificity_adult_normals) >= least_specificity]
    pool = kept or [max(tried, key=lambda c: (c.specificity_adult_normals, c.specificity))]
    plateau = [c for c in pool if c.f1 >= max(c.f1 for c in pool) - _F1_PLATEAU]
    chosen = plateau[-1]
    uncertain = round(float(np.quantile(probabilities.max(axis=1), uncertain_share)), 2)
    return replace(chosen, decision=replace(chosen.decision, uncertain_below=uncertain))


def _share(values: npt.NDArray[np.bool_]) -> float:
    return float(values.mean()) if len(values) else 1.0
