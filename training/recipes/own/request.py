"""Request of a user of `cxr-edge train`: options in, a validated request and its table in a run's config.toml out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cxr_edge.errors import InputError
from training.data.own.options import Options
from training.recipes.own.presets import PRESETS

__all__ = ["Request"]


@dataclass(frozen=True, kw_only=True)
class Request:
    """Settings that a user gives. Raises InputError for values that cannot work."""

    source: str  # absolute path
    preset: str = "quick"
    minutes: float = 0.0  # of the whole run; 0 for the preset's
    guard: str = ""  # label with limited false alarms; empty for none
    seed: int = 1
    collections: tuple[str, ...] = ()  # published collections of `source`, a data folder
    # As `training.data.own.options.Options`.
    columns: Mapping[str, str] = field(default_factory=dict)
    findings: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    label_names: Mapping[str, str] = field(default_factory=dict)
    root: str = ""
    table: str = ""
    layout: str = ""
    patient_pattern: str = ""

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise InputError(f"the preset is one of {', '.join(PRESETS)}, got {self.preset!r}")
        if self.minutes < 0:
            raise InputError(f"the time is more than 0 minutes, got {self.minutes:g}: give it as 90m or 2h")

    @property
    def options(self) -> Options:
        """Options of reading the source. Raises InputError."""
        return Options(
            columns=self.columns,
            findings=self.findings,
            ignore=self.ignore,
            label_names=self.label_names,
            root=Path(self.root) if self.root else None,
            table=Path(self.table) if self.table else None,
            layout=self.layout,
            patient_pattern=self.patient_pattern,
        )

    def as_table(self) -> dict[str, Any]:
        """Return the values for TOML."""
        return asdict(self)
