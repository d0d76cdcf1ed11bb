"""Results of the full-size smoke, as papers-smoke.json holds them: `training.papers_smoke` makes them, `page` prints them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from training.papers.hours import Hours
from training.papers.speed import Speed

__all__ = ["Costs", "Done", "Engine", "Machine", "MeasuredNetwork", "PaperSmoke", "Smoke"]


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Costs of a process."""

    seconds: float
    cpu_s: float  # of all threads
    peak_mib: float  # largest resident set
    resumed: bool  # by this process after a kill: its seconds are of the rest


@dataclass(frozen=True, kw_only=True)
class Done(Costs):
    """A finished command."""

    output: Any  # JSON that it printed, or None

    @property
    def costs(self) -> Costs:
        return Costs(seconds=self.seconds, cpu_s=self.cpu_s, peak_mib=self.peak_mib, resumed=self.resumed)


@dataclass(frozen=True, kw_only=True)
class MeasuredNetwork(Speed):
    """A network's speed, and what its process took, as in `Costs`."""

    seconds: float
    cpu_s: float
    peak_mib: float
    resumed: bool


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A row of build-engine's report."""

    part: str
    precision: str
    status: str
    reason: str | None


@dataclass(frozen=True, kw_only=True)
class PaperSmoke:
    """One paper's recipe."""

    changed: Mapping[str, Mapping[str, Any]]  # table of the configuration -> settings
    networks: Mapping[str, MeasuredNetwork]
    stages: Mapping[str, Costs]
    engines: tuple[Engine, ...]
    screened: int  # files
    hours: tuple[Hours, ...]  # of each stage, then of all


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The machine that measured."""

    processor: str
    precision: str
    vectors: str
    cores: int | None
    memory_gib: float
    threads: int
    load: float  # average over 15 minutes
    torch: str


@dataclass(frozen=True, kw_only=True)
class Smoke:
    """All results."""

    made: str
    machine: Machine
    images: Mapping[str, int]  # collection, or `all` -> drawn images
    imagenet: str
    papers: Mapping[str, PaperSmoke]
