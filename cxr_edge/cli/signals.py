"""Signals that end a program: SIGTERM and SIGHUP become exceptions, as Ctrl-C does.

So `with` and `finally` blocks run: hidden files of unfinished reports and scratch folders are removed, and the program says
what it leaves. The exit status is 128 + the signal's number, as a shell gives for a program that the signal ended.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Ended", "ending_signals", "exit_status"]

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


class Ended(KeyboardInterrupt):
    """The program is to end because of a signal other than Ctrl-C's."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def ending_signals() -> Iterator[None]:
    """Raise `Ended` for the signals within the block. Signals that are ignored (nohup) or handled already stay so."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return
    changed = [number for number in _SIGNALS if signal.getsignal(number) == signal.SIG_DFL]
    for number in changed:
        signal.signal(number, _raise)
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, signal.SIG_DFL)


def exit_status(error: KeyboardInterrupt) -> tuple[int, str]:
    """Return the exit status and the message of a run that a signal ended."""
    if isinstance(error, Ended):
        return 128 + error.number, f"ended by {signal.Signals(error.number).name}"
    return 128 + signal.SIGINT, "interrupted"


def _raise(number: int, _: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)  # the second one ends the program at once
    raise Ended(number)
