"""From answers to what a person or a program reads: text, JSON, CSV, an HTML page, pictures.

Every writer takes `FileResult`s one by one with `add` and ends with `close`, so that a folder of any size needs the memory of
one image. Names are shown by `cxr_edge.names`, and a file that cannot be written is an OutputError.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from cxr_edge.errors import OutputError
from cxr_edge.names import printable
from cxr_edge.screening.screener import FileResult

__all__ = ["ReportWriter", "RunInfo", "Skipped", "TextStream", "output_errors"]


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


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A file or folder inside a given folder that was not screened, and why."""

    path: Path
    reason: str


class TextStream(Protocol):
    """Where text goes: a file, or standard output."""

    def write(self, text: str, /) -> object:
        """Write some text."""
        ...


class ReportWriter(Protocol):
    """Takes answers one by one."""

    def add(self, answer: FileResult) -> None:
        """Write one answer."""
        ...

    def close(self) -> None:
        """Write the end. Nothing may be added after it; a writer that is not closed leaves no finished file."""
        ...


@contextmanager
def output_errors(name: str | Path) -> Iterator[None]:
    """Turn a failure of the operating system into an OutputError that says what could not be written."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise OutputError(f"the results could not be written to {printable(name)}: {reason}") from None
