"""Builders of multi-label records and samples for training tests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cxr_edge.records import NO_FINDING
from training.data.dataset import Sample
from training.data.records import Record
from training.data.splits import Side

__all__ = ["finding_record", "finding_sample"]

_VALUES: Mapping[str, bool | None] = {"1": True, "0": False, "?": None}


def finding_record(
    key: str, values: str, names: str = "abc", *, patient: str | None = None, source: str = "s"
) -> Record:
    """Return a record. values: a character of each finding: 1, 0 or ? for unknown. names: a letter of each."""
    findings = {name: _VALUES[value] for name, value in zip(names, values, strict=True)}
    label = "+".join(name for name, value in findings.items() if value) or NO_FINDING
    return Record(
        path=Path(key),
        key=key,
        patient=patient or key,
        label=label,
        source=source,
        view="PA",
        finding=label,
        adult=True,
        findings=findings,
    )


def finding_sample(key: str, values: str, side: Side, names: str = "abc", *, source: str = "s") -> Sample:
    """Return a sample whose patient has this image alone. values, names: as of `finding_record`."""
    return Sample(record=finding_record(key, values, names, source=source), group=key, side=side)
