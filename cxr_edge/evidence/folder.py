"""Files of an evidence log: their names, the lock, head.json, the last line of a file, durable writes.

`head.json` has number and digest of the last line that is on the disk. It is written after that line, so it may be behind the log
after a crash, and never ahead of it.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cxr_edge.errors import InputError, OutputError
from cxr_edge.evidence.lines import BEFORE_FIRST, LOG_ID, SCHEMA, Head, require_digest
from cxr_edge.names import printable
from cxr_edge.specs.json_fields import FieldError, parse, require, require_integer, require_keys

__all__ = [
    "HEAD_FILE",
    "Snapshot",
    "Tail",
    "aside_name",
    "file_name",
    "file_numbers",
    "locked",
    "open_folder",
    "output_errors",
    "read_head",
    "read_tail",
    "snapshot",
    "sync",
    "sync_folder",
    "write_head",
]

HEAD_FILE = "head.json"

_FILE = re.compile(r"evidence-([0-9]{6})\.jsonl")
_HEAD_BYTES = 256  # less than a sector of any disk
_MAX_HEAD_BYTES = 4096
_BLOCK = 1 << 16
_NO_SYNC = (
    errno.EINVAL,
    errno.EACCES,
    errno.EBADF,
    errno.EROFS,
    errno.ENOTSUP,
)  # file systems without fsync, of folders


@dataclass(frozen=True, kw_only=True)
class Tail:
    """End of a file."""

    last: bytes | None  # the last complete line without its newline; None if there is none
    complete: int  # bytes up to its end
    torn: int  # bytes after it, of an incomplete line


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The files at one moment, while nobody writes."""

    folder: Path
    sizes: dict[int, int]  # in bytes, by number of the file, in their order
    head: Head | None  # of head.json; None if it is missing or cannot be read
    head_problem: str  # why there is no head; empty if there is one


def file_name(number: int) -> str:
    """Return the name of a file of the log."""
    return f"evidence-{number:06}.jsonl"


def aside_name(number: int) -> str:
    """Return the name of the file with the bytes of the line `number` that was not completed."""
    return f"torn-{number}.bin"


def file_numbers(folder: Path) -> list[int]:
    """Return the numbers of the files of the log, ascending."""
    return sorted(int(match[1]) for match in map(_FILE.fullmatch, os.listdir(folder)) if match)


def open_folder(folder: Path, *, create: bool) -> int:
    """Return a descriptor of the folder, for the lock. Raises InputError if there is none, OutputError if it cannot be made."""
    try:
        if create:
            folder.mkdir(parents=True, exist_ok=True)
        return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        if create:
            raise _unwritable(folder, error) from None
        raise InputError(
            f"{printable(folder)} is no folder with an evidence log ({error.strerror}): give the DIR of --evidence"
        ) from None


@contextmanager
def locked(descriptor: int, folder: Path) -> Iterator[None]:
    """Keep other writers out until the block has ended; the lock ends with its process. Raises OutputError without locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        raise OutputError(
            f"{printable(folder)} cannot be locked ({error.strerror}), and two programs that write at a time would break the "
            "log: give a folder on another file system"
        ) from None
    try:
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


@contextmanager
def output_errors(folder: Path) -> Iterator[None]:
    """Convert an OSError of the block into an OutputError that names the log."""
    try:
        yield
    except OSError as error:
        raise _unwritable(folder, error) from None


def snapshot(folder: Path) -> Snapshot:
    """Return the files of a log. Raises InputError if the folder has none."""
    descriptor = open_folder(folder, create=False)
    try:
        with locked(descriptor, folder):
            sizes = {number: os.stat(folder / file_name(number)).st_size for number in file_numbers(folder)}
            head, problem = _head_or_problem(folder)
    finally:
        os.close(descriptor)
    if not sizes and not (folder / HEAD_FILE).exists():
        raise InputError(f"{printable(folder)} has no evidence log in it: give the DIR of --evidence")
    return Snapshot(folder=folder, sizes=sizes, head=head, head_problem=problem)


def read_tail(path: Path) -> Tail:
    """Return the end of a file of the log."""
    with path.open("rb") as file:
        size = position = file.seek(0, os.SEEK_END)
        data = b""
        while position > 0 and data.count(b"\n") < 2:
            position = max(0, position - _BLOCK)
            file.seek(position)
            data = file.read(size - position)
    end = data.rfind(b"\n") + 1
    if not end:
        return Tail(last=None, complete=0, torn=size)
    start = data.rfind(b"\n", 0, end - 1) + 1
    return Tail(last=data[start : end - 1], complete=position + end, torn=len(data) - end)


def read_head(folder: Path) -> Head:
    """Read head.json. Raises FieldError if it is damaged, OSError if it cannot be read."""
    with (folder / HEAD_FILE).open("rb") as file:
        found = require_keys(parse(file.read(_MAX_HEAD_BYTES)), ["schema", "log", "number", "digest"])
    require(found["schema"] == SCHEMA, "schema", SCHEMA, found["schema"])
    require(
        isinstance(found["log"], str) and bool(LOG_ID.fullmatch(found["log"])), "log", "the id of a log", found["log"]
    )
    require_integer(found["number"], "number", least=0)
    require_digest(found["digest"], "digest")
    require(found["number"] > 0 or found["digest"] == BEFORE_FIRST, "digest", BEFORE_FIRST, found["digest"])
    return Head(log=found["log"], number=found["number"], digest=found["digest"])


def write_head(folder: Path, head: Head, *, wait: bool = True) -> None:
    """Write head.json. To be called with the lock, after the line that it names is on the disk. wait: until it is there too.

    All its contents have one length, within a sector, and are written over each other: neither a kill nor a power cut leaves half
    of one, and without waiting it is the earlier one at worst.
    """
    values = {"schema": SCHEMA, "log": head.log, "number": head.number, "digest": head.digest}
    content = json.dumps(values).encode("ascii").ljust(_HEAD_BYTES - 1) + b"\n"
    path = folder / HEAD_FILE
    if not path.exists() or path.stat().st_size != len(content):
        _make_head(folder, content)
        return
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.pwrite(descriptor, content, 0)
        if wait:
            sync(descriptor)
    finally:
        os.close(descriptor)


def _make_head(folder: Path, content: bytes) -> None:
    """Write a new head.json, complete or not at all."""
    unfinished = folder / f".{HEAD_FILE}.unfinished"
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        os.write(descriptor, content)
        sync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(unfinished, folder / HEAD_FILE)


def sync(descriptor: int) -> None:
    """Wait until the file is on the disk."""
    try:
        os.fdatasync(descriptor) if hasattr(os, "fdatasync") else os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def sync_folder(descriptor: int) -> None:
    """Wait until the names in a folder are on the disk."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def _head_or_problem(folder: Path) -> tuple[Head | None, str]:
    try:
        return read_head(folder), ""
    except FieldError as error:
        return None, f"{error.key or 'the whole file'} {error.message}"
    except OSError as error:
        return None, "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"


def _unwritable(folder: Path, error: OSError) -> OutputError:
    return OutputError(
        f"the evidence log in {printable(folder)} cannot be written ({error.strerror}): free space, or give a folder that can be "
        "written"
    )
