"""Options of reading own data: what a user states because the source does not, or states it ambiguously."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cxr_edge.errors import InputError

__all__ = ["LEVELS", "ROLES", "Options"]

# What a column can hold. `sop` is the SOP Instance UID of a DICOM file.
ROLES = (
    *("path", "label", "patient", "study", "sop", "site", "scanner", "view", "age", "sex", "mask", "split"),
)  # fmt: skip
LEVELS = ("label", "patient", "study", "site", "view", "split", "-")  # what a level of folders can name


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `source.read_source`. Raises InputError for values that cannot work."""

    columns: Mapping[str, str] = field(default_factory=dict)  # role -> column; an empty name: no column has the role
    findings: tuple[str, ...] = ()  # columns of findings; empty: recognised by their cells
    ignore: tuple[str, ...] = ()  # columns that are not used
    label_names: Mapping[str, str] = field(default_factory=dict)  # label as in the source -> its name
    root: Path | None = None  # folder that paths are relative to, after the table's own
    table: Path | None = None  # table beside the images of a folder
    layout: str = ""  # levels of folders, such as site/label/patient; empty: recognised
    patient_pattern: str = ""  # regular expression that finds the patient in a path; its first group, if it has one

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.columns) - set(ROLES)):
            raise InputError(f"a column cannot be {', '.join(unknown)}: expected one of {', '.join(ROLES)}")
        if wrong := [level for level in self.levels if level not in LEVELS]:
            raise InputError(
                f"the layout {self.layout!r} has the level {wrong[0]!r}: expected levels of {', '.join(LEVELS)} with / "
                "between them, such as site/label/patient"
            )
        try:
            re.compile(self.patient_pattern)
        except re.error as error:
            raise InputError(
                f"the patient pattern {self.patient_pattern!r} is no regular expression: {error}"
            ) from None

    @property
    def levels(self) -> tuple[str, ...]:
        """Levels of the layout; empty if none is given."""
        return tuple(self.layout.strip("/").split("/")) if self.layout else ()
