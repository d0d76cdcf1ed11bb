"""`cxr-edge install NEW --into BOX`: install a bundle beside the one in use, and switch to it when every step has passed.

`--rollback` goes back to the version before, `--list` shows what is installed. Exit status 1 if nothing was switched because
more verdicts change than `--max-changed`; a step that fails has the status of its error, and leaves the version in use.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_edge.bundle import Bundle
from cxr_edge.changes import DEFAULT_MAX_CHANGED
from cxr_edge.cli.arguments import add_gpu, add_runtime, add_signature, at_least_one, share_or_percent
from cxr_edge.cli.build_engine import add_settings, build_settings
from cxr_edge.cli.files import report_skipped, select
from cxr_edge.cli.output import print_json, print_message, print_results
from cxr_edge.errors import InputError
from cxr_edge.installation import DEFAULT_KEPT
from cxr_edge.names import not_empty, path_argument, printable

if TYPE_CHECKING:
    from cxr_edge.installation.box import Box
    from cxr_edge.installation.install import Installation, InstallRequest
    from cxr_edge.installation.signed import RequiredSignature

__all__ = ["add_parser", "run"]

_REFUSED = 1
_EVENTS_SHOWN = 10


def add_parser(subparsers: Any) -> None:
    """Add the `install` command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "install",
        help="install a bundle beside the one in use, and switch to it when it has passed",
        description="Copy a bundle into a folder of installed versions, build its engines, compare them with the fp32 "
        "networks, self-test them, and switch to the new version in one step; whatever fails leaves the version in use.",
    )
    parser.add_argument(
        "bundle", nargs="?", type=not_empty, metavar="NEW", help="folder of the bundle; `starter` is the packaged one"
    )
    parser.add_argument(
        "--into", type=path_argument, required=True, metavar="BOX", help="folder of the installed versions"
    )
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--rollback", action="store_true", help="go back to the version before the one in use")
    other.add_argument("--list", action="store_true", help="show the installed versions and what happened")
    compared = parser.add_argument_group("comparison before the switch")
    compared.add_argument(
        "--compare", nargs="+", metavar="PATH",
        help="screen these files, folders or patterns with the version in use and the new one, and report what changes",
    )  # fmt: skip
    compared.add_argument(
        "--max-changed", type=share_or_percent, default=DEFAULT_MAX_CHANGED, metavar="SHARE",
        help="do not switch if the verdict of more of these files changes, such as 0.05 or 5%% (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--keep",
        type=at_least_one,
        default=DEFAULT_KEPT,
        metavar="N",
        help="versions to keep, with the one in use (%(default)s)",
    )
    add_runtime(parser)
    add_settings(parser)
    add_gpu(parser)
    add_signature(parser)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.set_defaults(run=run, usage_error=parser.error)


def run(args: argparse.Namespace) -> int:
    """Install, roll back or list; print the report, return the exit status."""
    if (args.bundle is None) is not (args.rollback or args.list):
        args.usage_error("expected NEW, or --rollback or --list without it")
    if args.list:
        return _list(args)
    result = _rolled_back(args) if args.rollback else _installed(args)
    if args.json:
        print_json(result.as_json())
    else:
        print_results("\n".join(result.lines()))
    refused = result.comparison is not None and not result.switched
    return _REFUSED if refused else 0


def _installed(args: argparse.Namespace) -> Installation:
    from cxr_edge.installation.install import install  # imports onnx

    request = _request(args)  # before the work starts: the files must exist
    return install(Bundle.open(args.bundle), _box(args.into, create=True), request, say=print_message)


def _request(args: argparse.Namespace) -> InstallRequest:
    from cxr_edge.installation.install import InstallRequest

    return InstallRequest(
        settings=build_settings(args),
        backend=args.backend,
        threads=args.threads,
        compare=None if args.compare is None else _files(args.compare),
        max_changed=args.max_changed,
        keep=args.keep,
        signature=_signature(args),
    )


def _files(paths: list[str]) -> tuple[object, ...]:
    selection = select(paths)
    report_skipped(selection)
    return tuple(selection.items())


def _rolled_back(args: argparse.Namespace) -> Installation:
    from cxr_edge.installation.install import roll_back

    if args.compare is not None:
        raise InputError("--compare goes with a new version: leave it out with --rollback")
    return roll_back(_box(args.into), backend=args.backend, threads=args.threads, signature=_signature(args))


def _signature(args: argparse.Namespace) -> RequiredSignature | None:
    from cxr_edge.installation.signed import RequiredSignature

    return RequiredSignature(trusted_keys=args.trusted_keys, state=args.state) if args.require_signature else None


def _box(path: Path, *, create: bool = False) -> Box:
    from cxr_edge.installation.box import Box

    return Box.at(path, create=create)


def _list(args: argparse.Namespace) -> int:
    from cxr_edge.installation import journal

    box = _box(args.into)
    current, previous, events = box.current(), box.previous(), journal.read(box.journal)
    if args.json:
        versions = [record.as_json() for record in box.installed()]
        before = None if previous is None else previous.folder
        history = [vars(event) for event in events]
        print_json({"current": current, "previous": before, "versions": versions, "events": history})
        return 0
    lines = []
    for record in box.installed():
        use = "  in use" if record.folder == current else ""
        back = "  --rollback goes here" if previous is not None and record.folder == previous.folder else ""
        lines.append(f"{record}, installed {record.installed}, {printable(record.engines)}{use}{back}")
    lines = lines or ["no version is installed"]
    print_results("\n".join([*lines, *(["", "Events"] if events else []), *map(str, events[-_EVENTS_SHOWN:])]))
    return 0
