"""`cxr-edge audit verify|show|export|prune DIR`: an evidence log in, whether it is intact, its lines, a part of it, or its
oldest files out.

Status 1 if the log is not intact.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_edge.cli.arguments import at_least_one
from cxr_edge.cli.output import Results, print_json, print_message, print_results
from cxr_edge.errors import InputError
from cxr_edge.evidence.constants import SIX_MONTHS_DAYS
from cxr_edge.names import json_text, path_argument, printable

if TYPE_CHECKING:
    from cxr_edge.evidence.lines import Line
    from cxr_edge.evidence.verification import Verification, VerifiedLine

__all__ = ["add_parser", "run"]

_NOT_INTACT = 1


def add_parser(subparsers: Any) -> None:
    """Declare the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "audit",
        help="verify, show, export or prune an evidence log",
        description="Verify, show, export or prune the log that `cxr-edge screen --evidence DIR` writes. "
        "Status 1 if it is not intact.",
    )
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")
    _add_verify(actions)
    _add_show(actions)
    _add_export(actions)
    _add_prune(actions)


def _add_verify(actions: Any) -> None:
    parser = _action(actions, "verify", "find a line that was changed, removed or moved", _verify)
    parser.add_argument("log", type=path_argument, metavar="DIR", help="folder of the log, or a file of `audit export`")
    parser.add_argument(
        "--key", type=path_argument, action="append", default=[], metavar="FILE",
        help="public key (PEM) of those who may sign checkpoints; can be given several times",
    )  # fmt: skip
    parser.add_argument(
        "--expect", action="append", default=[], metavar="HEAD",
        help="a head that was kept elsewhere (`audit show --head`): the log must have that line; can be given several times",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_show(actions: Any) -> None:
    parser = _action(actions, "show", "print the lines", _show)
    _add_log(parser)
    parser.add_argument("--since", type=at_least_one, default=1, metavar="N", help="from this line on (%(default)s)")
    parser.add_argument(
        "--head",
        action="store_true",
        help="print only the head: keep it elsewhere, and `audit verify --expect` finds a shortened log",
    )
    parser.add_argument("--uid", metavar="UID", help="only screenings of the image with this SOP Instance UID")
    parser.add_argument(
        "--site-key", type=path_argument, metavar="FILE", help="key of the hashed UIDs (default: site.key in DIR)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, with the whole records")


def _add_export(actions: Any) -> None:
    parser = _action(actions, "export", "write lines to a file, with the proof that they are of the log", _export)
    _add_log(parser)
    parser.add_argument(
        "--out", type=path_argument, required=True, metavar="FILE",
        help="file to write: NAME.csv is a table without proof, any other name JSON lines for `audit verify FILE`",
    )  # fmt: skip
    parser.add_argument(
        "--from", dest="first", type=at_least_one, default=1, metavar="N", help="first line (%(default)s)"
    )
    parser.add_argument("--to", dest="last", type=at_least_one, metavar="M", help="last line (default: of the log)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_prune(actions: Any) -> None:
    parser = _action(actions, "prune", "delete files that are older than the time for which the log is kept", _prune)
    _add_log(parser)
    parser.add_argument(
        "--keep-days", type=at_least_one, default=SIX_MONTHS_DAYS, metavar="N",
        help="delete files whose lines are all older (%(default)s: six months)",
    )  # fmt: skip
    parser.add_argument(
        "--shorter-than-six-months", action="store_true",
        help=f"allow less than {SIX_MONTHS_DAYS} days, where European law does not apply",
    )  # fmt: skip
    parser.add_argument(
        "--evidence-key", type=path_argument, metavar="FILE", help="private key that signs what was deleted"
    )
    parser.add_argument("--dry-run", action="store_true", help="only print what would be deleted")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _action(actions: Any, name: str, summary: str, function: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(
        name, help=summary, description=f"{summary[0].upper()}{summary[1:]}."
    )
    parser.set_defaults(run=function)
    return parser


def _add_log(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("log", type=path_argument, metavar="DIR", help="folder of the log")


def run(args: argparse.Namespace) -> int:
    """Run the chosen action and return the exit status."""
    return int(args.run(args))


def _verify(args: argparse.Namespace) -> int:
    from cxr_edge.evidence.export_verification import verify_export
    from cxr_edge.evidence.lines import Head
    from cxr_edge.evidence.verification import verify

    keys, expected = _keys(args.key), [Head.parse(text) for text in args.expect]
    check = verify_export if args.log.is_file() else verify
    found = check(args.log, keys=keys, expected=expected)
    if args.json:
        print_json(found.as_json())
    else:
        print_results("\n".join(_verification_lines(found)))
    return 0 if found.intact else _NOT_INTACT


def _verification_lines(found: Verification) -> list[str]:
    head = "none" if found.head is None else str(found.head)
    first = found.first or 0
    signed = f", signed through line {found.signed_through}" if found.signed_through is not None else ""
    last = first + found.lines - 1 if found.lines else 0
    verified = f"lines {first} to {last} in {found.files} files, {found.checkpoints} checkpoints{signed}"
    notes = [f"  {note}" for note in found.notes]
    if found.problem is None:
        return [f"intact: {verified}", *notes, f"head {head}"]
    p = found.problem
    where = f"{p.file}" + (f" line {p.line}" if p.line else "")
    return [f"NOT INTACT: {p.damage}: {where}: {p.message}", f"read before it: {verified}", *notes]


def _keys(files: Sequence[Path]) -> list[Any]:
    if not files:
        return []
    from cxr_edge.signing.keys import PublicKey  # whose package cryptography is an extra

    return [PublicKey.read(file) for file in files]


def _show(args: argparse.Namespace) -> int:
    from cxr_edge.evidence.verification import verify

    if args.head:
        found = verify(args.log)
        if found.intact and found.head is not None:
            print_results(str(found.head))
    elif args.json:
        found = _show_json(args)
    else:
        found = _show_lines(args)
    if found.problem is not None:
        print_message(f"NOT INTACT: {found.problem.damage}: {found.problem.file}: {found.problem.message}")
    return 0 if found.intact else _NOT_INTACT


def _show_lines(args: argparse.Namespace) -> Verification:
    from cxr_edge.evidence.verification import verify

    results, wanted = Results(), _filter(args)

    def visit(verified: VerifiedLine) -> None:
        if wanted(verified.line):
            results.write(_summary(verified) + "\n")

    found = verify(args.log, visit=visit)
    results.flush()
    return found


def _filter(args: argparse.Namespace) -> Callable[[Line], bool]:
    """Return whether a line is to be shown."""
    from cxr_edge.evidence.log import SITE_KEY_FILE
    from cxr_edge.evidence.records import ScreeningRecord, read_record
    from cxr_edge.evidence.site_key import SiteKey

    if args.uid is None:
        return lambda line: line.number >= args.since
    key = SiteKey.read(args.log / SITE_KEY_FILE if args.site_key is None else args.site_key)
    uid = key.hash_uid(args.uid)

    def has_uid(line: Line) -> bool:
        record = read_record(line) if line.number >= args.since else None
        return isinstance(record, ScreeningRecord) and record.input.uid == uid

    return has_uid


def _show_json(args: argparse.Namespace) -> Verification:
    """Print one document, line by line, since a log may be larger than memory."""
    from cxr_edge.evidence.verification import verify

    results, separator, wanted = Results(utf8=True), '{"lines": [\n', _filter(args)

    def visit(verified: VerifiedLine) -> None:
        nonlocal separator
        line = verified.line
        if wanted(line):
            value = {
                "number": line.number,
                "time": line.time,
                "kind": line.kind,
                "run": line.run,
                "record": line.record,
            }
            results.write(separator + json_text({**value, "digest": verified.digest}))
            separator = ",\n"

    found = verify(args.log, visit=visit)
    results.write(("\n" if separator == ",\n" else separator) + f'], "verification": {json_text(found.as_json())}}}\n')
    results.flush()
    return found


def _summary(verified: VerifiedLine) -> str:
    line = verified.line
    return f"{line.number:>7}  {line.time}  {line.kind:<10}  {_details(line)}"


def _details(line: Line) -> str:
    from cxr_edge.evidence.records import FailureRecord, RunEndRecord, RunRecord, ScreeningRecord, read_record

    record = read_record(line)
    if isinstance(record, RunRecord):
        engines = f"{record.execution}, cxr-edge {record.software.cxr_edge}, {record.machine.processor}"
        return printable(f"{record.bundle.name} {record.bundle.version} ({record.bundle.sha256[:12]}), {engines}")
    if isinstance(record, ScreeningRecord):
        name = record.input.sha256[:12] if record.input.source is None else record.input.source
        answer = record.decision or f"{record.outcome} ({record.reason})"
        dropped = f", without {', '.join(d.member for d in record.dropped)}" if record.dropped else ""
        return printable(
            f"{name}  {answer}, highest probability {max(record.probabilities):.3f}{dropped}, run {line.run}"
        )
    if isinstance(record, FailureRecord):
        name = record.input.source or record.input.sha256[:12] or "not read"
        return printable(f"{name}  failed: {record.error}")
    if isinstance(record, RunEndRecord):
        early = "" if record.complete else ", ended early"
        return f"run {line.run}: {record.screenings} screenings, {record.failures} failures{early}"
    return printable(
        ", ".join(f"{k} {v if not isinstance(v, list) else len(v)}" for k, v in line.record.items() if v is not None)
    )[:160]


def _export(args: argparse.Namespace) -> int:
    from cxr_edge.evidence.export import export_lines, export_table

    if args.last is not None and args.last < args.first:
        raise InputError(f"--from {args.first} is after --to {args.last}: give the first line and the last")
    table = args.out.suffix.lower() == ".csv"
    exported = (export_table if table else export_lines)(args.log, args.out, first=args.first, last=args.last)
    if args.json:
        print_json(
            {"file": str(args.out), "lines": exported.lines, "head": str(exported.head), "signed": exported.signed}
        )
        return 0
    end = (
        "a table without proof"
        if table
        else f"proof up to head {exported.head}, {'signed' if exported.signed else 'not signed'}"
    )
    print_results(f"{exported.lines} lines written to {printable(args.out)}; {end}")
    return 0


def _prune(args: argparse.Namespace) -> int:
    if args.keep_days < SIX_MONTHS_DAYS and not args.shorter_than_six_months:
        raise InputError(
            f"--keep-days {args.keep_days} is less than the six months ({SIX_MONTHS_DAYS} days) for which Regulation (EU) "
            "2024/1689 wants such logs kept: give more days, or --shorter-than-six-months"
        )
    from cxr_edge.evidence.retention import prune

    result = prune(args.log, keep_days=args.keep_days, key=_private(args.evidence_key), dry_run=args.dry_run)
    if args.json:
        print_json({"files": list(result.files), "lines": result.lines, "deleted": not args.dry_run})
        return 0
    verb = "would be deleted" if args.dry_run else "deleted"
    print_results(
        f"{len(result.files)} files with {result.lines} lines {verb}" + "".join(f"\n  {name}" for name in result.files)
    )
    return 0


def _private(file: Path | None) -> Any:
    if file is None:
        return None
    from cxr_edge.signing.keys import PrivateKey  # whose package cryptography is an extra

    return PrivateKey.read(file)
