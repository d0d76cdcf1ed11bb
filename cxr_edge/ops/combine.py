"""From the members' logits to the ensemble's probabilities and the decision.

The arithmetic is csrc/combine.cc's, so training, the build gate and the device compute the same numbers; this module
turns a manifest's `Combination` into the native object and applies the decision rule.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

import cxr_edge._core as _core
from cxr_edge.errors import BundleError
from cxr_edge.records import Flag
from cxr_edge.specs.combination import Combination, Decision

__all__ = ["Combiner", "decide", "member_probabilities"]


class Combiner:
    """A combination made ready to run. May be used by several threads at once. core: the native object."""

    def __init__(self, combination: Combination, *, labels: int) -> None:
        self.combination = combination
        self.labels = labels
        numbers = {name: _flat(name, values) for name, values in combination.parameters.items()}
        try:
            self.core = _core.Combiner(
                strategy=combination.strategy,
                members=len(combination.member_temperatures),
                labels=labels,
                member_temperatures=combination.member_temperatures,
                temperature=combination.temperature,
                **numbers,
            )
        except (TypeError, ValueError) as error:
            raise BundleError(
                f"the combination {combination.strategy!r} cannot be run: {str(error).splitlines()[0]}"
            ) from None

    def run(self, logits: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
        """logits: (images, members, labels) float32. Returns probabilities (images, labels) float32 and the index of
        the winning label (images) int32, which for voting breaks ties by the mean probability."""
        return self.core.run(logits)


def _flat(name: str, values: object) -> list[float]:
    array = np.asarray(values, dtype=np.float64)
    if not np.isfinite(array).all():
        raise BundleError(f"combination.parameters.{name} holds numbers that are not finite")
    return [float(v) for v in array.ravel()]


def member_probabilities(logits: npt.NDArray[np.float32], combination: Combination) -> npt.NDArray[np.float64]:
    """Softmax of each member's logits (images, members, labels) divided by its temperature; for reports, not for the
    combination itself, which does it natively."""
    scaled = logits.astype(np.float64) / np.asarray(combination.member_temperatures)[:, None]
    exponentials = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True))


def decide(
    probabilities: npt.NDArray[np.float32], winner: int, labels: tuple[str, ...], decision: Decision
) -> tuple[str, tuple[Flag, ...]]:
    """The decision for one image and the flags that go with it. probabilities: (labels). winner: the label index that
    the combination put first; it decides among labels of equal probability."""
    order = sorted(range(len(labels)), key=lambda k: (-probabilities[k], k != winner, k))
    reached = [k for k in order if probabilities[k] >= decision.thresholds.get(labels[k], 0.0)]
    chosen = reached[0] if reached else order[0]
    flags = []
    if not reached:
        flags.append(
            Flag(code="below_threshold", message="No label reached its threshold; the most probable one is shown.")
        )
    if probabilities[chosen] < decision.uncertain_below:
        flags.append(
            Flag(
                code="uncertain",
                message=f"The decided label has a probability of only {probabilities[chosen]:.2f} "
                f"(below {decision.uncertain_below:.2f}); have the image read by a person.",
            )
        )
    return labels[chosen], tuple(flags)
