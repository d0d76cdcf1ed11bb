"""Image records and what a reader of a collection takes and returns: a selection of images in, records and drop counts out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cxr_edge.errors import InputError
from training.data.faults import Fault
from training.data.findings import FindingTable, projection

__all__ = ["IMAGE_SUFFIXES", "CollectedRecords", "Record", "Selection", "image_paths", "make_record", "require_images"]

# Of all formats that the deployed decoder reads (cxr_edge/decoding/formats.py).
IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".webp", ".bmp", ".dib", ".dcm", ".dicom"}
)


@dataclass(frozen=True, kw_only=True)
class Record:
    """One image of a collection, from file names, tables and headers; no pixels."""

    path: Path
    key: str  # path relative to the data folder, with forward slashes: its name in tables and caches
    patient: str  # unique over all collections, as far as the collection identifies patients
    label: str  # of a published collection: one of LABELS; `other` is abnormal of a cause that no class covers
    source: str
    view: str  # in the collection's wording
    finding: str  # in the collection's wording
    adult: bool  # according to the collection, or to the age in the header
    mask: Path | None = None  # lung mask
    modality: str = "X-ray"  # in the collection's wording
    # Where the collection states them; else empty.
    site: str = ""  # hospital, or place, in the collection's wording
    basis: str = ""  # of the label: test, radiologists, text of the report; in the collection's wording
    age_years: float | None = None
    sex: str = ""  # F or M
    # Of multi-label data: finding -> present, absent, or None for unknown. `label` then names those present, joined by "+", or is
    # NO_FINDING, for strata and tables.
    findings: Mapping[str, bool | None] | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        if not self.label:
            raise ValueError(f"{self.key} has no label")
        if self.sex not in ("F", "M", ""):
            raise ValueError(f"the sex {self.sex!r} of {self.key}: expected F, M or nothing")


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Selection of images by view and modality, and the table that labels them."""

    # As the collections word them, or a projection, which takes all its views (`AP`: also `AP Supine`).
    # None: FRONTAL_VIEWS of CCX and all views of the others ("unknown" of twitter).
    views: Collection[str] | None = None
    modalities: Collection[str] = ("X-ray",)  # as the collections word them
    findings: FindingTable = "full"  # table of CCX's labels: FINDINGS (`full`) or FLANNEL_FINDINGS (`flannel-code`)
    without: Collection[str] = ()  # `source/label` that is left out, such as a label whose basis is in doubt

    def drop_reason(self, view: str, modality: str) -> str | None:
        """Return the reason for dropping an image (its modality or its view), or None for a selected one."""
        if modality not in self.modalities:
            return f"modality {modality or 'not stated'}"
        if self.views is None or view in self.views or projection(view) in self.views:
            return None
        return f"view {view or 'not stated'}"

    def exclusion(self, record: Record) -> str | None:
        """Return the reason for dropping a record: that of `drop_reason`, or its source and label; None for a selected one."""
        excluded = f"{record.source}/{record.label}" in self.without
        return self.drop_reason(record.view, record.modality) or (f"label {record.label}" if excluded else None)


@dataclass(frozen=True, kw_only=True)
class CollectedRecords:
    """Records of one or more collections."""

    records: list[Record]
    # Reason, such as `ccx: view L` -> number of images that the collection lists and that have no record.
    dropped: Mapping[str, int] = field(default_factory=dict)
    faults: Sequence[Fault] = ()  # files and rows that cannot be used


def make_record(
    path: Path, patient: str, label: str, *, source: str, view: str, finding: str, adult: bool, mask: Path | None = None
) -> Record:
    """Return a record whose key is the file name; `read_collections`, which knows the data folder, replaces it."""
    return Record(
        path=path,
        key=path.name,
        patient=patient,
        label=label,
        source=source,
        view=view,
        finding=finding,
        adult=adult,
        mask=mask,
    )


def image_paths(paths: Iterable[Path]) -> list[Path]:
    """Return the paths that are image files by their suffix, sorted."""
    return sorted(p for p in paths if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())


def require_images(paths: list[Path], folder: Path, layout: str) -> None:
    """Raise InputError if `paths` is empty. layout: the published layout, for the message."""
    if not paths:
        raise InputError(f"no images in {folder}: expected the published layout, {layout}")
