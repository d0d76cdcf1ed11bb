"""Protocol of all sensors, and the state that a sensor reads at one moment.

A new source of readings is one new module in this package: a class that reports why it is unavailable here, opens, reads
and closes. Names of readings end with their unit, so that a table needs no legend.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

__all__ = ["UNITS", "Sensor", "SensorError", "State", "read_number", "read_text", "slug"]

# Endings of the readings' names: megahertz, degrees Celsius, watts, percent, megabytes, a count.
UNITS = ("_mhz", "_c", "_w", "_percent", "_mb", "_count")


class SensorError(RuntimeError):
    """A sensor cannot be read any more; the message has the reason."""


@dataclass(frozen=True, kw_only=True)
class State:
    """Readings of one sensor at one moment."""

    values: Mapping[str, float] = field(default_factory=dict)  # by names that end with one of UNITS
    slowed_by: tuple[str, ...] = ()  # current reasons for reduced clocks

    def __post_init__(self) -> None:
        for name in self.values:
            if not name.endswith(UNITS):
                raise ValueError(f"a reading's name must end with one of the units {', '.join(UNITS)}, got {name!r}")


class Sensor(Protocol):
    """Source of readings that can be read repeatedly. All calls are from one thread."""

    name: str

    def unavailable_because(self) -> str | None:
        """Return why it cannot be read here and what would help; None if it can. Cheap, changes nothing."""
        ...

    def open(self) -> None:
        """Acquire resources. Raises SensorError."""
        ...

    def read(self) -> State:
        """Return the current state, without readings that are not available now. Raises SensorError on permanent failure."""
        ...

    def close(self) -> None:
        """Release the resources of `open`. May be called without it."""
        ...


def read_text(file: Path) -> str | None:
    """Return a small file's content without surrounding whitespace; None if it cannot be read."""
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def read_number(file: Path) -> float | None:
    """Return the number in a small file; None if it cannot be read or has no number."""
    try:
        return float(read_text(file) or "")
    except ValueError:
        return None


def slug(name: str) -> str:
    """Return a name in the form of readings: lower case, with one `_` for all other characters."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
