"""Output of the tracebacks of unexpected exceptions: to stderr with --verbose, to a file with --log.

Takes results; for each one with a traceback it writes time, file name and traceback. The reports contain only one sentence
per failure; the traceback is needed to report a defect.
"""

from __future__ import annotations

import argparse
import os
from datetime import datetime
from pathlib import Path

from cxr_edge.cli.output import print_message
from cxr_edge.errors import OutputError
from cxr_edge.names import path_argument, printable, printable_lines
from cxr_edge.report import output_errors
from cxr_edge.screening.screener import FileResult

__all__ = ["TracebackLog", "add_traceback_options"]


def add_traceback_options(parser: argparse.ArgumentParser) -> None:
    """Add --verbose and --log."""
    group = parser.add_argument_group("internal errors")
    group.add_argument("--verbose", action="store_true", help="print the tracebacks of internal errors on stderr")
    group.add_argument(
        "--log", type=path_argument, metavar="FILE", help="append the tracebacks of internal errors to this file"
    )


class TracebackLog:
    """Writes tracebacks.

    verbose: print them to stderr.
    log: append them to this file, which is created; None: no file. Raises OutputError if it cannot be written.
    """

    def __init__(self, *, verbose: bool, log: Path | None) -> None:
        self._verbose = verbose
        self._log = log
        if log is not None:
            self._open(log)

    def add(self, result: FileResult) -> None:
        """Write the traceback of the result, if it has one. Raises OutputError if the log cannot be written."""
        if not result.traceback:
            return
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        text = f"{now} {printable(result.outcome.source)}\n{printable_lines(result.traceback)}"
        if self._verbose:
            print_message(text.rstrip("\n"))
        if self._log is not None:
            with output_errors(self._log), self._log.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)

    @staticmethod
    def _open(log: Path) -> None:
        try:
            # Not to wait for a reader if the log is a FIFO.
            os.close(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK, 0o666))
        except OSError as error:
            raise OutputError(
                f"the log {printable(log)} cannot be written ({error.strerror}): give another file"
            ) from None
