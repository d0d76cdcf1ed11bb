"""Published collections as own data, so that they are checked in the same way: a data folder in, `OwnData` out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from training.data.collections import collect
from training.data.own.identities import Pseudonyms
from training.data.own.records import OwnData, OwnRecord
from training.data.records import Record

__all__ = ["read_published"]


def read_published(data: Path, names: Sequence[str], *, salt: bytes | None = None) -> OwnData:
    """Read collections of `data` by name, as `training.data.collections` does. The site is the collection's source.

    Raises InputError if there is no such collection, or it is not there; files and rows that cannot be used are faults.
    """
    collected = collect(data, collections=names)
    labels = sorted({r.label for r in collected.records}, key=lambda label: (label != "normal", label))
    pseudonyms = Pseudonyms(salt)
    return OwnData(
        source=data,
        records=tuple(_record(r, labels, pseudonyms) for r in collected.records),
        findings=tuple(labels),
        exclusive=True,
        faults=tuple(collected.faults),
        understood=(f"published collections: {', '.join(names)}; the site is the source within a collection",),
        ignored=dict(collected.dropped),
    )


def _record(r: Record, labels: Sequence[str], pseudonyms: Pseudonyms) -> OwnRecord:
    return OwnRecord(
        path=r.path,
        key=r.key,
        findings={label: label == r.label for label in labels},
        patient=pseudonyms.of("patient", r.patient),
        site=r.source,
        view=r.view,
        age_years=r.age_years,
        sex=r.sex,
        mask=r.mask,
    )
