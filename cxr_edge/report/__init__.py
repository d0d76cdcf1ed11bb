"""Report writers: text, JSON, CSV, an HTML page, overlay images.

A writer takes `FileResult`s one by one with `add` and finishes with `close`, so that a folder of any size needs the memory
of one image. Names are displayed through `cxr_edge.names`; a file that cannot be written raises an OutputError.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from cxr_edge.errors import OutputError
from cxr_edge.names import printable
from cxr_edge.records import Screening
from cxr_edge.screening.screener import FileResult

__all__ = ["ReportWriter", "RunInfo", "Skipped", "TextStream", "outcome_counts", "output_errors", "shown_thresholds"]


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """Header of a report: model, engines, machine and time of the run."""

    bundle: str  # name
    version: str
    digest: str  # of the manifest
    labels: tuple[str, ...]
    intended_use: str
    engines: str  # backend, precisions, execution mode
    machine: str  # processor and threads
    cxr_edge: str  # version
    started: str  # local time, ISO 8601
    note: str = ""  # the user's text for the head of the report
    thresholds: tuple[float, ...] | None = None  # of the labels of a multi-label bundle; None in a single-label one
    self_test: str = ""  # verdict of the self-test before the run; empty if there was none

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object of this run; `thresholds` by label in a multi-label bundle, `self_test` where there was one."""
        values = asdict(self)
        del values["thresholds"]
        if not self.self_test:
            del values["self_test"]
        by_label = {} if self.thresholds is None else dict(zip(self.labels, self.thresholds, strict=True))
        return {**values, "thresholds": by_label} if by_label else values


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A file or folder inside a given folder that was not screened, with the reason."""

    path: Path
    reason: str


class TextStream(Protocol):
    """Output stream for text: a file, or standard output."""

    def write(self, text: str, /) -> object:
        """Write some text."""
        ...


class ReportWriter(Protocol):
    """Writes results one by one."""

    def add(self, result: FileResult) -> None:
        """Write one result."""
        ...

    def close(self) -> None:
        """Write the end. Nothing may be added after it; a writer that is not closed leaves no finished file."""
        ...


def outcome_counts(outcomes: Mapping[str, int]) -> str:
    """Return the number of screenings, with those that are no answers: `12 screened (2 refused, 1 abstained)`."""
    unanswered = [f"{outcomes[kind]} {kind}" for kind in ("refused", "abstained") if outcomes.get(kind)]
    return f"{sum(outcomes.values())} screened" + (f" ({', '.join(unanswered)})" if unanswered else "")


def shown_thresholds(screening: Screening, of_run: Sequence[float] | None) -> Sequence[float] | None:
    """Return the thresholds of findings to show with a screening: of the members that answered; None in a single-label bundle."""
    if of_run is None or screening.degraded is None:
        return of_run
    return [screening.degraded.thresholds[label] for label in screening.labels]


@contextmanager
def output_errors(name: str | Path) -> Iterator[None]:
    """Convert an OSError into an OutputError that names the output."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise OutputError(f"the results could not be written to {printable(name)}: {reason}") from None
