"""The protocol that every sensor meets, and what a sensor says at one moment.

A new source of readings is one new file beside this one: it says why it cannot be used here, opens, reads, closes.
Names of readings end with their unit, so that a table needs no legend.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

__all__ = ["UNITS", "Sensor", "SensorError", "State", "read_number", "read_text", "slug"]

# Of the readings' names: megahertz, degrees Celsius, watts, percent, megabytes, a plain number of things.
UNITS = ("_mhz", "_c", "_w", "_percent", "_mb", "_count")


class SensorError(RuntimeError):
    """A sensor that cannot be read any more; the message says why."""


@dataclass(frozen=True, kw_only=True)
class State:
    """What one sensor says. values: by names that end with a unit of UNITS. slowed_by: what holds clocks back now."""

    values: Mapping[str, float] = field(default_factory=dict)
    slowed_by: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in self.values:
            if not name.endswith(UNITS):
                raise ValueError(f"a reading's name ends with a unit out of {', '.join(UNITS)}, got {name!r}")


class Sensor(Protocol):
    """Something that can be read again and again. All calls come from one thread."""

    name: str

    def unavailable_because(self) -> str | None:
        """None if it can be read here, else why not and what would help. Cheap, changes nothing."""
        ...

    def open(self) -> None:
        """Get ready. Raises SensorError."""
        ...

    def read(self) -> State:
        """What it says now, without what cannot be had this time. Raises SensorError if nothing more will come."""
        ...

    def close(self) -> None:
        """Let go of what `open` took. May be called without it."""
        ...


def read_text(file: Path) -> str | None:
    """A small file's content without the space around it; None if it cannot be read."""
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def read_number(file: Path) -> float | None:
    """The number that a small file holds; None if it cannot be read or holds none."""
    try:
        return float(read_text(file) or "")
    except ValueError:
        return None


def slug(name: str) -> str:
    """A name as readings spell it: lower case, one `_` for everything else."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
