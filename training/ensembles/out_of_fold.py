"""Selection of a strategy by its log loss on patients that did not fit it: folds of validation patients in, the strategy out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from cxr_edge.errors import InputError

__all__ = ["out_of_fold", "simplest_of_best"]

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Strategy = TypeVar("Strategy", bound=str)

_FOLDS = 5


def out_of_fold(loss: Callable[[Mask, Mask], Floats], patients: Sequence[str], *, seed: int) -> Floats:
    """Return the loss per image (N,), each image's by a combination that was fitted without its patient's fold.

    loss: masks (N,) of the fitted and of the held-out images -> losses of the held-out ones.
    patients: (N,) names. Raises InputError for fewer than two patients.
    """
    names, index = np.unique(np.asarray(patients), return_inverse=True)
    if len(names) < 2:
        raise InputError("a combination is chosen on two validation patients at least: give more images")
    fold = np.random.default_rng(seed).permutation(len(names))[index] % _FOLDS
    found = np.zeros(len(fold))
    for held_out in (fold == k for k in np.unique(fold)):
        found[held_out] = loss(~held_out, held_out)
    return found


def simplest_of_best(losses: Mapping[Strategy, Floats]) -> Strategy:
    """Return the first strategy whose mean loss is at most one standard error of the difference above the lowest.

    losses: (N,) per image, by strategy, the simplest first.
    """
    best = losses[min(losses, key=lambda s: losses[s].mean())]
    return next(s for s in losses if _excess(losses[s] - best) <= 0)


def _excess(difference: Floats) -> float:
    return float(difference.mean() - difference.std() / np.sqrt(len(difference)))
