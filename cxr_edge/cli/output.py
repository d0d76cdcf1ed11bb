"""Standard output for results, standard error for progress and messages.

Text is written in any locale, with unsafe characters escaped. Results that cannot be written (full disk, closed output, a
reader that ended) raise an OutputError; messages that cannot be written are dropped.
"""

from __future__ import annotations

import io
import json
import os
import sys
from typing import Any, TextIO

from cxr_edge.errors import OutputError
from cxr_edge.names import json_name, printable_lines
from cxr_edge.report import output_errors

__all__ = ["Results", "discard_results", "prepare_streams", "print_json", "print_message", "print_results"]

_STDOUT = "standard output"


class Results:
    """Standard output as a text stream that raises OutputErrors. utf8: use UTF-8 in every locale, as JSON requires."""

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
        """Write the buffered text."""
        with output_errors(_STDOUT):
            self._stream.flush()


def prepare_streams() -> None:
    """Make every character writable, and reserve closed descriptors 0 to 2, so that no opened file gets their number."""
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
    """Print text, or JSON that is ASCII, to standard output at once. Raises OutputError."""
    results = Results()
    results.write(f"{printable_lines(text)}\n")
    results.flush()


def print_json(document: dict[str, Any]) -> None:
    r"""Print a JSON document; bytes of names that are not UTF-8 are shown as \xHH. Raises OutputError."""
    print_results(json.dumps(_readable(document), indent=1))


def _readable(value: Any) -> Any:
    if isinstance(value, str):
        return json_name(value)[0]
    if isinstance(value, dict):
        return {_readable(k): _readable(v) for k, v in value.items()}
    return [_readable(v) for v in value] if isinstance(value, list | tuple) else value


def print_message(text: str) -> None:
    """Print a message to standard error."""
    try:
        print(printable_lines(text), file=sys.stderr, flush=True)
    except OSError:
        _discard(sys.stderr)


def discard_results() -> None:
    """Discard unwritten results, so that the interpreter does not fail on them again when it exits."""
    if sys.stdout is not None:
        _discard(sys.stdout)


def _discard(stream: TextIO) -> None:
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):  # a stream that the caller replaced, without a descriptor
        return
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)
