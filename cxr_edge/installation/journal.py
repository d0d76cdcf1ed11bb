"""Journal of a box: a line of JSON for each installation, refusal, failure and switch back. For people; nothing is decided by it.

`append` adds an entry to `journal.jsonl`; `read` returns the entries, without lines that a power cut has left unfinished.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

from cxr_edge.installation.durable import append_line
from cxr_edge.names import printable

__all__ = ["Entry", "Event", "append", "read"]

Event = Literal["installed", "refused", "failed", "switched back", "rolled back"]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One event."""

    time: str  # UTC, ISO 8601
    event: Event
    version: str  # of the folder in `versions`, or of the bundle that was not installed
    current: str | None  # folder of the version in use afterwards
    reason: str = ""

    def __str__(self) -> str:
        now = "none" if self.current is None else self.current
        reason = f": {printable(self.reason)}" if self.reason else ""
        return f"{self.time} {self.event} {printable(self.version)} (in use: {printable(now)}){reason}"


def append(path: Path, event: Event, *, version: str, current: str | None, reason: str = "") -> None:
    """Add an entry of now."""
    time = datetime.now(timezone.utc).isoformat(timespec="seconds")
    entry = Entry(time=time, event=event, version=version, current=current, reason=" ".join(reason.split()))
    append_line(path, json.dumps(asdict(entry)))


def read(path: Path) -> tuple[Entry, ...]:
    """Return the entries, the oldest first; none without a journal."""
    if not path.is_file():
        return ()
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            found.append(Entry(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    return tuple(found)
