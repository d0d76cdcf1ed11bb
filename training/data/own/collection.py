"""Own data as a collection: the folder that `store.save` wrote in, records of a single-label task out.

So that every recipe reads own images as it reads the published collections: `collections = ["own"]`, and `--data` is the run
folder that holds own/images.csv. The source of a record is its site, else its scanner, else `own`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from cxr_edge.errors import InputError
from training.data.demographics import is_adult
from training.data.faults import Fault
from training.data.findings import UNKNOWN_VIEW
from training.data.own.records import OwnData, OwnRecord
from training.data.own.store import FILE, load
from training.data.records import CollectedRecords, Record, Selection

__all__ = ["read_own", "record_of", "single_label_records"]

_SOURCE = "own"


def read_own(folder: Path, _: Selection | None = None) -> CollectedRecords:
    """Read the records of own data. Raises InputError if there are none, or several findings in one image."""
    if not (folder / FILE).is_file():
        raise InputError(
            f"{folder} holds no {FILE}: write it with `python -m training.check_data SOURCE --out {folder.parent}`"
        )
    return single_label_records(load(folder))


def single_label_records(data: OwnData) -> CollectedRecords:
    """Return a record for each image with a label. Raises InputError if one has several findings, or none of them.

    Images without a label are dropped and counted; images that are not there any more are faults.
    """
    if not data.exclusive:
        wrong = [r for r in data.labelled() if len(r.present) != 1]
        raise InputError(
            f"{len(wrong)} images, such as {wrong[0].key}, have {len(wrong[0].present)} findings, and a task of one label needs "
            "exactly one of each: name the column of the label, or train several findings at once"
        )
    if not any(data.labelled()):
        raise InputError(f"no image of {data.source} has a label: see docs/own-data.md for how labels are stated")
    without = len(data.records) - sum(1 for _ in data.labelled())
    faults = [*_missing(data)]
    return CollectedRecords(
        records=[record_of(r) for r in data.labelled()],
        dropped=Counter({f"{_SOURCE}: no label": without} if without else {}),
        faults=faults,
    )


def _missing(data: OwnData) -> Iterator[Fault]:
    for r in data.labelled():
        if not os.path.isfile(r.path):
            yield Fault(where=str(r.path), reason=f"the file is not there any more; {data.source} named it")


def record_of(r: OwnRecord) -> Record:
    """Return the record of an image with exactly one label."""
    (label,) = r.present
    return Record(
        path=r.path,
        key=r.key,
        patient=r.unit,
        label=label,
        source=r.origin.replace("/", "-") or _SOURCE,  # a slash separates source and label in tables
        view=r.view or UNKNOWN_VIEW,
        finding=label,
        adult=is_adult(r.age_years),
        mask=r.mask,
        site=r.site,
        age_years=r.age_years,
        sex=r.sex,
    )
