"""Fitting of ensemble combinations: the members' logits on validation patients in, a combination and a decision rule out.

Everything runs through the deployed `Combiner`, so the fit applies to what a device computes. Strategies are compared on
patients that were not used to fit them (folds within validation), and the simplest that is not clearly worse is selected:
with a few hundred patients the flexible ones mostly fit noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize_scalar
from torch import nn

from cxr_edge.ops.combine import Combiner, decide
from cxr_edge.specs.combination import Combination, Decision
from training.ensembles.out_of_fold import out_of_fold, simplest_of_best
from training.ensembles.weight_search import search_weights
from training.evaluation.metrics import log_loss
from training.tasks.confusion import confusion, f1_scores

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
Labels = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_STACKING_STEPS = 400
_THRESHOLDS = np.round(np.arange(0.20, 0.96, 0.05), 2)
_F1_PLATEAU = 0.01
_LOG_TEMPERATURES = (-2.0, 2.0)
_FLAT_LOG_TEMPERATURES = (-4.0, 2.0)  # FLANNEL's sums of weighted probabilities are close together


@dataclass(frozen=True, kw_only=True)
class ChosenCombination:
    """The selected combination."""

    combination: Combination
    log_loss: Mapping[str, float]  # per strategy, mean over validation images, out of fold; lower is better


@dataclass(frozen=True, kw_only=True)
class ChosenDecision:
    """A decision rule with its figures on validation."""

    decision: Decision
    f1: float  # of the guarded label; macro-F1 without one
    specificity: float | None = None  # of the guarded label, on all images without it
    by_group: Mapping[str, float] = field(default_factory=dict)  # the same within the subgroups

    @property
    def lowest_specificity(self) -> float:
        """The lowest specificity of the subgroups; 1 without subgroups."""
        return min(self.by_group.values(), default=1.0)

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object for the bundle's provenance."""
        by_group = {f"specificity_{name}": value for name, value in self.by_group.items()}
        return {"decision": self.decision.as_json(), "f1": self.f1, "specificity": self.specificity, **by_group}


def choose_combination(logits: Logits, true: Labels, patients: Sequence[str], *, seed: int) -> ChosenCombination:
    """Fit the simplest strategy with a log loss at most one standard error above the best one's, on all images.

    logits: (N, members, labels).
    true: (N,) label indices.
    patients: (N,) names; a patient's images are in one fold.

    Raises InputError for fewer than two patients.
    """

    def loss(strategy: Strategy) -> npt.NDArray[np.float64]:
        def held_out_loss(fitted: Mask, held_out: Mask) -> npt.NDArray[np.float64]:
            combination = fit(strategy, logits[fitted], true[fitted], seed=seed)
            return log_loss(_probabilities(combination, logits[held_out]), true[held_out])

        return out_of_fold(held_out_loss, patients, seed=seed)

    losses = {s: loss(s) for s in STRATEGIES}
    return ChosenCombination(
        combination=fit(simplest_of_best(losses), logits, true, seed=seed),
        log_loss={s: float(v.mean()) for s, v in losses.items()},
    )


def fit(
    strategy: Strategy,
    logits: Logits,
    true: Labels,
    *,
    seed: int,
    calibrate: bool = True,
    weights: Sequence[float] | None = None,
) -> Combination:
    """Fit each member's temperature, the parameters, then the ensemble's temperature, each by its log loss.

    calibrate: False leaves all temperatures at 1, as both papers.
    weights: of a weighted average, given and not searched; None searches them.
    """
    members, labels = logits.shape[1:]
    temperatures = (1.0,) * members
    if calibrate:
        single = Combination(strategy="average", member_temperatures=(1.0,), temperature=1.0, parameters={})
        temperatures = tuple(_temperature(single, logits[:, i : i + 1], true) for i in range(members))
    parameters: dict[str, Any] = {}
    if strategy == "weighted-average":
        p = _true_label_probabilities(logits, true, temperatures)
        found = search_weights(p) if weights is None else [float(w) for w in weights]
        parameters = {"weights": found}
    elif strategy == "stacking":
        parameters = _stacking(logits, true, temperatures, seed)
    fitted = Combination(strategy=strategy, member_temperatures=temperatures, temperature=1.0, parameters=parameters)
    fitted.check_sizes(members=members, labels=labels)
    return fitted if strategy == "voting" or not calibrate else calibrated(fitted, logits, true)


def calibrated(combination: Combination, logits: Logits, true: Labels) -> Combination:
    """Return the combination with the temperature of least log loss on these images. logits: (N, members, labels)."""
    flat = combination.strategy == "flannel"
    bounds = _FLAT_LOG_TEMPERATURES if flat else _LOG_TEMPERATURES
    return replace(combination, temperature=_temperature(combination, logits, true, bounds))


def _probabilities(combination: Combination, logits: Logits) -> npt.NDArray[np.float64]:
    found, _ = Combiner(combination, labels=logits.shape[2]).run(np.ascontiguousarray(logits))
    return found.astype(np.float64)


def _temperature(
    combination: Combination, logits: Logits, true: Labels, bounds: tuple[float, float] = _LOG_TEMPERATURES
) -> float:
    def loss(log_t: float) -> float:
        tried = replace(combination, temperature=float(np.exp(log_t)))
        return float(log_loss(_probabilities(tried, logits), true).mean())

    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-3})
    return round(float(np.exp(found.x)), 4)


def _true_label_probabilities(logits: Logits, true: Labels, temperatures: tuple[float, ...]) -> npt.NDArray[np.float64]:
    """Return each member's probability of the true label (N, members), as the deployed combiner computes it."""
    single = Combination(strategy="average", member_temperatures=(1.0,), temperature=1.0, parameters={})
    members = (replace(single, member_temperatures=(t,)) for t in temperatures)
    found = [_probabilities(m, logits[:, i : i + 1]) for i, m in enumerate(members)]
    return np.stack([p[np.arange(len(true)), true] for p in found], axis=1)


def _stacking(logits: Logits, true: Labels, temperatures: tuple[float, ...], seed: int) -> dict[str, Any]:
    """Fit R20's dense(relu(dense(P))), with as many hidden units as probabilities."""
    _, members, labels = logits.shape
    scaled = torch.from_numpy(logits) / torch.tensor(temperatures)[:, None]
    inputs, targets = scaled.softmax(dim=2).flatten(1), torch.from_numpy(true)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        width = members * labels
        first, last = nn.Linear(width, width), nn.Linear(width, labels)
    network = nn.Sequential(first, nn.ReLU(), last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.02, weight_decay=0.01)
    for _ in range(_STACKING_STEPS):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(inputs), targets)
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no annotation here
        optimizer.step()
    return {
        "hidden_weight": first.weight.tolist(),
        "hidden_bias": first.bias.tolist(),
        "output_weight": last.weight.tolist(),
        "output_bias": last.bias.tolist(),
    }


def choose_decision(
    combination: Combination,
    logits: Logits,
    true: Labels,
    labels: tuple[str, ...],
    *,
    guard: str | None = None,
    groups: Mapping[str, Mask] | None = None,
    least_specificity: float = 0.97,
    uncertain_share: float = 0.15,
    threshold: float | None = None,
) -> ChosenDecision:
    """Choose the threshold of the guarded label, and the probability below which a decision is flagged uncertain.

    Of the thresholds with a specificity of `least_specificity` or more, on all images and on each group, those within 0.01
    of the best F1 form a plateau, and its upper end is selected: an unseen site raises more false alarms than validation
    shows (see `training.sites`). If no threshold reaches it, the most specific one is selected.

    logits: (N, members, labels).
    true: (N,) label indices; -1 for findings that are not labels, which count as images without the guarded label.
    guard: the guarded label; None sets no threshold, so that the decision is the most probable label.
    groups: masks (N,) of the subgroups that limit false alarms, by name.
    uncertain_share: share of validation images to be flagged.
    threshold: of the guarded label, chosen elsewhere, such as on unseen sites, and reached even if another label is more
        probable (`Decision.first`), because such a threshold is of the label's probability alone; None chooses it here.
    """
    probabilities, winners = Combiner(combination, labels=len(labels)).run(np.ascontiguousarray(logits))
    uncertain = round(float(np.quantile(probabilities.max(axis=1), uncertain_share)), 2)

    def decided(thresholds: dict[str, float]) -> tuple[Decision, Labels]:
        first = () if threshold is None or guard is None else (guard,)
        decision = Decision(thresholds=thresholds, uncertain_below=uncertain, first=first)
        rows = zip(probabilities, winners, strict=True)
        return decision, np.array([labels.index(decide(p, int(w), labels, decision)[0]) for p, w in rows])

    if guard is None:
        decision, predicted = decided({})
        return ChosenDecision(decision=decision, f1=float(_f1_by_label(true, predicted, len(labels)).mean()))
    k = labels.index(guard)
    thresholds = _THRESHOLDS if threshold is None else (threshold,)
    tried = [_guarded(*decided({guard: float(t)}), true, k, len(labels), groups or {}) for t in thresholds]
    # `_guarded` always sets the specificity.
    accepted = [c for c in tried if min(cast(float, c.specificity), c.lowest_specificity) >= least_specificity]
    pool = accepted or [max(tried, key=lambda c: (c.lowest_specificity, c.specificity))]
    return [c for c in pool if c.f1 >= max(c.f1 for c in pool) - _F1_PLATEAU][-1]


def _f1_by_label(true: Labels, predicted: Labels, labels: int) -> npt.NDArray[np.float64]:
    """Return the F1 of each label (K,) on the images with a label."""
    known = true >= 0
    return f1_scores(confusion(true[known], predicted[known], labels))


def _guarded(
    decision: Decision, predicted: Labels, true: Labels, k: int, labels: int, groups: Mapping[str, Mask]
) -> ChosenDecision:
    """Return a decision rule with the figures of label `k` on validation images."""
    flagged = predicted == k
    return ChosenDecision(
        decision=decision,
        f1=float(_f1_by_label(true, predicted, labels)[k]),
        specificity=_share(~flagged[true != k]),
        by_group={name: _share(~flagged[mask]) for name, mask in groups.items()},
    )


def _share(values: npt.NDArray[np.bool_]) -> float:
    return float(values.mean()) if len(values) else 1.0
