"""From an unexpected exception in the work on one file to that file's row and its traceback.

In: the exception; out: a sentence for the results, and a traceback for --verbose and --log. Quoted parts of messages are left
out of both: Python and the decoders quote what they could not read, which may be a patient's name.
"""

from __future__ import annotations

import re
import traceback

from cxr_edge.names import printable

__all__ = ["reason", "traceback_text"]

_QUOTED = re.compile(r"(?<!\w)b?(['\"]).*\1(?!\w)", re.DOTALL)
_MESSAGE_LENGTH = 200


def reason(error: BaseException) -> str:
    """What happened and what to do, in one line."""
    return (
        f"internal error: {_described(error)}; this is a defect of cxr-edge: report it, with the traceback that --verbose "
        "or --log FILE gives"
    )


def traceback_text(error: BaseException) -> str:
    """The frames of the exception and of those that led to it, the first one first."""
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    earlier = f"{traceback_text(before)}which led to:\n" if before is not None else ""
    return f"{earlier}{''.join(traceback.format_tb(error.__traceback__))}{_described(error)}\n"


def _described(error: BaseException) -> str:
    lines = _QUOTED.sub("'...'", str(error)).strip().splitlines()
    message = printable(lines[0])[:_MESSAGE_LENGTH] if lines else ""
    return f"{type(error).__name__}: {message}" if message else type(error).__name__
