"""Deletion of old evidence: whole files whose newest line is older than the time for which a log is kept.

A line names the last line of each deleted file, before it is deleted, so that the rest can still be verified. At least six
months is what the European Union's regulation 2024/1689 asks of such logs, of providers in article 19(1) and of deployers in
article 26(6).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from cxr_edge.errors import InputError, OutputError
from cxr_edge.evidence.chain_records import Pruned, PrunedFile
from cxr_edge.evidence.constants import SIX_MONTHS_DAYS
from cxr_edge.evidence.folder import file_name, open_folder, output_errors, sync_folder
from cxr_edge.evidence.verification import VerifiedLine, verify
from cxr_edge.evidence.writer import ChainWriter, Signer, utc_now
from cxr_edge.names import printable

__all__ = ["PruneResult", "prune"]

_ASIDE = re.compile(r"torn-([0-9]+)\.bin")


@dataclass(frozen=True, kw_only=True)
class PruneResult:
    """Result of a deletion."""

    files: tuple[str, ...]
    lines: int


@dataclass(kw_only=True)
class _FileEnd:
    """Last line of a file, and the latest time in it: a clock may have gone back."""

    last: PrunedFile
    newest: str
    lines: int


def prune(
    folder: Path,
    *,
    keep_days: int = SIX_MONTHS_DAYS,
    key: Signer | None = None,
    dry_run: bool = False,
    clock: Callable[[], datetime] = utc_now,
) -> PruneResult:
    """Delete the oldest files whose lines are all older than `keep_days`; never the last file.

    key: signs a checkpoint after the line that names them. dry_run: only say which. The time is the machine's: raises
    InputError if it is before the newest line of the log, or if the log is not intact; nothing is deleted then.
    """
    if isinstance(keep_days, bool) or not isinstance(keep_days, int) or keep_days < 1:
        raise InputError(f"keep_days is a whole number of 1 or more, got {keep_days!r}")
    ends = _ends(folder)
    now, newest = clock(), max(end.newest for end in ends)
    if now < _time(newest):
        raise InputError(
            f"the clock of this machine ({now.isoformat(timespec='seconds')}) is behind the newest line of the log ({newest}): "
            "set it first; nothing was deleted"
        )
    old = _older(ends[:-1], now - timedelta(days=keep_days))
    lines = sum(end.lines for end in old)
    result = PruneResult(files=tuple(file_name(end.last.file) for end in old), lines=lines)
    if old and not dry_run:
        _write(folder, old, keep_days, key, clock)
        _delete(folder, old)
    return result


def _ends(folder: Path) -> list[_FileEnd]:
    ends: dict[int, _FileEnd] = {}

    def visit(verified: VerifiedLine) -> None:
        last = PrunedFile(file=verified.file, number=verified.line.number, digest=verified.digest)
        before = ends.get(verified.file) or _FileEnd(last=last, newest="", lines=0)
        newest = max(verified.line.time, before.newest)
        ends[verified.file] = _FileEnd(last=last, newest=newest, lines=before.lines + 1)

    found = verify(folder, visit=visit)
    if found.problem is not None:
        raise InputError(
            f"the evidence log in {printable(folder)} is not intact ({found.problem.message}): nothing was deleted, since it "
            "would remove the traces"
        )
    if not ends:
        raise InputError(f"the evidence log in {printable(folder)} has no lines yet: there is nothing to delete")
    return list(ends.values())


def _older(ends: list[_FileEnd], limit: datetime) -> list[_FileEnd]:
    """Return the files from the oldest on, up to the first that is to be kept."""
    old: list[_FileEnd] = []
    for end in ends:
        if _time(end.newest) >= limit:
            break
        old.append(end)
    return old


def _write(
    folder: Path, old: list[_FileEnd], keep_days: int, key: Signer | None, clock: Callable[[], datetime]
) -> None:
    writer = ChainWriter(folder, key=key, clock=clock)
    try:
        writer.append(
            Pruned(keep_days=keep_days, newest=max(end.newest for end in old), files=tuple(end.last for end in old))
        )
        writer.close()
    finally:
        writer.abandon()


def _delete(folder: Path, old: list[_FileEnd]) -> None:
    """Delete the files in their order, so that what is left always begins after one that the line names."""
    with output_errors(folder), _open_descriptor(folder) as descriptor:
        for end in old:
            (folder / file_name(end.last.file)).unlink(missing_ok=True)
            sync_folder(descriptor)
        for path in folder.iterdir():
            match = _ASIDE.fullmatch(path.name)
            if match and int(match[1]) <= old[-1].last.number:
                path.unlink(missing_ok=True)


@contextmanager
def _open_descriptor(folder: Path) -> Iterator[int]:
    """Yield a descriptor of the folder."""
    descriptor = open_folder(folder, create=False)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _time(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text.removesuffix("Z") + "+00:00").astimezone(timezone.utc)
    except ValueError:
        raise OutputError(
            f"the evidence log has a line with the time {text}, which is none: nothing was deleted"
        ) from None
