"""Gaps between groups of adults: records and decisions in, share found and share rightly not called by view, age and sex out.

A label can hide a gap: if the sick are mostly X-rayed lying (AP), a network that recognises the view looks good on average.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.data.findings import FRONTAL_VIEWS, projection
from training.data.records import Record
from training.evaluation.metrics import Figure, proportion

__all__ = ["ATTRIBUTES", "GroupFigures", "gaps"]

Mask = npt.NDArray[np.bool_]
_AGES = (18, 40, 60, 80)  # lower ends of the bands, in years


@dataclass(frozen=True, kw_only=True)
class GroupFigures:
    """Figures of a label in one group of adults."""

    found: Figure  # of images with the label, those called so
    specificity: Figure  # of images without it, those not called so
    of_normals: Figure  # the same, of normal images only


def gaps(records: Sequence[Record], label: str, called: Mask) -> dict[str, dict[str, GroupFigures]]:
    """Return attribute (view, age, sex) -> group -> figures of `label` among adults; what is not stated is `not stated`.

    called: (N,), whether the decision is `label`.
    """
    adults = np.array([r.adult for r in records], dtype=bool)
    has = np.array([r.label == label for r in records], dtype=bool)
    normal = np.array([r.label == "normal" for r in records], dtype=bool)
    found: dict[str, dict[str, GroupFigures]] = {}
    for name, group_of in ATTRIBUTES.items():
        groups = np.array([group_of(r) for r in records])
        found[name] = {
            str(group): GroupFigures(
                found=_share(called, own & has),
                specificity=_share(~called, own & ~has),
                of_normals=_share(~called, own & normal),
            )
            for group in np.unique(groups[adults])
            for own in (adults & (groups == group),)
        }
    return found


def _share(hits: Mask, mask: Mask) -> Figure:
    return proportion(int((hits & mask).sum()), int(mask.sum()))


def _view(record: Record) -> str:
    view = projection(record.view)
    return view if view in FRONTAL_VIEWS else "not stated"


def _age(record: Record) -> str:
    years = record.age_years
    if years is None or years < _AGES[0]:
        return "not stated"
    low = max(edge for edge in _AGES if years >= edge)
    above = [edge for edge in _AGES if edge > low]
    return f"{low} to {above[0] - 1}" if above else f"{low} or more"


# Attribute -> group of a record; `not stated` where the collection does not state it.
ATTRIBUTES: Mapping[str, Callable[[Record], str]] = {
    "view": _view,
    "age": _age,
    "sex": lambda record: record.sex or "not stated",
}
