"""From answers to what a person or a program reads: text, JSON, CSV, an HTML page, pictures.

Every writer takes `Answer`s one by one with `add` and ends with `close`, so that a folder of any size needs the memory of
one image.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Protocol

from cxr_edge.screener import Answer

__all__ = ["ReportWriter", "RunInfo"]


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """What a report is about: which model, compiled how, run where and when.

    started: local time, ISO 8601. note: a sentence of the user's for the head of the report, or empty.
    """

    bundle: str
    version: str
    digest: str
    labels: tuple[str, ...]
    intended_use: str
    engines: str
    machine: str
    cxr_edge: str
    started: str
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        """The JSON object of this run."""
        return asdict(self)


class ReportWriter(Protocol):
    """Takes answers one by one."""

    def add(self, answer: Answer) -> None:
        """Write one answer."""
        ...

    def close(self) -> None:
        """Write the end. Nothing may be added after it; a writer that is not closed leaves no finished file."""
        ...
