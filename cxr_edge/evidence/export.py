"""Part of an evidence log in one file: lines with the proof that they are of the log, verifiable alone, or a table without it.

A proof begins with the line of the run that the first line belongs to and ends with the next checkpoint, or the end of the log.
Lines in between that were not requested are there as their SHA-256 only, which is all that the chain needs.
"""

from __future__ import annotations

import csv
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from cxr_edge.errors import InputError, OutputError
from cxr_edge.evidence.chain_records import Checkpoint, FileBegin
from cxr_edge.evidence.lines import Head, content_digest
from cxr_edge.evidence.records import FailureRecord, RunRecord, ScreeningRecord, read_record
from cxr_edge.evidence.verification import Verification, VerifiedLine, verify
from cxr_edge.names import printable

__all__ = ["EXPORT_SCHEMA", "Exported", "export_lines", "export_table"]

EXPORT_SCHEMA = "cxr-edge-evidence-export/1"

_COLUMNS = (
    *("number", "time", "kind", "input_sha256", "uid_hash", "name_hash", "source", "outcome", "reason", "decision"),
    *("probabilities", "flags", "dropped", "error", "bundle", "bundle_version", "bundle_sha256", "digest"),
)


@dataclass(frozen=True, kw_only=True)
class Exported:
    """Result of an export."""

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
