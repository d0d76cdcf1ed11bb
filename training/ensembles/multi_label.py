"""Fitting of combinations of findings: the members' logits on validation patients in, a combination with sigmoid out.

As `fit` does for labels that exclude each other, through the deployed `Combiner`. Unknown findings take part in no fit: every
loss is the cross entropy of the known ones. After the combination each finding gets a temperature of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor, nn
from torch.nn import functional

from cxr_edge.errors import InputError
from cxr_edge.ops.combine import Combiner, member_probabilities
from cxr_edge.specs.combination import Combination
from training.ensembles.fit import ChosenCombination
from training.ensembles.neural_weights import NeuralWeightModule
from training.ensembles.out_of_fold import out_of_fold, simplest_of_best
from training.ensembles.weight_search import search_weights
from training.evaluation.finding_metrics import masked_log_loss

__all__ = ["STRATEGIES", "Strategy", "calibrated", "choose_combination", "fit", "probabilities_of"]

Strategy = Literal["average", "weighted-average", "voting", "stacking", "flannel"]
# The simplest first.
STRATEGIES: tuple[Strategy, ...] = ("average", "weighted-average", "voting", "stacking", "flannel")

Logits = npt.NDArray[np.float32]
Truth = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

_FLEXIBLE: tuple[Strategy, ...] = ("stacking", "flannel")
_LEAST_PATIENTS = (
    100  # that a flexible strategy is chosen on: with fewer it can look best out of fold and fail on others
)
_STEPS = 400  # of stacking and of the module
_RATE, _DECAY = 0.02, 0.01
_MODULE_RATE, _MODULE_DECAY = 1e-2, 1e-4
_LOG_TEMPERATURES = (-2.0, 2.0)
_FLAT_LOG_TEMPERATURES = (-4.0, 2.0)  # FLANNEL's sums of weighted probabilities are close together
_LEAST = 5  # images with, and without, a finding that its own temperature is fitted on


def choose_combination(logits: Logits, truth: Truth, patients: Sequence[str], *, seed: int) -> ChosenCombination:
    """Fit the simplest strategy with a log loss at most one standard error above the best one's, on all images.

    Stacking and FLANNEL's module are among the candidates from 100 patients on.

    logits: (N, members, labels).
    truth: (N, labels): 1 present, 0 absent, NaN unknown.
    patients: (N,) names; a patient's images are in one fold.

    Raises InputError for fewer than two patients, and without a known finding.
    """
    _check(logits, truth)
    rows = np.isfinite(truth).any(axis=1)
    logits, truth, patients = logits[rows], truth[rows], np.asarray(patients)[rows].tolist()
    few = len(set(patients)) < _LEAST_PATIENTS

    def loss(strategy: Strategy) -> Floats:
        def held_out_loss(fitted: Mask, held_out: Mask) -> Floats:
            combination = fit(strategy, logits[fitted], truth[fitted], seed=seed)
            return masked_log_loss(probabilities_of(combination, logits[held_out]), truth[held_out])

        return out_of_fold(held_out_loss, patients, seed=seed)

    losses = {s: loss(s) for s in STRATEGIES if not (few and s in _FLEXIBLE)}
    return ChosenCombination(
        combination=fit(simplest_of_best(losses), logits, truth, seed=seed),
        log_loss={s: float(v.mean()) for s, v in losses.items()},
    )


def _check(logits: Logits, truth: Truth) -> None:
    if logits.shape[::2] != truth.shape:
        raise ValueError(
            f"logits {logits.shape} and truth {truth.shape}: expected (N, members, labels) and (N, labels)"
        )
    if not np.isfinite(truth).any():
        raise InputError("no image to fit a combination on has a known finding: give more images")


def fit(
    strategy: Strategy,
    logits: Logits,
    truth: Truth,
    *,
    seed: int,
    calibrate: bool = True,
    weights: Sequence[float] | None = None,
) -> Combination:
    """Fit each member's temperature, the parameters, then the ensemble's and the findings' temperatures, each by its log loss.

    logits: (N, members, labels).
    truth: (N, labels): 1 present, 0 absent, NaN unknown.
    calibrate: False leaves all temperatures at 1.
    weights: of a weighted average, given and not searched; None searches them.

    Raises InputError without a known finding.
    """
    _check(logits, truth)
    members, labels = logits.shape[1:]
    one = _combination("average", (1.0,))
    alone = (logits[:, i : i + 1] for i in range(members))
    temperatures = tuple(_temperature(one, x, truth) if calibrate else 1.0 for x in alone)
    scores = member_probabilities(logits, _combination("average", temperatures))
    parameters: dict[str, Any] = {}
    if strategy == "weighted-average":
        parameters = {"weights": [float(w) for w in weights] if weights is not None else _weights(scores, truth)}
    elif strategy in ("stacking", "flannel"):
        parameters = (_stacking if strategy == "stacking" else _module)(scores, truth, seed)
    fitted = _combination(strategy, temperatures, parameters)
    fitted.check_sizes(members=members, labels=labels)
    return fitted if strategy == "voting" or not calibrate else calibrated(fitted, logits, truth)


def _combination(
    strategy: str, temperatures: tuple[float, ...], parameters: Mapping[str, Any] | None = None
) -> Combination:
    return Combination(
        strategy=strategy,
        member_temperatures=temperatures,
        temperature=1.0,
        parameters=dict(parameters or {}),
        activation="sigmoid",
    )


def probabilities_of(combination: Combination, logits: Logits) -> Floats:
    """Return the probabilities (N, labels) as deployed. logits: (N, members, labels)."""
    found, _ = Combiner(combination, labels=logits.shape[2]).run(np.ascontiguousarray(logits))
    return found.astype(np.float64)


def calibrated(combination: Combination, logits: Logits, truth: Truth) -> Combination:
    """Return the combination with the temperatures, of all findings and of each, of least log loss on these images.

    A finding that is present, or absent, in fewer than five images keeps the temperature of all.
    """
    bounds = _FLAT_LOG_TEMPERATURES if combination.strategy == "flannel" else _LOG_TEMPERATURES
    common = replace(combination, temperature=_temperature(combination, logits, truth, bounds), label_temperatures=())
    return replace(common, label_temperatures=tuple(_label_temperatures(common, logits, truth)))


def _temperature(
    combination: Combination, logits: Logits, truth: Truth, bounds: tuple[float, float] = _LOG_TEMPERATURES
) -> float:
    def loss(t: float) -> float:
        return float(np.nanmean(masked_log_loss(probabilities_of(replace(combination, temperature=t), logits), truth)))

    return _best(loss, bounds)


def _label_temperatures(common: Combination, logits: Logits, truth: Truth) -> Iterator[float]:
    """Yield the temperature of each finding, from the logits of its probability at the common temperature."""
    p = probabilities_of(common, logits).clip(1e-7, 1 - 1e-7)
    z = np.log(p) - np.log1p(-p)
    for k in range(truth.shape[1]):
        present, absent = z[truth[:, k] == 1, k], z[truth[:, k] == 0, k]
        if min(len(present), len(absent)) < _LEAST:
            yield 1.0
        else:
            yield _best(_binary_loss(present, absent), _LOG_TEMPERATURES)


def _binary_loss(present: Floats, absent: Floats) -> Callable[[float], float]:
    return lambda t: float(np.logaddexp(0, -present / t).sum() + np.logaddexp(0, absent / t).sum())


def _best(loss: Callable[[float], float], bounds: tuple[float, float]) -> float:
    found = minimize_scalar(lambda x: loss(float(np.exp(x))), bounds=bounds, method="bounded", options={"xatol": 1e-3})
    return round(float(np.exp(found.x)), 4)


def _weights(scores: Floats, truth: Truth) -> list[float]:
    """Return the weights of least log loss over all known findings of all images."""
    known = np.isfinite(truth)
    right = np.where((truth == 1)[:, None], scores, 1 - scores)  # (N, members, labels)
    return search_weights(right.transpose(0, 2, 1)[known])


def _stacking(scores: Floats, truth: Truth, seed: int) -> dict[str, Any]:
    """Fit R20's dense(relu(dense(P))), with as many hidden units as probabilities."""
    _, members, labels = scores.shape
    width = members * labels
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        first, last = nn.Linear(width, width), nn.Linear(width, labels)
    network = nn.Sequential(nn.Flatten(), first, nn.ReLU(), last)
    _train([*network.parameters()], network, scores, truth, rate=_RATE, decay=_DECAY)
    return {
        "hidden_weight": first.weight.tolist(),
        "hidden_bias": first.bias.tolist(),
        "output_weight": last.weight.tolist(),
        "output_bias": last.bias.tolist(),
    }


def _module(scores: Floats, truth: Truth, seed: int) -> dict[str, Any]:
    """Fit FLANNEL's neural weight module: a finding's logit is the weighted sum of 2 P - 1 over the members.

    The sum is within the number of members, so that a factor is fitted with it, which `calibrated` replaces: without one the loss
    would only drive all weights to 1.
    """
    _, members, labels = scores.shape
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = NeuralWeightModule(members, labels)
    log_factor = nn.Parameter(torch.zeros(()))

    def logits(p: Tensor) -> Tensor:
        return torch.einsum("nm,nmk->nk", module(p), 2 * p - 1) * log_factor.exp()

    _train([*module.parameters(), log_factor], logits, scores, truth, rate=_MODULE_RATE, decay=_MODULE_DECAY)
    return {
        "module_weight": module.dense.weight.detach().double().tolist(),
        "module_bias": module.dense.bias.detach().double().tolist(),
    }


def _train(
    parameters: Sequence[nn.Parameter],
    logits_of: Callable[[Tensor], Tensor],
    scores: Floats,
    truth: Truth,
    *,
    rate: float,
    decay: float,
) -> None:
    """Minimise the cross entropy of the known findings, by AdamW on all images at once."""
    x, known = torch.from_numpy(scores.astype(np.float32)), torch.from_numpy(np.isfinite(truth))
    y = torch.from_numpy(np.nan_to_num(truth))
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)
    for _ in range(_STEPS):
        optimizer.zero_grad()
        loss = functional.binary_cross_entropy_with_logits(logits_of(x)[known], y[known])
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no annotation here
        optimizer.step()
