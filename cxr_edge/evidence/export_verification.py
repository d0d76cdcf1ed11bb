"""Verification of an exported part of an evidence log: its file in, whether it is intact out, without the log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cxr_edge.errors import InputError
from cxr_edge.evidence.chain_records import Checkpoint, checkpoint_message
from cxr_edge.evidence.export import EXPORT_SCHEMA
from cxr_edge.evidence.lines import LOG_ID, Head, Line, content_digest, link, require_digest
from cxr_edge.evidence.verification import Damage, Problem, Verification, Verifier
from cxr_edge.names import printable
from cxr_edge.specs.json_fields import FieldError, parse, require, require_integer, require_keys, require_object

__all__ = ["verify_export"]


@dataclass(frozen=True, kw_only=True)
class _ExportHead:
    """First line of an export."""

    log: str
    previous: str  # digest before the first line
    last: int | None  # last requested line; None for the last of the log


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """One of the other lines."""

    number: int
    content: str  # SHA-256 of the line of the log
    line: Line | None  # None for a line that is there as its SHA-256 only


def verify_export(file: Path, *, keys: Sequence[Verifier] = (), expected: Sequence[Head] = ()) -> Verification:
    """Verify a file that `export_lines` wrote; keys and expected as of `verify`. Raises InputError if it is no export."""
    try:
        head_line, *contents = file.read_bytes().split(b"\n")
    except OSError as error:
        raise InputError(f"{printable(file)} cannot be read ({error.strerror}): check path and permissions") from None
    checker = _ExportChecker(_read_head(head_line, file), file.name, keys, expected)
    result = checker.result
    result.problem = checker.check(contents)
    return result


class _ExportChecker:
    """One pass over the lines of an export."""

    def __init__(self, head: _ExportHead, name: str, keys: Sequence[Verifier], expected: Sequence[Head]) -> None:
        self.result = Verification(files=1)
        self._head, self._name = head, name
        self._keys = {key.key_id: key for key in keys}
        self._expected = {h.number: h for h in expected}
        self._digest, self._number = head.previous, 0

    def check(self, contents: Sequence[bytes]) -> Problem | None:
        """Return the first problem, or None."""
        for index, content in enumerate(contents, 2):
            problem = self._check_line(content, index) if content else None
            if problem is not None:
                return problem
        return self._check_end()

    def _check_line(self, content: bytes, index: int) -> Problem | None:
        try:
            entry = _entry(content)
            checkpoint = self._checkpoint(entry)
        except FieldError as error:
            return self._problem(
                "changed", index, f"is no line of an export: {error.key or 'the whole line'} {error.message}"
            )
        if self._number and entry.number != self._number + 1:
            return self._problem("missing", index, f"has number {entry.number}, expected {self._number + 1}")
        if entry.line is not None and entry.line.previous != self._digest:
            return self._problem("changed", index, "does not follow from the lines before: one of them was changed")
        if checkpoint is not None:
            self.result.checkpoints += 1
            reason = self._wrong_signature(checkpoint, entry.number)
            if reason:
                return self._problem("signature", index, reason)
        return self._count(entry, index)

    def _count(self, entry: _Entry, index: int) -> Problem | None:
        """Go on to the next line."""
        self._digest, self._number = link(self._digest, entry.content), entry.number
        expected = self._expected.get(self._number)
        if expected is not None and expected.digest != self._digest:
            return self._problem(
                "changed", index, f"(number {self._number}) is not the one that the expected head names"
            )
        self.result.first, self.result.lines = self.result.first or self._number, self.result.lines + 1
        self.result.head = Head(log=self._head.log, number=self._number, digest=self._digest)
        return None

    def _checkpoint(self, entry: _Entry) -> Checkpoint | None:
        line = entry.line
        return Checkpoint.from_json(line.record) if line is not None and line.kind == Checkpoint.kind else None

    def _wrong_signature(self, checkpoint: Checkpoint, number: int) -> str:
        """Return why the signature is wrong; empty if it is right, or without keys."""
        if not self._keys:
            return ""
        key = self._keys.get(checkpoint.key_id)
        if key is None:
            return f"is a checkpoint of another key ({checkpoint.key_id[:12]}...) than the given ones"
        message = checkpoint_message(self._head.log, number - 1, self._digest)
        if not key.verify(message, bytes.fromhex(checkpoint.signature)):
            return "is a checkpoint whose signature is invalid"
        self.result.signed_through = number - 1
        return ""

    def _check_end(self) -> Problem | None:
        last, first = self._number, self.result.first or 1
        for number in self._expected:
            if not first <= number <= last:
                reason = f"the export has lines {first} to {last}, the expected head names line {number}"
                return Problem(damage="truncated", file=self._name, line=0, message=reason)
        requested = self._head.last or 0
        if self._keys and (self.result.signed_through is None or self.result.signed_through < requested):
            after = f" after line {requested}" if requested else ""
            reason = f"no checkpoint{after} is signed by a given key"
            return Problem(damage="signature", file=self._name, line=0, message=reason)
        return None

    def _problem(self, damage: Damage, index: int, message: str) -> Problem:
        return Problem(damage=damage, file=self._name, line=index, message=f"line {index} {message}")


def _read_head(content: bytes, file: Path) -> _ExportHead:
    try:
        found = require_keys(parse(content), ["schema", "log", "previous", "first", "last"])
        require(found["schema"] == EXPORT_SCHEMA, "schema", EXPORT_SCHEMA, found["schema"])
        require(
            isinstance(found["log"], str) and bool(LOG_ID.fullmatch(found["log"])),
            "log",
            "the id of a log",
            found["log"],
        )
        require_digest(found["previous"], "previous")
        if found["last"] is not None:
            require_integer(found["last"], "last", least=1)
    except FieldError as error:
        raise InputError(
            f"{printable(file)} is no export of an evidence log ({error.key or 'its first line'} {error.message}): give a "
            "folder, or what `cxr-edge audit export` wrote"
        ) from None
    return _ExportHead(log=found["log"], previous=found["previous"], last=found["last"])


def _entry(content: bytes) -> _Entry:
    value = require_object(parse(content), "")
    if "content" in value:
        found = require_keys(value, ["number", "content"])
        require_integer(found["number"], "number", least=1)
        require_digest(found["content"], "content")
        return _Entry(number=found["number"], content=found["content"], line=None)
    line = Line.decode(content)
    return _Entry(number=line.number, content=content_digest(content), line=line)
