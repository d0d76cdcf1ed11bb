"""Facts about one image as a table, a folder or a header words them, before they are interpreted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace

__all__ = ["Entry", "Facts"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """Texts without blanks at both ends; empty where they are not stated."""

    label: str = ""
    findings: Mapping[str, str] = field(default_factory=dict)  # finding -> cell
    patient: str = ""
    study: str = ""
    sop: str = ""  # SOP Instance UID
    site: str = ""
    scanner: str = ""
    view: str = ""
    age: str = ""
    sex: str = ""
    mask: str = ""
    split: str = ""

    def filled(self, other: Facts) -> Facts:
        """Return these facts with those of `other` where nothing is stated."""
        missing = {name: value for name in _NAMES if not getattr(self, name) and (value := getattr(other, name))}
        return replace(self, **missing) if missing else self

    def differences(self, other: Facts) -> list[str]:
        """Return the names of the facts that differ, findings by their own names."""
        names = [name for name in _NAMES if name != "findings" and getattr(self, name) != getattr(other, name)]
        return names + [name for name, cell in self.findings.items() if cell != other.findings.get(name, "")]


_NAMES = tuple(f.name for f in fields(Facts))


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """An image file with its facts."""

    path: str  # as the operating system names it
    where: str  # table and row, or the path, for messages
    facts: Facts
