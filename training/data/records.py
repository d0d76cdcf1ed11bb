"""Image records of collections: what a reader returns for each image, and helpers that all readers share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cxr_edge.errors import InputError
from training.data.findings import LABELS

__all__ = ["Record", "image_paths", "record_of", "require_images"]


_IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jfif", ".png", ".tif", ".tiff", ".webp", ".dcm"})


@dataclass(frozen=True, kw_only=True)
class Record:
    """One image of a collection.

    key: its path relative to the data folder, with forward slashes: the name in tables and caches. patient: unique over
    all collections, as far as the collection tells. label: one of LABELS; other is abnormal of a cause that no class holds.
    finding, view, modality: as the collection words them. adult: whether the collection, or a header's age, says adult.
    mask: its lung mask, or None.
    """

    path: Path
    key: str
    patient: str
    label: str
    source: str
    view: str
    finding: str
    adult: bool
    mask: Path | None = None
    modality: str = "X-ray"

    def __post_init__(self) -> None:
        if self.label not in LABELS:
            raise ValueError(f"unknown label {self.label!r} for {self.key}")


def record_of(
    path: Path, patient: str, label: str, *, source: str, view: str, finding: str, adult: bool, mask: Path | None = None
) -> Record:
    """A record named by its file until the collection knows the data folder."""
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
    """Those of the paths that are image files by their suffix, sorted."""
    return sorted(p for p in paths if p.suffix.lower() in _IMAGE_SUFFIXES and p.is_file())


def require_images(paths: list[Path], folder: Path, layout: str) -> None:
    """Raises InputError if a collection holds no images. layout: as published, for the message."""
    if not paths:
        raise InputError(f"no images in {folder}: expected the published layout, {layout}")
