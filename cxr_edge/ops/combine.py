"""Combination of the members' logits into the ensemble's probabilities, and the decision rule.

Converts a manifest's `Combination` to the native object, which does the arithmetic (csrc/combine.cc): training, the parity
checks of a build and the device compute the same numbers.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

import cxr_edge._core as _core
from cxr_edge.errors import BundleError
from cxr_edge.records import Flag
from cxr_edge.specs.budget import ErrorBudget
from cxr_edge.specs.combination import Combination, Decision

__all__ = [
    "Combiner",
    "abstention",
    "decide",
    "decide_findings",
    "member_logits",
    "member_probabilities",
    "prediction_set",
    "sigmoid",
    "softmax",
]


_LEAST = 1e-15  # probability in logarithms


class Combiner:
    """Runs a combination. Several threads may use it at once."""

    def __init__(self, combination: Combination, *, labels: int) -> None:
        self.combination = combination
        self.labels = labels
        parameters = {name: _finite(name, values) for name, values in combination.parameters.items()}
        try:
            self.core = _core.Combiner(
                strategy=combination.strategy,
                labels=labels,
                member_temperatures=combination.member_temperatures,
                temperature=combination.temperature,
                parameters=parameters,
                activation=combination.activation,
                label_temperatures=combination.label_temperatures,
            )
        except (TypeError, ValueError) as error:
            raise BundleError(
                f"the combination {combination.strategy!r} cannot be run: {str(error).splitlines()[0]}"
            ) from None

    def run(self, logits: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
        """Return probabilities (images, labels) float32 and the index of the winning label (images) int32.

        logits: (images, members, labels) float32. The winner has the highest probability; a tie goes to the first label, with
        voting to the one of higher mean probability (softmax only).
        """
        return self.core.run(logits)


def _finite(name: str, values: object) -> npt.NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if not np.isfinite(array).all():
        raise BundleError(f"combination.parameters.{name} holds numbers that are not finite")
    return array


def member_probabilities(logits: npt.NDArray[np.float32], combination: Combination) -> npt.NDArray[np.float64]:
    """Return the softmax, or the sigmoids, of each member's logits (images, members, labels) divided by its temperature.

    For reports; the combination computes it natively.
    """
    activate = sigmoid if combination.activation == "sigmoid" else softmax
    return activate(logits, np.asarray(combination.member_temperatures)[:, None])


def member_logits(probabilities: npt.NDArray[np.float64], combination: Combination) -> npt.NDArray[np.float32]:
    """Return logits (images, members, labels) whose `member_probabilities` are these; of a softmax without a common constant."""
    p = np.clip(probabilities, _LEAST, 1.0 - _LEAST if combination.activation == "sigmoid" else 1.0)
    scaled = np.log(p) - np.log1p(-p) if combination.activation == "sigmoid" else np.log(p)
    return np.asarray(scaled * np.asarray(combination.member_temperatures)[:, None], dtype=np.float32)


def sigmoid(
    logits: npt.NDArray[np.floating], temperature: float | npt.NDArray[np.floating] = 1.0
) -> npt.NDArray[np.float64]:
    """Return the sigmoid of each of `logits` divided by `temperature`, which may be one per row."""
    scaled = logits.astype(np.float64) / temperature
    return np.asarray(np.exp(-np.logaddexp(0.0, -scaled)))


def softmax(
    logits: npt.NDArray[np.floating], temperature: float | npt.NDArray[np.floating] = 1.0
) -> npt.NDArray[np.float64]:
    """Return the softmax over the last axis of `logits` divided by `temperature`, which may be one per row."""
    scaled = logits.astype(np.float64) / temperature
    exponentials = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True))


def decide(
    probabilities: npt.NDArray[np.float32], winner: int, labels: tuple[str, ...], decision: Decision
) -> tuple[str, tuple[Flag, ...]]:
    """Return the decided label of one image and its flags.

    probabilities: (labels).
    winner: index of the combination's winning label; it breaks ties between equal probabilities.

    Limits are compared as float32, like the probabilities: 0.7 reaches a threshold of 0.7 with NumPy 1 and 2 alike.
    """
    order = sorted(range(len(labels)), key=lambda k: (-probabilities[k], k != winner, k))
    reached = [k for k in order if probabilities[k] >= np.float32(decision.thresholds.get(labels[k], 0.0))]
    first = [k for k in reached if labels[k] in decision.first]
    chosen = (first or reached or order)[0]
    flags = []
    if not reached:
        flags.append(
            Flag(code="below_threshold", message="No label reached its threshold; the most probable one is shown.")
        )
    if probabilities[chosen] < probabilities[order[0]] and labels[chosen] in decision.first:
        flags.append(
            Flag(
                code="threshold_first",
                message=f"{labels[chosen]} is decided because it reaches its threshold "
                f"({decision.thresholds[labels[chosen]]:.2f}), although {labels[order[0]]} is more probable "
                f"({probabilities[order[0]]:.2f}).",
            )
        )
    if probabilities[chosen] < np.float32(decision.uncertain_below):
        flags.append(
            Flag(
                code="uncertain",
                message=f"The decided label has a probability of only {probabilities[chosen]:.2f} "
                f"(below {decision.uncertain_below:.2f}); have the image read by a person.",
            )
        )
    return labels[chosen], tuple(flags)


def decide_findings(
    probabilities: npt.NDArray[np.float32], labels: tuple[str, ...], decision: Decision
) -> tuple[tuple[str, ...], tuple[Flag, ...]]:
    """Return the present findings of one image of a multi-label bundle, in the order of `labels`, and its flags.

    probabilities: (labels). Limits are compared as in `decide`.
    """
    share = dict(zip(labels, probabilities, strict=True))
    present = tuple(label for label in labels if share[label] >= np.float32(decision.threshold_of(label)))
    uncertain = [label for label in present if share[label] < np.float32(decision.uncertain_below)]
    if not uncertain:
        return present, ()
    listed = ", ".join(f"{label} {share[label]:.2f}" for label in uncertain)
    message = (
        f"Present with a probability below {decision.uncertain_below:.2f}: {listed}; have the image read by a person."
    )
    return present, (Flag(code="uncertain", message=message),)


def prediction_set(
    probabilities: npt.NDArray[np.float32], labels: tuple[str, ...], budget: ErrorBudget
) -> tuple[str, ...]:
    """Return the labels of one image that are not excluded at the budget's coverage, in the order of `labels`.

    probabilities: (labels). A label without limits is never excluded.
    """
    limits = budget.labels
    shares = zip(labels, probabilities, strict=True)
    return tuple(label for label, p in shares if label not in limits or p >= np.float32(limits[label].set_from))


def abstention(
    probabilities: npt.NDArray[np.float32], decided: str, labels: tuple[str, ...], budget: ErrorBudget
) -> Flag | None:
    """Return why the decision is no answer, or None if it is one.

    probabilities: (labels). decided: the label of the decision rule.
    """
    found, share = budget.labels.get(decided), probabilities[labels.index(decided)]
    limit = None if found is None else found.answer_from
    promise = f"at most {budget.max_wrong:.0%} of such answers are wrong"
    if limit is None:
        message = f"The decision would be {decided}, for which the cases show at no limit that {promise}."
        return Flag(code="never_answered", message=f"{message} Have the image read by a person.")
    if share >= np.float32(limit):
        return None
    message = (
        f"The decision would be {decided} with a probability of {share:.2f}; only from {limit:.2f} on {promise}. "
        "Have the image read by a person."
    )
    return Flag(code="uncertain_answer", message=message)
