"""Methods on sources that trained nothing: scores of the guarded label in; AUCs, shares called it and paired tests out.

R20 and FLANNEL share it. Of each method the AUC against each subgroup without the label and the share called it per source and
label; of each pair of methods, on the images of the label and of one subgroup, the difference in AUC with its interval by
patient, DeLong's p, and McNemar's test of who is right more often.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.data.guard import Guard
from training.data.records import Record
from training.evaluation.metrics import (
    Bootstrap,
    Figure,
    auc_figure,
    auc_of_ranks,
    bootstrap,
    interval,
    proportion,
    ranks,
)
from training.evaluation.statistics import McNemar, delong_test, mcnemar
from training.markdown import Table

__all__ = [
    "UnseenImages",
    "UnseenMethod",
    "UnseenPair",
    "UnseenResults",
    "UnseenScores",
    "unseen_results",
    "unseen_tables",
]

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class UnseenImages:
    """N images of unseen sources."""

    records: Sequence[Record]
    patients: npt.NDArray[np.str_]  # (N,)
    guard: Guard

    @property
    def positive(self) -> Mask:
        """Mask (N,) of the guarded label."""
        return np.array([r.label == self.guard.label for r in self.records], dtype=bool)

    @property
    def subgroups(self) -> dict[str, Mask]:
        """Masks (N,) of the guard's subgroups that have images here, by name."""
        return {name: mask for name, mask in self.guard.group_masks(self.records).items() if mask.any()}


@dataclass(frozen=True, kw_only=True)
class UnseenScores:
    """One method on N images."""

    scores: Floats  # (N,) probabilities of the guarded label
    called: Mask  # (N,): it is the predicted label


@dataclass(frozen=True, kw_only=True)
class UnseenMethod:
    """Figures of one method."""

    auc: Mapping[str, Figure]  # subgroup -> AUC of the guarded label against it
    called: Mapping[str, Figure]  # "source, label" -> share called the guarded label


@dataclass(frozen=True, kw_only=True)
class UnseenPair:
    """Two methods on the images of the guarded label and of one subgroup; differences are first minus second."""

    a: str
    b: str
    subgroup: str
    n: int
    auc_difference: Figure
    delong_p: float
    mcnemar: McNemar  # of guarded label or not


@dataclass(frozen=True, kw_only=True)
class UnseenResults:
    """Results on unseen sources."""

    label: str  # guarded
    images: Mapping[str, int]  # "source, label" -> images
    methods: Mapping[str, UnseenMethod]
    pairs: tuple[UnseenPair, ...]


def unseen_results(
    images: UnseenImages, methods: Mapping[str, UnseenScores], pairs: Sequence[tuple[str, str]], draws: Bootstrap
) -> UnseenResults:
    """Return the results of all methods. pairs: names of the methods that are compared."""
    names = np.array([f"{r.source}, {r.label}" for r in images.records])
    groups = {str(name): names == name for name in np.unique(names)}
    return UnseenResults(
        label=images.guard.label,
        images={name: int(mask.sum()) for name, mask in groups.items()},
        methods={name: _method(images, scores, groups, draws) for name, scores in methods.items()},
        pairs=tuple(
            _pair(images, methods, a, b, subgroup, mask, draws)
            for a, b in pairs
            for subgroup, mask in images.subgroups.items()
        ),
    )


def _method(images: UnseenImages, scores: UnseenScores, groups: Mapping[str, Mask], draws: Bootstrap) -> UnseenMethod:
    return UnseenMethod(
        auc={name: _area(images, scores, mask, draws) for name, mask in images.subgroups.items()},
        called={name: proportion(int(scores.called[mask].sum()), int(mask.sum())) for name, mask in groups.items()},
    )


def _area(images: UnseenImages, scores: UnseenScores, negative: Mask, draws: Bootstrap) -> Figure:
    rows = images.positive | negative
    return auc_figure(scores.scores[rows], images.positive[rows], images.patients[rows], draws)


def _pair(
    images: UnseenImages,
    methods: Mapping[str, UnseenScores],
    a: str,
    b: str,
    subgroup: str,
    negative: Mask,
    draws: Bootstrap,
) -> UnseenPair:
    rows = images.positive | negative
    positive, first, second = images.positive[rows], methods[a].scores[rows], methods[b].scores[rows]
    ranked = ranks(first), ranks(second)

    def difference(weights: Floats | None) -> Floats:
        return np.array([auc_of_ranks(ranked[0], positive, weights) - auc_of_ranks(ranked[1], positive, weights)])

    return UnseenPair(
        a=a,
        b=b,
        subgroup=subgroup,
        n=int(rows.sum()),
        auc_difference=bootstrap(difference, images.patients[rows], draws)[0],
        delong_p=delong_test(first, second, positive),
        mcnemar=mcnemar(methods[a].called[rows] == positive, methods[b].called[rows] == positive),
    )


def unseen_tables(found: UnseenResults, captions: tuple[str, str], names: Mapping[str, str]) -> dict[str, Table]:
    """Return the tables of methods and of pairs. captions: of the two. names: method -> words, for those that differ."""
    groups = list(next(iter(found.methods.values())).auc)
    head = (
        "method",
        *(f"AUC against {g.replace('_', ' ')}" for g in groups),
        *(f"{name} ({n})" for name, n in found.images.items()),
    )
    rows = [
        (
            names.get(name, name),
            *(interval(m.auc[g]) for g in groups),
            *(_percent(m.called[key]) for key in found.images),
        )
        for name, m in found.methods.items()
    ]
    note = (
        f"Images of sources that trained, validated and tested nothing. AUC of {found.label}, intervals by drawing patients. "
        f"Then the share called {found.label} (the most probable label), in per cent, by source and label (images)."
    )
    pairs = [
        (
            f"{names.get(p.a, p.a)} against {names.get(p.b, p.b)}", p.subgroup.replace("_", " "), str(p.n),
            interval(p.auc_difference), "-" if np.isnan(p.delong_p) else f"{p.delong_p:.3g}",
            str(p.mcnemar.b), str(p.mcnemar.c), f"{p.mcnemar.p:.3g}",
        )
        for p in found.pairs
    ]  # fmt: skip
    pair_head = (
        "compared", "subgroup", "n", "AUC, difference", "p (DeLong)", "only first right", "only second right", "p (McNemar)",
    )  # fmt: skip
    pair_note = (
        f"First minus second, on the unseen images of {found.label} and of one subgroup without it. Right: called {found.label} "
        "where it is, and not where it is not. p two-sided, not corrected for the number of rows."
    )
    return {
        "unseen": Table(title=captions[0], head=head, rows=tuple(rows), note=note),
        "unseen-pairs": Table(title=captions[1], head=pair_head, rows=tuple(pairs), note=pair_note),
    }


def _percent(figure: Figure) -> str:
    return "-" if np.isnan(figure.value) else f"{100 * figure.value:.0f}"
