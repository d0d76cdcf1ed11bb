"""Options of `screen` for the evidence log: options in, an open `EvidenceLog` out, or None."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

from cxr_edge.cli.arguments import at_least_one
from cxr_edge.errors import InputError
from cxr_edge.names import path_argument
from cxr_edge.screening.screener import FileResult, Screener

if TYPE_CHECKING:
    from cxr_edge.evidence import EvidenceLog

__all__ = ["add_evidence", "check_evidence", "logged", "open_evidence"]


def add_evidence(parser: argparse.ArgumentParser) -> None:
    """Add --evidence and what belongs to it."""
    group = parser.add_argument_group("evidence (docs/evidence.md)")
    group.add_argument(
        "--evidence", type=path_argument, metavar="DIR",
        help="append what was screened, with what and with which result to the log in DIR, which is made if it is missing",
    )  # fmt: skip
    group.add_argument(
        "--evidence-key",
        type=path_argument,
        metavar="FILE",
        help="private key (PEM, Ed25519) that signs the log's checkpoints",
    )
    group.add_argument(
        "--evidence-sync", type=at_least_one, default=1, metavar="N",
        help="wait for the disk after every N images (%(default)s): with more, a power cut may lose up to N - 1 lines",
    )  # fmt: skip
    group.add_argument(
        "--evidence-names", action="store_true", help="store the files' names too, which may name patients"
    )
    group.add_argument(
        "--site-key", type=path_argument, metavar="FILE",
        help="secret key for the hashes of names and UIDs, made if it is missing (default: site.key in DIR)",
    )  # fmt: skip


def check_evidence(args: argparse.Namespace) -> None:
    """Raise InputError for options of a log without a log."""
    given = [name for name in ("evidence_key", "evidence_names", "site_key") if getattr(args, name)]
    if given and args.evidence is None:
        raise InputError(f"--{given[0].replace('_', '-')} belongs to a log: give --evidence DIR too")


def open_evidence(args: argparse.Namespace, screener: Screener, workers: int, stack: ExitStack) -> EvidenceLog | None:
    """Return the log, which `stack` closes; None without --evidence. Raises InputError and OutputError as `EvidenceLog`."""
    if args.evidence is None:
        return None
    from cxr_edge.evidence import EvidenceLog, WriterSettings

    log = EvidenceLog(
        args.evidence,
        screener,
        key=args.evidence_key,
        site_key=args.site_key,
        names=args.evidence_names,
        options={
            "workers": workers,
            "max_pixels": args.max_pixels,
            "min_side_px": args.min_side,
            "require_signature": args.require_signature,
            "self_test": args.self_test,  # if it had failed, there would be no run
        },
        settings=WriterSettings(sync_every=args.evidence_sync),
    )
    return stack.enter_context(log)


def logged(results: Iterable[FileResult], log: EvidenceLog | None) -> Iterator[FileResult]:
    """Yield the results, each after its line is in the log."""
    for result in results:
        if log is not None:
            log.add(result)
        yield result
