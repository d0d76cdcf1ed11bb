"""What imagecodecs' decoders remark by logging, caught for the file at hand.

It exists because libpng's warnings would go to stderr without the file's name, and some of them say that data are damaged.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["remarks_of_imagecodecs"]

_thread = threading.local()


class _Catch(logging.Filter):
    """Keeps records of a thread that decodes from the handlers, and collects their messages."""

    def filter(self, record: logging.LogRecord) -> bool:
        caught: list[str] | None = getattr(_thread, "caught", None)
        if caught is None:
            return True
        caught.append(record.getMessage())
        return False


logging.getLogger("imagecodecs").addFilter(_Catch())


@contextmanager
def remarks_of_imagecodecs() -> Iterator[list[str]]:
    """The messages that imagecodecs logs in this thread within the block; they reach no handler."""
    caught: list[str] = []
    _thread.caught = caught
    try:
        yield caught
    finally:
        _thread.caught = None
