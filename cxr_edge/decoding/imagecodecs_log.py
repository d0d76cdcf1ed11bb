"""Capture of the warnings that imagecodecs' decoders log, per thread.

It exists because libpng's warnings would go to stderr without the file's name, and some of them report damaged data.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["capture_imagecodecs_log"]

_thread = threading.local()


class _Capture(logging.Filter):
    """Collects the messages of a thread inside `capture_imagecodecs_log`, and keeps them from the handlers."""

    def filter(self, record: logging.LogRecord) -> bool:
        messages: list[str] | None = getattr(_thread, "messages", None)
        if messages is None:
            return True
        messages.append(record.getMessage())
        return False


logging.getLogger("imagecodecs").addFilter(_Capture())


@contextmanager
def capture_imagecodecs_log() -> Iterator[list[str]]:
    """Yield a list that receives the messages that imagecodecs logs in this thread; they reach no handler."""
    messages: list[str] = []
    _thread.messages = messages
    try:
        yield messages
    finally:
        _thread.messages = None
