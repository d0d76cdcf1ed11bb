"""Writer of an evidence log: records in, lines on the disk out, chained, whatever kills the process and whoever else writes.

Several processes and threads may write into one folder: each line is written under a lock, after the last line that is there. A
line is on the disk before `append` returns. What a killed writer left incomplete is moved aside, and a line says so.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Protocol

from cxr_edge.errors import InputError, OutputError
from cxr_edge.evidence.chain_records import Checkpoint, FileBegin, Recovered, checkpoint_message
from cxr_edge.evidence.folder import (
    HEAD_FILE,
    aside_name,
    file_name,
    file_numbers,
    locked,
    open_folder,
    output_errors,
    read_head,
    read_tail,
    sync,
    sync_folder,
    write_head,
)
from cxr_edge.evidence.lines import BEFORE_FIRST, Head, Line, Record, content_digest, link, utc_text
from cxr_edge.names import printable
from cxr_edge.specs.json_fields import FieldError

__all__ = ["ChainWriter", "Signer", "WriterSettings"]


class Signer(Protocol):
    """A private key (`signing.keys.PrivateKey`)."""

    @property
    def key_id(self) -> str:
        """SHA-256 of the public key, hexadecimal."""
        ...

    def sign(self, data: bytes) -> bytes:
        """Return the signature, 64 bytes."""
        ...


@dataclass(frozen=True, kw_only=True)
class WriterSettings:
    """When a writer waits for the disk, signs, and begins a new file. Raises InputError for values below 1."""

    # Lines of `append` after which it waits for the disk. 1: every line is on the disk before `append` returns. More: a power
    # cut, but no kill, may lose the last lines that had been returned.
    sync_every: int = 1
    checkpoint_every: int = 1000  # lines between two checkpoints of this writer; one more is written by `close`
    file_bytes: int = 16 * 1024 * 1024  # from which on a new file begins
    file_days: int = 30  # the same, by the machine's clock, so that old files can be deleted

    def __post_init__(self) -> None:
        for name in ("sync_every", "checkpoint_every", "file_bytes", "file_days"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{name} of an evidence log is a whole number of 1 or more, got {value!r}")


@dataclass(kw_only=True)
class _File:
    """The file that lines are appended to."""

    number: int
    descriptor: int
    size: int
    begun: datetime


def utc_now() -> datetime:
    """Return the machine's time."""
    return datetime.now(timezone.utc)


class ChainWriter:
    """Appends lines to the log in a folder, which is created. Thread-safe; a forked child goes on with files of its own.

    key: for signed checkpoints; None for none. run: the record that other lines refer to by its number; it is repeated in every
    new file, so that each file can be read alone. Raises OutputError for whatever cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        *,
        key: Signer | None = None,
        run: Record | None = None,
        settings: WriterSettings = WriterSettings(),  # frozen
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self.folder = folder
        self._key, self._run, self._settings, self._clock = key, run, settings, clock
        self._mutex = threading.RLock()
        self._file: _File | None = None
        self._head = Head(log="", number=0, digest=BEFORE_FIRST)
        self._recovered: Recovered | None = None
        self._run_at: tuple[int, int] | None = None  # file and number of the line with `run`
        self._unsynced = self._unsigned = 0
        self._ends_with_begin = False  # found at the last opening
        self._process = os.getpid()
        self._folder = open_folder(folder, create=True)
        with self._exclusive():
            pass  # makes a new log, or finds out here that it cannot be used

    @property
    def head(self) -> Head:
        """The last line that this writer knows of."""
        return self._head

    def append(self, record: Record) -> Head:
        """Write a line. Returns its number and digest, once it is on the disk (see `WriterSettings.sync_every`)."""
        with self._exclusive():
            self._begin_lines()
            head = self._write(record, run=None if self._run_at is None else self._run_at[1])
            self._unsynced += 1
            self._unsigned += 1
            if self._key is not None and self._unsigned >= self._settings.checkpoint_every:
                self._write_checkpoint(self._key)
            if self._unsynced >= self._settings.sync_every:
                self._sync()
            return head

    def checkpoint(self) -> None:
        """Sign the log up to here, if there is a key and anything to sign, and wait for the disk."""
        with self._exclusive():
            if self._key is not None and self._unsigned:
                self._begin_lines()
                self._write_checkpoint(self._key)
            self._sync(wait_for_head=True)

    def close(self) -> None:
        """Write a checkpoint and close the files. A closed writer writes no more."""
        if self._folder >= 0:
            self.checkpoint()
            self.abandon()

    def abandon(self) -> None:
        """Close the files as they are."""
        with self._mutex:
            for descriptor in (self._folder, -1 if self._file is None else self._file.descriptor):
                if descriptor >= 0:
                    os.close(descriptor)
            self._folder, self._file = -1, None

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Keep other threads and processes out, at the end of the log as it is now."""
        with self._mutex:
            if self._folder < 0:
                raise InputError("this evidence log is closed: open it again")
            if self._process != os.getpid():  # locks and files of the parent are not this process' own
                self.abandon()
                self._process, self._run_at, self._unsynced, self._unsigned = os.getpid(), None, 0, 0
                self._folder = open_folder(self.folder, create=True)
            with locked(self._folder, self.folder), output_errors(self.folder):
                if not self._is_last():
                    self._reload()
                yield

    def _is_last(self) -> bool:
        """Return whether nobody else has written since."""
        file = self._file
        if file is None or os.fstat(file.descriptor).st_size != file.size:
            return False
        return not (self.folder / file_name(file.number + 1)).exists()

    def _reload(self) -> None:
        """Find the end of the log; move an incomplete line aside."""
        if self._file is not None:
            os.close(self._file.descriptor)
            self._file = None
        numbers, head = file_numbers(self.folder), self._read_head()
        if head is None:
            head = self._new_log(numbers)
        self._head = Head(log=head.log, number=0, digest=BEFORE_FIRST)
        if numbers:
            self._open_last(numbers)
        missing = None if self._agrees(head) else head
        aside = self._aside()
        if missing is not None or aside is not None:
            self._recovered, self._run_at = _recovered(aside, missing), None

    def _aside(self) -> Path | None:
        """Return the file of an incomplete line that no line of the log names yet."""
        # The first line of a file comes before the line that names what was moved aside.
        numbers = [self._head.number + 1, *([self._head.number] if self._ends_with_begin else [])]
        found = [self.folder / aside_name(n) for n in numbers if (self.folder / aside_name(n)).exists()]
        return found[0] if found else None

    def _read_head(self) -> Head | None:
        try:
            return read_head(self.folder)
        except FileNotFoundError:
            return None
        except FieldError as error:
            raise OutputError(
                f"{printable(self.folder / HEAD_FILE)} is damaged ({error.key or 'the whole file'} {error.message}): keep the "
                f"folder as it is for `cxr-edge audit verify`, and give another one for further evidence"
            ) from None

    def _new_log(self, numbers: list[int]) -> Head:
        if numbers:
            raise OutputError(
                f"{printable(self.folder)} has an evidence log without {HEAD_FILE}: keep the folder as it is for `cxr-edge audit "
                f"verify`, and give another one for further evidence"
            )
        head = Head(log=secrets.token_hex(16), number=0, digest=BEFORE_FIRST)
        write_head(self.folder, head)
        sync_folder(self._folder)
        parent = open_folder(self.folder.absolute().parent, create=False)
        sync_folder(parent)  # which has the name of the folder
        os.close(parent)
        return head

    def _open_last(self, numbers: list[int]) -> None:
        """Open the last file and set the head to the last complete line, in it or in the file before."""
        path = self.folder / file_name(numbers[-1])
        tail = read_tail(path)
        last = tail.last
        if last is None and len(numbers) > 1:
            last = read_tail(self.folder / file_name(numbers[-2])).last
        if last is not None:
            line = self._decode(last)
            self._ends_with_begin = line.kind == FileBegin.kind
            digest = link(line.previous, content_digest(last))
            self._head = Head(log=self._head.log, number=line.number, digest=digest)
        if tail.torn:
            self._move_aside(path, tail.complete)
        with path.open("rb") as file:
            begun = self._decode(file.readline().rstrip(b"\n")).time if tail.last is not None else ""
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._file = _File(number=numbers[-1], descriptor=descriptor, size=tail.complete, begun=_parse(begun))

    def _decode(self, content: bytes) -> Line:
        try:
            return Line.decode(content)
        except FieldError as error:
            raise OutputError(
                f"the evidence log in {printable(self.folder)} is damaged (its last line: {error.key or 'the whole'} "
                f"{error.message}): keep the folder as it is for `cxr-edge audit verify`, and give another one for further "
                "evidence"
            ) from None

    def _move_aside(self, path: Path, complete: int) -> None:
        """Copy the bytes after the last complete line to a file of their own, then cut them off."""
        aside = self.folder / aside_name(self._head.number + 1)
        with path.open("r+b") as file:
            file.seek(complete)
            torn, before = file.read(), aside.read_bytes() if aside.exists() else b""
            if not before.endswith(torn):
                unfinished = aside.with_name(f".{aside.name}.unfinished")
                with unfinished.open("wb") as copy:
                    copy.write(before + torn)
                    copy.flush()
                    sync(copy.fileno())
                unfinished.replace(aside)
                sync_folder(self._folder)
            file.truncate(complete)

    def _agrees(self, head: Head) -> bool:
        """Return whether the log has the line that head.json names, or may have it: it is looked for in the last file only."""
        if head.number >= self._head.number or self._file is None:
            return head == self._head
        with (self.folder / file_name(self._file.number)).open("rb") as file:
            for content in file:
                if content.startswith(b'{"number":%d,' % head.number):
                    content = content.removesuffix(b"\n")
                    return link(self._decode(content).previous, content_digest(content)) == head.digest
        return True

    def _begin_lines(self) -> None:
        """Write what has to come before a record: what was recovered, a new file, the run."""
        if self._file is not None and self._file.size > 0:
            self._write_recovered()  # first, since a new file begins with a new head.json
        if self._file is None or self._file.size == 0 or self._is_full(self._file):
            self._begin_file()
        self._write_recovered()
        if self._run is not None and self._file is not None and (self._run_at or (0, 0))[0] != self._file.number:
            number = self._head.number + 1
            self._write(self._run, run=number)
            self._run_at = (self._file.number, number)

    def _write_recovered(self) -> None:
        if self._recovered is not None:
            self._write(self._recovered, run=None)
            self._recovered = None

    def _is_full(self, file: _File) -> bool:
        old = self._clock() - file.begun > timedelta(days=self._settings.file_days)
        return old or file.size >= self._settings.file_bytes

    def _begin_file(self) -> None:
        """Begin the next file, or an empty one that a killed writer left."""
        if self._file is None or self._file.size > 0:
            number = 1 if self._file is None else self._file.number + 1
            if self._file is not None:
                self._sync(wait_for_head=True)
                os.close(self._file.descriptor)
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            descriptor = os.open(self.folder / file_name(number), flags, 0o666)
            self._file = _File(number=number, descriptor=descriptor, size=0, begun=self._clock())
            sync_folder(self._folder)
        self._file.begun = self._clock()
        self._write(FileBegin(log=self._head.log, file=self._file.number), run=None)

    def _write(self, record: Record, *, run: int | None) -> Head:
        assert self._file is not None  # `_begin_lines` has opened one
        line = Line(
            number=self._head.number + 1,
            previous=self._head.digest,
            time=utc_text(self._clock()),
            kind=record.kind,
            run=run,
            record=record.as_json(),
        )
        content = line.encode()
        _append(self._file, content + b"\n")
        self._file.size += len(content) + 1
        digest = link(line.previous, content_digest(content))
        self._head = Head(log=self._head.log, number=line.number, digest=digest)
        return self._head

    def _write_checkpoint(self, key: Signer) -> None:
        head = self._head
        signature = key.sign(checkpoint_message(head.log, head.number, head.digest))
        self._write(Checkpoint(key_id=key.key_id, signature=signature.hex()), run=None)
        self._unsigned = 0

    def _sync(self, *, wait_for_head: bool = False) -> None:
        if self._file is not None:
            sync(self._file.descriptor)
            write_head(self.folder, self._head, wait=wait_for_head)
        self._unsynced = 0


def _append(file: _File, data: bytes) -> None:
    """Write the bytes of a line whole, or none of them."""
    try:
        written = os.write(file.descriptor, data)
        if written != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError:
        with suppress(OSError):  # the next writer moves the rest aside
            os.ftruncate(file.descriptor, file.size)
        raise


def _recovered(aside: Path | None, missing: Head | None) -> Recovered:
    cut = None if aside is None else aside.read_bytes()
    return Recovered(
        cut_bytes=0 if cut is None else len(cut),
        cut_sha256=None if cut is None else hashlib.sha256(cut).hexdigest(),
        aside=None if aside is None else aside.name,
        expected_number=None if missing is None else missing.number,
        expected_digest=None if missing is None else missing.digest,
    )


def _parse(time: str) -> datetime:
    """Return the time of a line; of an empty text the machine's."""
    return datetime.fromisoformat(time.removesuffix("Z") + "+00:00") if time else utc_now()
