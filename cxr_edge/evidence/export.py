"""Part of an evidence log in one file: lines with the proof that they are of the log, verifiable alone, or a table without it.

A proof begins with the line of the run that the first line belongs to and ends with the next checkpoint, or the end of the log.
Lines in between that were not requested are there as their SHA-256 only, which is all that the chain needs.
"""

from __future__ import annotations

import csv
import json
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from cxr_edge.errors import InputError, OutputError
from cxr_edge.evidence.chain_records import Checkpoint, FileBegin, checkpoint_message
from cxr_edge.evidence.lines import LOG_ID, Head, Line, content_digest, link, require_digest
from cxr_edge.evidence.records import FailureRecord, RunRecord, ScreeningRecord, read_record
from cxr_edge.evidence.verification import Problem, Verification, VerifiedLine, Verifier, verify
from cxr_edge.names import printable
from cxr_edge.specs.json_fields import FieldError, parse, require, require_integer, require_keys, require_object

__all__ = ["EXPORT_SCHEMA", "Exported", "export_lines", "export_table", "verify_export"]

EXPORT_SCHEMA = "cxr-edge-evidence-export/1"

_COLUMNS = (
    *("number", "time", "kind", "input_sha256", "uid_hash", "name_hash", "source", "outcome", "reason", "decision"),
    *("probabilities", "flags", "dropped", "error", "bundle", "bundle_version", "bundle_sha256", "digest"),
)


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was exported."""

    lines: int  # that were requested and found
    head: Head  # of the last line of the proof
    signed: bool  # whether that is a checkpoint


def export_lines(folder: Path, out: Path, *, first: int = 1, last: int | None = None) -> Exported:
    """Write the lines `first` to `last` (None: the last one) with their proof.

    Raises InputError if the log is not intact or has no such lines, OutputError if the file cannot be written.
    """
    runs = _runs_of(folder, first, last)
    with _finished(out) as file:
        proof = _Proof(file, first, last, runs)
        found = _intact(folder, verify(folder, visit=proof.add))
        if found.head is None or proof.digest is None or not proof.lines:
            there = "none" if found.head is None else f"{found.first} to {found.head.number}"
            raise InputError(f"the evidence log has no lines from {first} to {last or 'its end'}, it has {there}")
    head = Head(log=found.head.log, number=proof.number, digest=proof.digest)
    return Exported(lines=proof.lines, head=head, signed=proof.signed)


class _Proof:
    """Writes the lines of a proof as they are read. runs: lines that are written whole too."""

    def __init__(self, file: TextIO, first: int, last: int | None, runs: set[int]) -> None:
        self.lines = self.number = 0
        self.digest: str | None = None
        self.signed = False
        self._file, self._first, self._last, self._runs = file, first, last, runs
        self._begin = min([first, *runs])

    def add(self, verified: VerifiedLine) -> None:
        """Write a line whole, as its SHA-256, or not at all."""
        line = verified.line
        after = self._last is not None and line.number > self._last
        if line.number < self._begin or (after and self.signed):
            return
        if self.digest is None:
            chain = {"log": verified.log, "previous": line.previous}
            head = {"schema": EXPORT_SCHEMA, **chain, "first": self._first, "last": self._last}
            self._file.write(json.dumps(head) + "\n")
        requested = line.number >= self._first and not after
        self.number, self.digest, self.signed = line.number, verified.digest, line.kind == Checkpoint.kind
        self.lines += requested
        if requested or self.signed or line.number in self._runs:
            self._file.write(verified.content.decode("ascii") + "\n")
        else:
            self._file.write(json.dumps({"number": line.number, "content": content_digest(verified.content)}) + "\n")


def export_table(folder: Path, out: Path, *, first: int = 1, last: int | None = None) -> Exported:
    """Write screenings and failures as CSV, one in each row, without a proof. Raises as `export_lines`."""
    count, runs = 0, dict[int, RunRecord]()
    with _finished(out) as file:
        rows = csv.DictWriter(file, _COLUMNS, lineterminator="\n")
        rows.writeheader()

        def visit(verified: VerifiedLine) -> None:
            nonlocal count
            line = verified.line
            record = read_record(line)
            if line.kind == FileBegin.kind:
                runs.clear()  # each file repeats the runs that it needs
            if isinstance(record, RunRecord):
                runs[line.number] = record
            wanted = first <= line.number <= (last or line.number)
            if wanted and isinstance(record, ScreeningRecord | FailureRecord):
                rows.writerow(_row(verified, record, runs.get(line.run or 0)))
                count += 1

        found = _intact(folder, verify(folder, visit=visit))
    if found.head is None:
        raise InputError(f"the evidence log in {printable(folder)} has no lines yet")
    return Exported(lines=count, head=found.head, signed=False)


def verify_export(file: Path, *, keys: Sequence[Verifier] = (), expected: Sequence[Head] = ()) -> Verification:
    """Verify a file that `export_lines` wrote. Raises InputError if it is none."""
    result = Verification(files=1)
    try:
        with file.open("rb") as opened:
            head = _export_head(opened.readline(), file)
            result.problem = _check_export(head, opened.read().split(b"\n"), file.name, keys, expected, result)
    except OSError as error:
        raise InputError(f"{printable(file)} cannot be read ({error.strerror}): check path and permissions") from None
    last = head["last"] or 0
    if result.problem is None and keys and (result.signed_through is None or result.signed_through < last):
        after = f" after line {last}" if last else ""
        reason = f"no checkpoint{after} is signed by a given key"
        result.problem = Problem(damage="signature", file=file.name, line=0, message=reason)
    return result


def _check_export(
    head: dict[str, Any],
    contents: list[bytes],
    name: str,
    keys: Sequence[Verifier],
    expected: Sequence[Head],
    result: Verification,
) -> Problem | None:
    digest, number = head["previous"], 0
    known = {key.key_id: key for key in keys}
    wanted = {h.number: h for h in expected}
    for index, content in enumerate(contents, 2):
        if not content:
            continue
        try:
            entry = _entry(content)
        except FieldError as error:
            reason = f"line {index} is no line of an export: {error.key or 'the whole line'} {error.message}"
            return Problem(damage="changed", file=name, line=index, message=reason)
        if number and entry.number != number + 1:
            reason = f"line {index} has number {entry.number}, expected {number + 1}"
            return Problem(damage="missing", file=name, line=index, message=reason)
        if entry.line is not None and entry.line.previous != digest:
            reason = (
                f"line {index} (number {entry.number}) does not follow from the lines before: one of them was changed"
            )
            return Problem(damage="changed", file=name, line=index, message=reason)
        if entry.line is not None and entry.line.kind == Checkpoint.kind:
            result.checkpoints += 1
            if known and (reason := _wrong_signature(entry.line, head["log"], digest, known)):
                return Problem(damage="signature", file=name, line=index, message=f"line {index}: {reason}")
            result.signed_through = entry.number - 1 if known else None
        digest, number = link(digest, entry.content), entry.number
        if number in wanted and wanted[number].digest != digest:
            reason = f"line {index} (number {number}) is not the one that the expected head names"
            return Problem(damage="changed", file=name, line=index, message=reason)
        result.first, result.lines = result.first or number, result.lines + 1
        result.head = Head(log=head["log"], number=number, digest=digest)
    return _unreached(name, expected, result)


def _unreached(name: str, expected: Sequence[Head], result: Verification) -> Problem | None:
    last = 0 if result.head is None else result.head.number
    for head in expected:
        if head.number > last or head.number < (result.first or 1):
            reason = f"the export has lines {result.first} to {last}, the expected head names line {head.number}"
            return Problem(damage="truncated", file=name, line=0, message=reason)
    return None


def _wrong_signature(line: Line, log: str, digest: str, keys: dict[str, Verifier]) -> str:
    checkpoint = Checkpoint.from_json(line.record)
    key = keys.get(checkpoint.key_id)
    if key is None:
        return f"the checkpoint is of another key ({checkpoint.key_id[:12]}...) than the given ones"
    valid = key.verify(checkpoint_message(log, line.number - 1, digest), bytes.fromhex(checkpoint.signature))
    return "" if valid else "the signature of the checkpoint is invalid"


@dataclass(frozen=True, kw_only=True)
class _Entry:
    number: int
    content: str  # SHA-256 of the line
    line: Line | None  # None for a line that is there as its SHA-256 only


def _entry(content: bytes) -> _Entry:
    value = require_object(parse(content), "")
    if "content" in value:
        found = require_keys(value, ["number", "content"])
        require_integer(found["number"], "number", least=1)
        require_digest(found["content"], "content")
        return _Entry(number=found["number"], content=found["content"], line=None)
    line = Line.decode(content)
    return _Entry(number=line.number, content=content_digest(content), line=line)


def _export_head(content: bytes, file: Path) -> dict[str, Any]:
    try:
        head = require_keys(parse(content), ["schema", "log", "previous", "first", "last"])
        require(head["schema"] == EXPORT_SCHEMA, "schema", EXPORT_SCHEMA, head["schema"])
        require(
            isinstance(head["log"], str) and bool(LOG_ID.fullmatch(head["log"])), "log", "the id of a log", head["log"]
        )
        require_digest(head["previous"], "previous")
        if head["last"] is not None:
            require_integer(head["last"], "last", least=1)
    except FieldError as error:
        raise InputError(
            f"{printable(file)} is no export of an evidence log ({error.key or 'its first line'} {error.message}): give a "
            "folder, or what `cxr-edge audit export` wrote"
        ) from None
    return head


def _runs_of(folder: Path, first: int, last: int | None) -> set[int]:
    """Return the numbers of the runs that the lines belong to."""
    runs: set[int] = set()

    def visit(verified: VerifiedLine) -> None:
        if first <= verified.line.number <= (last or verified.line.number) and verified.line.run is not None:
            runs.add(verified.line.run)

    _intact(folder, verify(folder, visit=visit))
    return runs


def _intact(folder: Path, found: Verification) -> Verification:
    if found.problem is not None:
        raise InputError(
            f"the evidence log in {printable(folder)} is not intact ({found.problem.message}): see `cxr-edge audit verify`; "
            "nothing was exported"
        )
    return found


def _row(verified: VerifiedLine, record: ScreeningRecord | FailureRecord, run: RunRecord | None) -> dict[str, Any]:
    line = verified.line
    row: dict[str, Any] = {"number": line.number, "time": line.time, "kind": line.kind, "digest": verified.digest}
    if run is not None:
        row |= {"bundle": run.bundle.name, "bundle_version": run.bundle.version, "bundle_sha256": run.bundle.sha256}
    if isinstance(record, FailureRecord):
        row["error"] = _cell(record.error)
    else:
        labels = () if run is None else run.labels
        row |= {
            "outcome": record.outcome,
            "reason": record.reason or "",
            "decision": _cell(record.decision or ""),
            "probabilities": " ".join(f"{k}={p!r}" for k, p in zip(labels, record.probabilities, strict=False)),
            "flags": " ".join(record.flags),
            "dropped": " ".join(d.member for d in record.dropped or ()),
        }
    given = record.input
    source = "" if given.source is None else _cell(printable(given.source))
    return {**row, "input_sha256": given.sha256, "uid_hash": given.uid or "", "name_hash": given.name, "source": source}


def _cell(text: str) -> str:
    """Return a text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.lstrip()[:1] in ("=", "+", "-", "@", "'") else text


@contextmanager
def _finished(out: Path) -> Iterator[TextIO]:
    """Yield a file that replaces `out` if the block ends without an error. Raises OutputError if it cannot be written."""
    unfinished = out.with_name(f".{out.name}.{secrets.token_hex(6)}")
    try:
        with unfinished.open("x", encoding="utf-8", newline="") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(out)
    except OSError as error:
        raise OutputError(f"{printable(out)} could not be written ({error.strerror}): give another file") from None
    finally:
        unfinished.unlink(missing_ok=True)
