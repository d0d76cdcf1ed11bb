"""Own data as a collection: the folder that `store.save` wrote in, records of a single-label or of a multi-label task out.

Data in which every image has exactly one label are single-label; others are multi-label, with findings that are each present,
absent or unknown. So that every recipe reads own images as it reads the published collections: `collections = ["own"]`, and
`--data` is the run folder that holds own/images.csv. The source of a record is its site, else its scanner, else `own`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from cxr_edge.errors import InputError
from cxr_edge.records import NO_FINDING
from training.data.demographics import is_adult
from training.data.faults import Fault
from training.data.findings import UNKNOWN_VIEW
from training.data.own.cells import NO_FINDING as NO_FINDING_WORDS
from training.data.own.records import Findings, OwnData, OwnRecord
from training.data.own.store import FILE, load
from training.data.records import CollectedRecords, Record, Selection

__all__ = [
    "finding_names",
    "multi_label_records",
    "read_own",
    "record_of",
    "records_of",
    "single_label_records",
]

_SOURCE = "own"


def read_own(folder: Path, _: Selection | None = None) -> CollectedRecords:
    """Read the records of own data, with `findings` unless every image has exactly one. Raises InputError if there are none."""
    if not (folder / FILE).is_file():
        raise InputError(
            f"{folder} holds no {FILE}: write it with `python -m training.check_data SOURCE --out {folder.parent}`"
        )
    data = load(folder)
    return single_label_records(data) if data.exclusive else multi_label_records(data)


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
    return _collected(data, [record_of(r) for r in data.labelled()])


def multi_label_records(data: OwnData) -> CollectedRecords:
    """Return a record for each image with a known finding; the others are dropped and counted, missing files are faults.

    A column such as `No Finding` is no finding of its own: where it is true, findings that are not stated are absent.

    Raises InputError without findings, and for a name that a multi-label bundle cannot have.
    """
    names = finding_names(data)
    if not names:
        raise InputError(f"{data.source} has no finding besides {', '.join(data.findings)}: name a column of one")
    if wrong := [name for name in names if "+" in name]:
        raise InputError(
            f'the finding {wrong[0]!r} has a "+", which joins the names of findings: name its column otherwise'
        )
    stated = ((r, _stated(r.findings, names)) for r in data.labelled())
    return _collected(data, [multi_label_record(r, f) for r, f in stated if any(v is not None for v in f.values())])


def finding_names(data: OwnData) -> tuple[str, ...]:
    """Return the findings of multi-label data, in their order, without a column such as `No Finding`."""
    return tuple(name for name in data.findings if name.lower() not in NO_FINDING_WORDS)


def records_of(data: OwnData) -> list[Record]:
    """Return the records of data of either kind. Raises InputError as `single_label_records` or `multi_label_records`."""
    return (single_label_records(data) if data.exclusive else multi_label_records(data)).records


def _stated(findings: Findings, names: Sequence[str]) -> Findings:
    normal = any(value for name, value in findings.items() if name.lower() in NO_FINDING_WORDS)
    return {name: False if normal and findings[name] is None else findings[name] for name in names}


def multi_label_record(r: OwnRecord, findings: Findings) -> Record:
    """Return the record of an image with these findings."""
    return _record(r, "+".join(name for name, value in findings.items() if value) or NO_FINDING, findings)


def _collected(data: OwnData, records: list[Record]) -> CollectedRecords:
    if not records:
        raise InputError(f"no image of {data.source} has a label: see docs/own-data.md for how labels are stated")
    without = len(data.records) - len(records)
    return CollectedRecords(
        records=records,
        dropped=Counter({f"{_SOURCE}: no label": without} if without else {}),
        faults=[*_missing(data)],
    )


def _missing(data: OwnData) -> Iterator[Fault]:
    for r in data.labelled():
        if not os.path.isfile(r.path):
            yield Fault(where=str(r.path), reason=f"the file is not there any more; {data.source} named it")


def record_of(r: OwnRecord) -> Record:
    """Return the record of an image with exactly one label."""
    (label,) = r.present
    return _record(r, label)


def _record(r: OwnRecord, label: str, findings: Findings | None = None) -> Record:
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
        findings=findings,
    )
