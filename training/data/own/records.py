"""Records of own data: images with their findings, each true, false or unknown, and what is known of patient and origin.

A single label is a set of findings of which exactly one is true; several findings in one image need no other type. Unknown is
never a negative: losses and figures leave it out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from training.data.faults import Fault
from training.data.splits import Side

__all__ = ["Findings", "OwnData", "OwnRecord"]

Findings = Mapping[str, bool | None]  # finding -> present, absent, or None for unknown


@dataclass(frozen=True, kw_only=True)
class OwnRecord:
    """One image; texts are empty where they are not stated."""

    path: Path
    key: str  # path below the root with forward slashes, printable and unique: its name in tables and messages
    findings: Findings  # all findings of the data
    patient: str = ""  # pseudonym, a salted hash of the source's name
    study: str = ""  # pseudonym
    site: str = ""  # hospital or place
    scanner: str = ""  # manufacturer and model
    view: str = ""  # in the source's wording
    age_years: float | None = None
    sex: str = ""  # F or M
    mask: Path | None = None  # lung mask
    split: Side | None = None  # as the source states it

    @property
    def unit(self) -> str:
        """Name of the images that stay together: the patient, else the study, else this image alone."""
        return self.patient or self.study or f"image:{self.key}"

    @property
    def origin(self) -> str:
        """The site, else the scanner; empty if neither is stated."""
        return self.site or self.scanner

    @property
    def present(self) -> tuple[str, ...]:
        """Findings that are there."""
        return tuple(name for name, value in self.findings.items() if value)

    @property
    def is_labelled(self) -> bool:
        """True if at least one finding is known."""
        return any(value is not None for value in self.findings.values())


@dataclass(frozen=True, kw_only=True)
class OwnData:
    """All images of a source, and what was understood of it."""

    source: Path
    records: tuple[OwnRecord, ...]
    findings: tuple[str, ...]  # names of labels or findings, in order
    exclusive: bool  # every labelled image has exactly one of them: a single-label task
    faults: tuple[Fault, ...] = ()  # files and rows that cannot be used
    doubts: tuple[Fault, ...] = ()  # cells that were not understood, and count as not stated
    understood: tuple[str, ...] = ()  # sentences
    ignored: Mapping[str, int] = field(default_factory=dict)  # reason -> number of files or rows

    def labelled(self) -> Iterator[OwnRecord]:
        """Yield the records with a known finding."""
        return (r for r in self.records if r.is_labelled)
