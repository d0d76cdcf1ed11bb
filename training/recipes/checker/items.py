"""Images that train and measure the checker: collections and installed packages in, items with their side out.

Frontal images have the side of the run's split. There are few lateral views and slices, so every other patient with one, by the
name, measures with all images, whatever the split says; the others train. Pictures train if `pictures.TRAINED` has their package.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cxr_edge.digests import sha256_file
from training.data import pictures
from training.data.collections import read_collections
from training.data.dataset import Sample
from training.data.findings import FRONTAL_VIEWS, projection
from training.data.records import Record, Selection
from training.data.splits import Side
from training.tasks.checks import Kind

__all__ = ["Item", "chest_items", "picture_items"]

_ADULT_YEARS = 18


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


def chest_items(data: Path, samples: Sequence[Sample]) -> list[Item]:
    """Return the frontal images of a split, and the lateral views and CT slices of the Montreal collection if it is there."""
    others = _other_views(data)
    groups = {s.record.patient: s.group for s in samples}
    sides: dict[str, Side] = {s.group: s.side for s in samples}
    for record in others:
        group = groups.setdefault(record.patient, record.patient)
        if sides.get(group) != "test" and _measures(group):
            sides[group] = "test"
        sides.setdefault(group, "train")
    frontal = [_frontal(s, sides[s.group]) for s in samples]
    return [*frontal, *(_other(record, groups[record.patient], sides) for record in others)]


def picture_items() -> list[Item]:
    """Return the pictures of the installed packages, each once: those of `TRAINED` train, the others are of the test side."""
    by_side: Mapping[Side, Sequence[str]] = {"train": pictures.TRAINED, "test": (*pictures.MEASURED, *pictures.SLICES)}
    found: dict[str, Item] = {}  # by digest: packages ship copies
    for side, names in by_side.items():
        for name in names:
            for path in pictures.package_pictures(name):
                kind: Kind = "slice" if name in pictures.SLICES else "picture"
                found.setdefault(sha256_file(path), Item(kind=kind, path=path, source=name, side=side))
    return list(found.values())


_LATERAL, _SLICES = ("L", "Lateral"), ("Axial", "Coronal")
_ALL_VIEWS = Selection(views=(*FRONTAL_VIEWS, *_LATERAL, *_SLICES), modalities=("X-ray", "CT"))


def _other_views(data: Path) -> list[Record]:
    if not (data / "covid-chestxray-dataset" / "metadata.csv").is_file():
        return []
    records = read_collections(data, _ALL_VIEWS, collections=("ccx",)).records
    return [record for record in records if record.modality == "CT" or record.view in _LATERAL]


def _other(record: Record, group: str, sides: Mapping[str, Side]) -> Item:
    kind: Kind = "slice" if record.modality == "CT" else "lateral"
    return Item(kind=kind, path=record.path, source=record.source, side=sides[group], patient=group)


def _frontal(s: Sample, side: Side) -> Item:
    return Item(
        kind="frontal",
        path=s.record.path,
        source=s.record.source,
        side=side,
        patient=s.group,
        child=_is_child(s.record),
        ap={"AP": True, "PA": False}.get(projection(s.record.view)),
        label=s.record.label,
    )


def _is_child(record: Record) -> bool:
    return not record.adult if record.age_years is None else record.age_years < _ADULT_YEARS


def _measures(patient: str) -> bool:
    """Return True for every other patient, by the name."""
    return hashlib.sha256(patient.encode()).digest()[0] % 2 == 0
