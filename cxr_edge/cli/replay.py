"""`cxr-edge replay DIR FILES...`: screen files again and compare each with its record in an evidence log; a table or JSON out.

Status 1 if a result is different, a file has no record, or the log is not intact.
"""

from __future__ import annotations

import argparse
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_edge.cli.arguments import add_bundle, add_engines, add_rebuild, add_signature, load_engines, open_bundle
from cxr_edge.cli.files import select
from cxr_edge.cli.output import print_json, print_message, print_results
from cxr_edge.digests import sha256_file
from cxr_edge.errors import InputError
from cxr_edge.evidence.constants import TOLERANCE
from cxr_edge.names import json_name, path_argument, printable
from cxr_edge.records import Failure
from cxr_edge.screening.folder import EncodedFile, Item
from cxr_edge.screening.screener import Screener

if TYPE_CHECKING:
    from cxr_edge.evidence.replay import Comparison, Entry, Log

__all__ = ["add_parser", "run"]

_DIFFERENT = 1
_GOOD = ("equal", "within tolerance")
_ORDER = (*_GOOD, "different", "other bundle", "no record", "not compared")
_IN_WORDS = {"equal": "equal bit for bit", "within tolerance": f"within {TOLERANCE:g}"}


def add_parser(subparsers: Any) -> None:
    """Declare the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "replay",
        help="screen files again and compare with an evidence log",
        description="Screen files again, by the options of their records in an evidence log, and say for each whether the result "
        f"is equal (bit for bit, or within {TOLERANCE:g} with the same decision and flags), and if not, what has changed since. "
        "Status 1 if one is different or has no record.",
    )
    parser.add_argument("log", type=path_argument, metavar="DIR", help="folder of the log")
    parser.add_argument("paths", nargs="+", metavar="PATH", help="files, folders or glob patterns")
    parser.add_argument(
        "--every",
        action="store_true",
        help="compare with every record of a file that was screened several times, not the latest",
    )
    parser.add_argument("--other-bundle", action="store_true", help="compare with records of another bundle too")
    add_bundle(parser)
    add_engines(parser)
    add_rebuild(parser)
    add_signature(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


@dataclass(frozen=True, kw_only=True)
class _File:
    """A file to compare."""

    source: str
    item: Item
    sha256: str  # empty if it could not be read
    reason: str = ""  # why it is not compared


@dataclass(frozen=True, kw_only=True)
class _Row:
    """Result for a file and a record of it."""

    file: _File
    status: str  # of `_ORDER`
    entry: Entry | None = None
    comparison: Comparison | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object."""
        entry, compared = self.entry, self.comparison
        return {
            "source": json_name(self.file.source)[0],
            "sha256": self.file.sha256 or None,
            "status": self.status,
            **({"error": self.file.reason} if self.file.reason else {}),
            "number": None if entry is None else entry.number,
            "time": None if entry is None else entry.time,
            "comparison": None if compared is None else compared.as_json(),
        }


def run(args: argparse.Namespace) -> int:
    """Screen again, compare, print, return the exit status."""
    from cxr_edge.evidence.replay import read_log

    files = [_file(item) for item in select(args.paths).items()]
    log = read_log(args.log, {file.sha256 for file in files if file.sha256}, every=args.every)
    bundle = open_bundle(args, args.bundle)
    screener = Screener(bundle, load_engines(args, bundle, threads=args.threads), threads=args.threads)
    rows = list(_rows(files, log, screener, other_bundle=args.other_bundle))
    counts = Counter(row.status for row in rows)
    problem = log.verification.problem
    if args.json:
        summary = {status.replace(" ", "_"): counts[status] for status in _ORDER}
        print_json(
            {
                "log": log.verification.as_json(),
                "tolerance": TOLERANCE,
                "summary": summary,
                "results": [row.as_json() for row in rows],
            }
        )
    else:
        print_results("\n".join([*_lines(rows), "", _summary(counts)]))
    if problem is not None:
        print_message(
            f"the log is NOT INTACT, so its records prove nothing: {problem.damage}: {problem.file}: {problem.message}"
        )
    return 0 if problem is None and all(row.status in _GOOD for row in rows) else _DIFFERENT


def _file(item: Item) -> _File:
    if isinstance(item, Failure):
        return _File(source=item.source, item=item, sha256="", reason=item.reason)
    if isinstance(item, EncodedFile):
        return _File(source=item.source, item=item, sha256=hashlib.sha256(item.data).hexdigest())
    try:
        return _File(source=str(item), item=item, sha256=sha256_file(Path(item)))
    except OSError as error:
        return _File(source=str(item), item=item, sha256="", reason=f"it cannot be read ({error.strerror})")


def _rows(files: Iterable[_File], log: Log, screener: Screener, *, other_bundle: bool) -> Iterator[_Row]:
    from cxr_edge.evidence.replay import options_of

    screeners: dict[str, Screener] = {}
    for file in files:
        if not file.sha256:
            yield _Row(file=file, status="not compared")
            continue
        entries = log.entries.get(file.sha256, ())
        if not entries:
            yield _Row(file=file, status="no record")
        for entry in entries:
            if entry.run.bundle.sha256 != screener.bundle.digest and not other_bundle:
                yield _Row(file=file, status="other bundle", entry=entry)
                continue
            options = options_of(entry.run, screener)
            try:
                if repr(options) not in screeners:
                    screeners[repr(options)] = Screener(screener.bundle, screener.engines, **options)
            except InputError as error:  # an option that this bundle cannot follow
                yield _Row(file=replace(file, reason=str(error)), status="not compared", entry=entry)
                continue
            yield _compared(file, entry, screeners[repr(options)])


def _compared(file: _File, entry: Entry, screener: Screener) -> _Row:
    from cxr_edge.evidence.replay import compare, limits_of, recorded, run_of

    item, limits = file.item, limits_of(entry.run)
    if isinstance(item, EncodedFile):
        result = screener.decode_and_screen(item.data, limits, source=item.source)
    else:
        result = screener.decode_and_screen(item, limits)
    comparison = compare(entry.result, entry.run, recorded(result), run_of(screener))
    return _Row(file=file, status=comparison.equality, entry=entry, comparison=comparison)


def _lines(rows: Iterable[_Row]) -> Iterator[str]:
    for row in rows:
        record = "" if row.entry is None else f"  (line {row.entry.number}, {row.entry.time})"
        yield f"{printable(row.file.source)}: {_IN_WORDS.get(row.status, row.status)}{record}"
        if row.file.reason:
            yield f"  {printable(row.file.reason)}"
        if row.status == "other bundle" and row.entry is not None:
            bundle = row.entry.run.bundle
            yield f"  recorded with {bundle.name} {bundle.version} ({bundle.sha256[:12]}...): give --bundle, or --other-bundle"
        if row.comparison is not None and row.status != "equal":
            yield from (f"  {difference}" for difference in row.comparison.differences)
            yield from (f"  because of {cause}" for cause in row.comparison.causes)
            if not row.comparison.causes:
                yield "  nothing that is recorded has changed, so it should be equal: is the machine sound?"


def _summary(counts: Counter[str]) -> str:
    shown = [
        f"{counts[status]} {_IN_WORDS.get(status, status)}" for status in _ORDER if counts[status] or status in _GOOD
    ]
    return f"{sum(counts.values())} compared: {', '.join(shown)}"
