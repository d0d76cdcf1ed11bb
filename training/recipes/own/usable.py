"""Images that train: own data and their examination in; the images that can be used, and a reason for each other one, out.

An image that cannot be read, or whose picture has two labels, ends nothing: it is left out, listed and counted. What no training
could mend is refused in a sentence.
"""

from __future__ import annotations

import csv
import io
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cxr_edge.errors import InputError
from cxr_edge.names import printable
from training.data.faults import Fault, each
from training.data.masks import read_mask
from training.data.own.collection import finding_names, multi_label_records, record_of
from training.data.own.records import OwnData, OwnRecord
from training.data.own.report import SamePicture
from training.shared_files import write_text

__all__ = [
    "LEAST_PATIENTS",
    "LeftOutImage",
    "Usable",
    "is_normal",
    "labels_of",
    "require_trainable",
    "usable",
    "write_left_out",
]

LEAST_PATIENTS = 10  # of each label
UNREADABLE, TWO_LABELS, NO_LABEL = "unreadable", "the same picture under two labels", "no label"


@dataclass(frozen=True, kw_only=True)
class LeftOutImage:
    """An image that trains nothing."""

    key: str
    kind: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Usable:
    """The images that train, and the others."""

    data: OwnData
    left_out: tuple[LeftOutImage, ...]
    lost_masks: tuple[Fault, ...] = ()  # masks that cannot be read; their images are used without

    @property
    def counts(self) -> dict[str, int]:
        """Kind of the reason -> images left out."""
        return dict(Counter(image.kind for image in self.left_out))


def usable(data: OwnData, unreadable: Sequence[Fault], same: Sequence[SamePicture]) -> Usable:
    """Return the images that can be used. unreadable: faults whose `where` is a path. same: pairs of equal pictures."""
    reasons = {fault.where: fault.reason for fault in unreadable}
    twins = {a: b for p in same if p.two_labels for a, b in ((p.first, p.second), (p.second, p.first))}
    kept, left_out = [], []
    for record in data.records:
        image = _left_out(record, reasons, twins)
        if image is None:
            kept.append(record)
        else:
            left_out.append(image)
    masked, lost = _with_readable_masks(kept)
    return Usable(data=replace(data, records=tuple(masked)), left_out=tuple(left_out), lost_masks=tuple(lost))


def _left_out(record: OwnRecord, reasons: Mapping[str, str], twins: Mapping[str, str]) -> LeftOutImage | None:
    if (reason := reasons.get(str(record.path))) is not None:
        return LeftOutImage(key=record.key, kind=UNREADABLE, reason=reason)
    if (twin := twins.get(record.key)) is not None:
        return LeftOutImage(key=record.key, kind=TWO_LABELS, reason=f"the picture of {twin}, which has another label")
    if not record.is_labelled:
        return LeftOutImage(key=record.key, kind=NO_LABEL, reason="the source states no label for it")
    return None


def _with_readable_masks(records: Sequence[OwnRecord]) -> tuple[list[OwnRecord], list[Fault]]:
    """Return the records, those with a mask that cannot be read without it, and the faults of these masks."""
    found, faults = [], []
    for record in records:
        wrong = [] if record.mask is None else _faults_of_mask(record)
        faults += wrong
        found.append(replace(record, mask=None) if wrong else record)
    return found, faults


def _faults_of_mask(record: OwnRecord) -> list[Fault]:
    records = [record_of(record)] if len(record.present) == 1 else []
    return each(records, read_mask, lambda r: r.key)[1]


def write_left_out(images: Iterable[LeftOutImage], file: Path) -> None:
    """Write a CSV table with a row for each image."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "kind", "reason"])
    writer.writerows([printable(i.key), i.kind, printable(i.reason)] for i in images)
    write_text(file, text.getvalue())


def require_trainable(found: Usable) -> None:
    """Raise InputError for data that no classifier can learn from."""
    data = found.data
    if not data.records:
        why = "; ".join(f"{n} {kind}" for kind, n in found.counts.items()) or "the source names none"
        raise InputError(f"no image of {data.source} can be used ({why}): see check-data.html")
    if not data.exclusive:
        _require_findings(data)
        return
    patients = {name: len({r.unit for r in data.records if r.findings[name]}) for name in data.findings}
    present = [name for name, n in patients.items() if n]
    if len(present) < 2:
        raise InputError(
            f"all images have the label {', '.join(present)}: a classifier needs two labels or more, such as normal"
        )
    few = [f"{name} {patients[name]}" for name in present if patients[name] < LEAST_PATIENTS]
    if few:
        raise InputError(
            f"each label needs {LEAST_PATIENTS} patients or more to be trained, validated and tested; too few have "
            f"{', '.join(few)}: add images, or leave the label out"
        )


def _require_findings(data: OwnData) -> None:
    """Raise InputError for a finding that is present, or absent, in too few patients; unknown counts as neither."""
    records, few = multi_label_records(data).records, []
    for name in finding_names(data):
        present, absent = (len({r.patient for r in records if (r.findings or {})[name] is v}) for v in (True, False))
        if min(present, absent) < LEAST_PATIENTS:
            few.append((name, f"{name} (present in {present}, absent in {absent})"))
    if few:
        ignored = " ".join(shlex.quote(name) for name, _ in few)
        raise InputError(
            f"each finding needs {LEAST_PATIENTS} patients or more with it, and without it, to be trained, validated and tested; "
            f"too few have {', '.join(text for _, text in few)}: add images, or leave them out with --ignore {ignored}"
        )


def labels_of(data: OwnData) -> tuple[str, ...]:
    """Return the labels that images have, the one for normal images first; of multi-label data the findings."""
    if not data.exclusive:
        return finding_names(data)
    present = [name for name in data.findings if any(r.findings[name] for r in data.records)]
    return tuple(sorted(present, key=lambda name: not is_normal(name)))


_NORMAL = ("normal", "no finding", "no-finding", "healthy", "negative", "control", "no findings", "none")


def is_normal(label: str) -> bool:
    """Return whether a label means that nothing was found."""
    return label.strip().lower().replace("_", " ") in _NORMAL
