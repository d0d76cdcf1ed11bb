"""Verification of an evidence log: a folder in, whether it is intact out, or the first line that is not, and in what way.

The log is read once, line by line, so that memory does not grow with it. Writers go on meanwhile: what they add later is not
read.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from cxr_edge.errors import InputError
from cxr_edge.evidence.chain_records import Checkpoint, FileBegin, Pruned, Recovered, checkpoint_message
from cxr_edge.evidence.folder import HEAD_FILE, Snapshot, file_name, snapshot
from cxr_edge.evidence.lines import BEFORE_FIRST, SCHEMA, Head, Line, content_digest, link
from cxr_edge.specs.json_fields import FieldError
from cxr_edge.version import __version__

__all__ = ["Damage", "Problem", "Verification", "VerifiedLine", "Verifier", "verify"]

Damage = Literal["changed", "missing", "reordered", "repeated", "truncated", "signature"]


class Verifier(Protocol):
    """A public key (`signing.keys.PublicKey`)."""

    @property
    def key_id(self) -> str:
        """SHA-256 of the key, hexadecimal."""
        ...

    def verify(self, data: bytes, signature: bytes) -> bool:
        """Return whether the signature is this key's."""
        ...


@dataclass(frozen=True, kw_only=True)
class Problem:
    """The first line that is not as it was written."""

    damage: Damage
    file: str
    line: int  # in the file, from 1; 0 for the file itself
    message: str


@dataclass(frozen=True, kw_only=True)
class VerifiedLine:
    """A line that is what the chain before it allows."""

    line: Line
    content: bytes
    digest: str
    file: int  # number of its file
    log: str  # id


@dataclass(kw_only=True)
class Verification:
    """Result of a verification."""

    head: Head | None = None  # the last line that was verified
    files: int = 0
    first: int | None = None  # number of the first line; above 1 if older ones were pruned
    lines: int = 0
    checkpoints: int = 0
    signed_by: tuple[str, ...] = ()  # ids of the keys of checkpoints
    signed_through: int | None = None  # number of the last line under a checkpoint whose signature was verified
    notes: list[str] = field(default_factory=list)
    problem: Problem | None = None

    @property
    def intact(self) -> bool:
        return self.problem is None

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object."""
        values = {**asdict(self), "signed_by": list(self.signed_by)}
        return {"intact": self.intact, **values, "head": None if self.head is None else str(self.head)}


def verify(
    folder: str | os.PathLike[str],
    *,
    keys: Sequence[Verifier] = (),
    expected: Sequence[Head] = (),
    visit: Callable[[VerifiedLine], None] | None = None,
) -> Verification:
    """Verify the log in a folder.

    keys: of those who may sign; without, signatures are counted and not verified. expected: heads that were kept elsewhere.
    visit: is called with each line, in order; the line before a problem may be the one that was changed. Raises InputError if
    there is no log.
    """
    files = snapshot(Path(folder))
    checker = _Checker(files, keys, expected)
    try:
        for verified in checker.run():
            if visit is not None:
                visit(verified)
        checker.finish()
    except _Found as found:
        checker.result.problem = found.problem
    return checker.result


class _Found(Exception):  # noqa: N818  # no error: it ends the reading
    def __init__(self, damage: Damage, file: str, line: int, message: str) -> None:
        super().__init__(message)
        self.problem = Problem(damage=damage, file=file, line=line, message=message)


@dataclass(frozen=True, kw_only=True)
class _Raw:
    """A line as it is in its file."""

    content: bytes  # without the newline
    complete: bool
    file: int
    index: int  # in the file, from 1

    @property
    def name(self) -> str:
        return file_name(self.file)


class _Checker:
    """One pass over the log."""

    def __init__(self, files: Snapshot, keys: Sequence[Verifier], expected: Sequence[Head]) -> None:
        self.result = Verification(files=len(files.sizes))
        self._files, self._keys = files, {key.key_id: key for key in keys}
        self._expected = list(expected)
        self._log = ""
        self._number, self._digest = 0, BEFORE_FIRST
        self._anchor: tuple[int, int, str] | None = (
            None  # last file, number and digest before the first line that is left
        )
        self._pruned: set[tuple[int, int, str]] = set()

    def run(self) -> Iterator[VerifiedLine]:
        """Yield the lines, as long as they are as they were written."""
        self._check_files()
        before: _Raw | None = None
        following = self._raw_lines()
        current = next(following, None)
        while current is not None:
            after = next(following, None)
            if not current.complete:
                self._check_torn(current)
                return
            yield self._check(current, before, after)
            before, current = current, after

    def finish(self) -> None:
        """Check what only the whole log shows. Raises _Found."""
        self._finish_head()
        if self._anchor is not None and self._anchor not in self._pruned:
            name = file_name(self._anchor[0])
            reason = f"the files up to {name} are missing, and no line says that they were pruned"
            raise _Found("missing", name, 0, reason)
        for expected in self._expected:
            self._check_unseen(expected)
        self._finish_signatures()

    def _finish_head(self) -> None:
        head = self._files.head
        if head is None:
            reason = f"{HEAD_FILE} {self._files.head_problem}, so lines at the end may be missing"
            raise _Found("missing", HEAD_FILE, 0, reason)
        if head.number > self._number:
            raise self._truncated(f"{HEAD_FILE} names line {head.number}", head.number)
        if self._log and head.log != self._log:
            raise _Found("changed", HEAD_FILE, 0, f"{HEAD_FILE} is of another log ({head.log}, here {self._log})")
        if head.number < self._number:
            behind = f"{HEAD_FILE} is {self._number - head.number} lines behind: a writer was killed, or is at work"
            self.result.notes.append(behind)

    def _finish_signatures(self) -> None:
        signed = self.result.signed_through
        if self._keys and signed is None:
            name = file_name(max(self._files.sizes, default=1))
            raise _Found("signature", name, 0, "no checkpoint is signed by a given key")
        if signed is not None:
            unsigned = self._number - signed - 1  # the checkpoint itself
            self.result.notes += [f"{unsigned} lines after the last signed checkpoint"] if unsigned > 0 else []
        elif self.result.checkpoints:
            self.result.notes.append("the signatures of the checkpoints were not verified: give --key")

    def _check_files(self) -> None:
        numbers = list(self._files.sizes)
        for before, after in itertools.pairwise(numbers):
            if after != before + 1:
                name = file_name(before + 1)
                raise _Found("missing", name, 0, f"{name} is missing")

    def _raw_lines(self) -> Iterator[_Raw]:
        for number, size in self._files.sizes.items():
            with (self._files.folder / file_name(number)).open("rb") as file:
                index = 0
                while (left := size - file.tell()) > 0:
                    content, index = file.readline(left), index + 1
                    complete = content.endswith(b"\n")
                    yield _Raw(content=content.removesuffix(b"\n"), complete=complete, file=number, index=index)

    def _check_torn(self, raw: _Raw) -> None:
        if raw.file != max(self._files.sizes):
            raise _Found("truncated", raw.name, raw.index, f"line {raw.index} is incomplete, and files follow")
        self.result.notes.append(
            f"the last line is incomplete ({len(raw.content)} bytes): a writer was killed; the next one moves it aside"
        )

    def _check(self, raw: _Raw, before: _Raw | None, after: _Raw | None) -> VerifiedLine:
        try:
            line = Line.decode(raw.content)
        except FieldError as error:
            reason = f"line {raw.index} is no line of a log: {error.key or 'the whole line'} {error.message}"
            raise _Found("changed", raw.name, raw.index, reason) from None
        if before is None and raw.file > 1:
            self._number, self._digest = line.number - 1, line.previous
            self._anchor = (raw.file - 1, self._number, self._digest)
        self._check_number(line, raw)
        if line.previous != self._digest:
            raise self._changed(line, raw, before, after)
        digest = link(line.previous, content_digest(raw.content))
        self._check_head(line.number, digest, raw)
        self._check_record(line, raw)
        self._count(line, digest)
        return VerifiedLine(line=line, content=raw.content, digest=digest, file=raw.file, log=self._log)

    def _count(self, line: Line, digest: str) -> None:
        self._number, self._digest = line.number, digest
        self.result.first = self.result.first or line.number
        self.result.lines += 1
        self.result.head = Head(log=self._log, number=line.number, digest=digest)

    def _check_number(self, line: Line, raw: _Raw) -> None:
        """Compare the number of a line with the one that follows the line before. Raises _Found."""
        expected, where = self._number + 1, f"line {raw.index} has number {line.number}, expected {self._number + 1}"
        if line.number < expected:
            raise _Found("repeated", raw.name, raw.index, f"{where}: a line was there before")
        if line.number > expected:
            if self._follows(raw, expected):
                raise _Found("reordered", raw.name, raw.index, f"{where}, which follows later")
            missing = f"{expected}" if line.number == expected + 1 else f"{expected} to {line.number - 1}"
            raise _Found("missing", raw.name, raw.index, f"{where}: number {missing} is missing before it")

    def _follows(self, raw: _Raw, number: int) -> bool:
        start = b'{"number":%d,' % number
        return any(r.content.startswith(start) for r in self._raw_lines() if (r.file, r.index) > (raw.file, raw.index))

    def _changed(self, line: Line, raw: _Raw, before: _Raw | None, after: _Raw | None) -> _Found:
        """Say which of two lines was changed: this one, if the line after it does not fit it either."""
        digest = link(line.previous, content_digest(raw.content))
        fits = self._fits_after(digest, line.number, after)
        if before is None or not fits:
            return _Found("changed", raw.name, raw.index, f"line {raw.index} (number {line.number}) was changed")
        reason = (
            f"line {before.index} (number {line.number - 1}) was changed: line {raw.index} has another digest of it"
        )
        return _Found("changed", before.name, before.index, reason)

    def _fits_after(self, digest: str, number: int, after: _Raw | None) -> bool:
        if after is None or not after.complete:
            head = self._files.head
            return head is None or head.number != number or head.digest == digest
        try:
            return Line.decode(after.content).previous == digest
        except FieldError:
            return True

    def _check_head(self, number: int, digest: str, raw: _Raw) -> None:
        for head, name in ((self._files.head, HEAD_FILE), *((h, "the expected head") for h in self._expected)):
            if head is not None and head.number == number and head.digest != digest:
                # With a line after it, the chain goes on from the line as it is: the head is of another.
                reason = f"line {raw.index} (number {number}) is not the one that {name} names: it, or one before it, was changed"
                raise _Found("changed", raw.name, raw.index, reason)

    def _check_record(self, line: Line, raw: _Raw) -> None:
        """Check what the log writes about itself. Raises _Found."""
        if (raw.index == 1) is not (line.kind == FileBegin.kind):
            raise _Found(
                "changed", raw.name, raw.index, f"line {raw.index} has kind {line.kind}, which belongs elsewhere"
            )
        try:
            if line.kind == FileBegin.kind:
                _check_schema(line)
                self._check_begin(FileBegin.from_json(line.record), raw)
            elif line.kind == Checkpoint.kind:
                self._check_checkpoint(Checkpoint.from_json(line.record), line, raw)
            elif line.kind == Pruned.kind:
                self._pruned |= {(f.file, f.number, f.digest) for f in Pruned.from_json(line.record).files}
            elif line.kind == Recovered.kind:
                self._check_recovered(Recovered.from_json(line.record), raw)
        except FieldError as error:
            reason = f"line {raw.index} is damaged: record.{error.key} {error.message}"
            raise _Found("changed", raw.name, raw.index, reason) from None

    def _check_begin(self, begin: FileBegin, raw: _Raw) -> None:
        if begin.file != raw.file:
            reason = f"{raw.name} has the content of {file_name(begin.file)}: it was renamed"
            raise _Found("reordered", raw.name, raw.index, reason)
        if self._log and begin.log != self._log:
            raise _Found(
                "changed", raw.name, raw.index, f"{raw.name} is of another log ({begin.log}, here {self._log})"
            )
        self._log = begin.log
        for expected in self._expected:
            if expected.log != begin.log:
                raise _Found(
                    "changed", raw.name, raw.index, f"the expected head is of log {expected.log}, this is {begin.log}"
                )

    def _check_checkpoint(self, checkpoint: Checkpoint, line: Line, raw: _Raw) -> None:
        self.result.checkpoints += 1
        self.result.signed_by = tuple(sorted({*self.result.signed_by, checkpoint.key_id}))
        if not self._keys:
            return
        key = self._keys.get(checkpoint.key_id)
        if key is None:
            reason = f"the checkpoint in line {raw.index} is of another key ({checkpoint.key_id[:12]}...) than the given ones"
            raise _Found("signature", raw.name, raw.index, reason)
        message = checkpoint_message(self._log, line.number - 1, line.previous)
        if not key.verify(message, bytes.fromhex(checkpoint.signature)):
            reason = f"the signature of the checkpoint in line {raw.index} is invalid"
            raise _Found("signature", raw.name, raw.index, reason)
        self.result.signed_through = line.number - 1

    def _check_recovered(self, recovered: Recovered, raw: _Raw) -> None:
        if recovered.expected_number is not None:
            reason = (
                f"line {raw.index}: when the log was opened, it ended before line {recovered.expected_number} or had another "
                f"one, although {HEAD_FILE} named it: lines were removed or changed before this one"
            )
            raise _Found("truncated", raw.name, raw.index, reason)
        self.result.notes.append(
            f"{raw.name} line {raw.index}: {recovered.cut_bytes} bytes of a line that a killed writer left are in "
            f"{recovered.aside}"
        )

    def _check_unseen(self, expected: Head) -> None:
        """Check an expected head that no line of the log had the number of."""
        if self._log and expected.log != self._log:
            raise _Found("changed", HEAD_FILE, 0, f"the expected head is of log {expected.log}, this is {self._log}")
        if expected.number > self._number:
            raise self._truncated(f"the expected head names line {expected.number}", expected.number)
        first = self.result.first or 1
        if expected.number < first and expected.number != first - 1:
            self.result.notes.append(f"the expected head (line {expected.number}) was pruned and cannot be compared")
        elif self._anchor is not None and expected.number == first - 1 and expected.digest != self._anchor[2]:
            raise _Found(
                "changed", HEAD_FILE, 0, f"the expected head is not the last line that was pruned ({first - 1})"
            )

    def _truncated(self, what: str, number: int) -> _Found:
        last = max(self._files.sizes, default=1)
        reason = f"the log ends with line {self._number}, {what}: {number - self._number} or more lines at its end are missing"
        return _Found("truncated", file_name(last), 0, reason)


def _check_schema(line: Line) -> None:
    """Raise InputError for a file of a later version, which is no damage."""
    schema = line.record.get("schema")
    if isinstance(schema, str) and re.fullmatch(r"cxr-edge-evidence/[0-9]{1,6}", schema) and schema != SCHEMA:
        raise InputError(
            f"the evidence log has schema {schema}, this cxr-edge ({__version__}) knows {SCHEMA}: use the version that wrote it"
        )
