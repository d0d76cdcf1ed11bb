"""Standard output for results and standard error for progress and remarks, as all commands use them.

In: text; out: text on the streams, in any locale, and an OutputError where results cannot be written (full disk, closed
output, a reader that went away). What goes to people is made printable; remarks that cannot be written are dropped.
"""

from __future__ import annotations

import io
import os
import sys
from typing import TextIO

from cxr_edge.errors import OutputError
from cxr_edge.names import printable_lines
from cxr_edge.report import output_errors

__all__ = ["Results", "discard_results", "prepare_streams", "print_results", "print_message"]

_STDOUT = "standard output"


class Results:
    """Standard output as a text stream whose failures are OutputErrors. utf8: whatever the locale, as JSON needs."""

    def __init__(self, *, utf8: bool = False) -> None:
        if sys.stdout is None:
            raise OutputError(f"the results could not be written to {_STDOUT}: it is closed")
        self._stream = sys.stdout
        if utf8 and isinstance(self._stream, io.TextIOWrapper):
            self._stream.reconfigure(encoding="utf-8")
        self.encoding = self._stream.encoding

    def write(self, text: str, /) -> int:
        """Write some text."""
        with output_errors(_STDOUT):
            return self._stream.write(text)

    def flush(self) -> None:
        """Write what is still buffered."""
        with output_errors(_STDOUT):
            self._stream.flush()


def prepare_streams() -> None:
    """Let no character fail, and keep a closed descriptor 0, 1 or 2 from being given to the next file that is opened."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115  # for the life of the process
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def print_results(text: str) -> None:
    """Print text for people or JSON that is ASCII. Raises OutputError."""
    Results().write(f"{printable_lines(text)}\n")


def print_message(text: str) -> None:
    """Print a remark."""
    try:
        print(printable_lines(text), file=sys.stderr, flush=True)
    except OSError:
        _discard(sys.stderr)


def discard_results() -> None:
    """Drop what standard output could not take, so that the interpreter does not fail on it again when it ends."""
    if sys.stdout is not None:
        _discard(sys.stdout)


def _discard(stream: TextIO) -> None:
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):  # a stream of a caller's, without a descriptor
        return
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)
