"""Images that train and measure the checker: collections and installed packages in, items with their side out.

Frontal images have the side of the run's split. Lateral views and slices of the Montreal collection have the side of their
patient; a patient without a frontal image has one by its name. Pictures train if their package is one of `pictures.TRAINED`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from training.data import pictures
from training.data.collections import read_collections
from training.data.dataset import Sample
from training.data.findings import projection
from training.data.records import Record, Selection
from training.data.splits import Side
from training.tasks.checks import Kind

__all__ = ["Item", "frontal_items", "other_views", "picture_items"]

_ADULT_YEARS = 18
# Share of the patients with lateral views or slices alone; there are few, and half of them measure.
_TRAIN_SHARE, _VALIDATION_SHARE = 0.5, 0.1


@dataclass(frozen=True, kw_only=True)
class Item:
    """One image."""

    kind: Kind
    path: Path
    source: str
    side: Side
    patient: str = ""
    child: bool | None = None  # None: not known
    ap: bool | None = None  # AP, not PA
    label: str = ""


def frontal_items(samples: Sequence[Sample]) -> list[Item]:
    """Return the frontal images of a split."""
    return [
        Item(
            kind="frontal",
            path=s.record.path,
            source=s.record.source,
            side=s.side,
            patient=s.group,
            child=_is_child(s.record),
            ap={"AP": True, "PA": False}.get(projection(s.record.view)),
            label=s.record.label,
        )
        for s in samples
    ]


def other_views(data: Path, samples: Sequence[Sample]) -> list[Item]:
    """Return the lateral views and the CT slices of the Montreal collection; none if it is not there."""
    sides = {s.record.patient: s.side for s in samples}
    found = []
    for kind, selection in _SELECTIONS.items():
        for record in _read(data, selection):
            side = sides.get(record.patient) or _side_by_name(record.patient)
            found.append(Item(kind=kind, path=record.path, source=record.source, side=side, patient=record.patient))
    return found


def picture_items() -> list[Item]:
    """Return the pictures of the installed packages: those of `TRAINED` train, the others are of the test side."""
    by_side: Mapping[Side, Sequence[str]] = {"train": pictures.TRAINED, "test": (*pictures.MEASURED, *pictures.SLICES)}
    return [
        Item(kind="slice" if name in pictures.SLICES else "picture", path=path, source=name, side=side)
        for side, names in by_side.items()
        for name in names
        for path in pictures.package_pictures(name)
    ]


_SELECTIONS: Mapping[Kind, Selection] = {
    "lateral": Selection(views=("L", "Lateral")),
    "slice": Selection(views=("Axial", "Coronal"), modalities=("CT",)),
}


def _read(data: Path, selection: Selection) -> list[Record]:
    if not (data / "covid-chestxray-dataset" / "metadata.csv").is_file():
        return []
    return read_collections(data, selection, collections=("ccx",)).records


def _is_child(record: Record) -> bool:
    return not record.adult if record.age_years is None else record.age_years < _ADULT_YEARS


def _side_by_name(patient: str) -> Side:
    share = int.from_bytes(hashlib.sha256(patient.encode()).digest()[:4], "big") / 2**32
    return "train" if share < _TRAIN_SHARE else "validation" if share < _TRAIN_SHARE + _VALIDATION_SHARE else "test"
