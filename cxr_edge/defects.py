"""Report an unexpected exception that occurred while one file was processed.

`reason` turns the exception into a sentence for the results, `traceback_text` into a traceback for --verbose and --log.
Both omit quoted parts of messages: Python and the decoders quote the data that they could not read, which may be a
patient's name.
"""

from __future__ import annotations

import re
import traceback

from cxr_edge.names import printable

__all__ = ["reason", "traceback_text"]

_QUOTED = re.compile(r"(?<!\w)b?(['\"]).*\1(?!\w)", re.DOTALL)
_MESSAGE_LENGTH = 200


def reason(error: BaseException) -> str:
    """Return one line with the error and what to do."""
    return (
        f"internal error: {_summary(error)}; this is a defect of cxr-edge: report it, with the traceback that --verbose "
        "or --log FILE gives"
    )


def traceback_text(error: BaseException) -> str:
    """Return the traceback of the exception, preceded by those of its causes."""
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    cause_text = f"{traceback_text(cause)}which led to:\n" if cause is not None else ""
    return f"{cause_text}{''.join(traceback.format_tb(error.__traceback__))}{_summary(error)}\n"


def _summary(error: BaseException) -> str:
    lines = _QUOTED.sub("'...'", str(error)).strip().splitlines()
    message = printable(lines[0])[:_MESSAGE_LENGTH] if lines else ""
    return f"{type(error).__name__}: {message}" if message else type(error).__name__
