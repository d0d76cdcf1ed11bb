"""Entry point of the command line: takes arguments, returns the exit status.

Errors of cxr-edge and files that the system denies become one sentence on stderr and a status; any other exception is a
defect and keeps its traceback.
"""

from __future__ import annotations

import argparse
import errno
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from cxr_edge.cli import (
    audit,
    bench,
    build_engine,
    calibrate,
    check_data,
    compare,
    doctor,
    drift,
    import_networks,
    inspect,
    install,
    keys,
    replay,
    screen,
    self_test,
    sign,
    train,
    verify,
)
from cxr_edge.cli.output import Results, discard_results, prepare_streams, print_message
from cxr_edge.cli.signals import ending_signals, exit_status
from cxr_edge.errors import CxrEdgeError, InputError, OutputError
from cxr_edge.names import printable, printable_lines
from cxr_edge.version import __version__

__all__ = ["main"]

USAGE_ERROR, UNUSABLE, NOT_WRITTEN = 2, 3, 4
_NOT_WRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return the exit status. argv: without the program's name; None: sys.argv."""
    prepare_streams()
    try:
        try:
            with ending_signals():
                return _run(argv)
        finally:  # also after --help and --version, which raise SystemExit
            if sys.stdout is not None:
                Results().flush()
    except OutputError as error:
        discard_results()
        return _fail(error, NOT_WRITTEN)


def _run(argv: Sequence[str] | None) -> int:
    try:
        args = _parser().parse_args(argv)
        Results()  # detects a closed standard output before the work starts
        return int(args.run(args))
    except OutputError:
        raise
    except InputError as error:
        return _fail(error, USAGE_ERROR)
    except CxrEdgeError as error:
        return _fail(error, UNUSABLE)
    except OSError as error:
        if error.errno in _NOT_WRITABLE:
            name = printable(error.filename or "a temporary file")
            raise OutputError(
                f"{name} could not be written ({error.strerror}): free space, or give other folders"
            ) from None
        if error.filename is None:
            raise
        return _fail(
            f"{error.filename} cannot be used ({error.strerror}): check the path and its permissions", UNUSABLE
        )
    except KeyboardInterrupt as error:
        status, message = exit_status(error)
        print_message(f"cxr-edge: {message}")
        return status


def _fail(error: CxrEdgeError | str, status: int) -> int:
    print_message(f"cxr-edge: {error}")
    return status


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        super().error(printable_lines(message))  # the message repeats arguments

    def _print_message(self, message: str, file: Any = None) -> None:
        """Print help and version as results, because argparse ignores failed writes."""
        if file is not None and file is sys.stdout:
            Results().write(message)
        else:
            super()._print_message(message, file)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="cxr-edge",
        description="Compile chest X-ray ensembles for this machine and screen images with them. Research use only.",
    )
    parser.add_argument("--version", action="version", version=f"cxr-edge {__version__}")
    subparsers = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in (
        build_engine,
        screen,
        install,
        compare,
        drift,
        bench,
        inspect,
        self_test,
        doctor,
        calibrate,
        audit,
        replay,
        check_data,
        train,
        import_networks,
        sign,
        verify,
        keys,
    ):
        command.add_parser(subparsers)
    return parser
