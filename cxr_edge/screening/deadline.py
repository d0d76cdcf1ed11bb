"""Runs that a deadline ends: calls of networks in, the results of those that ended in time out.

Each call runs in a thread of its own, so that the caller goes on at the deadline whatever a runtime does. The end of a run that
is late is requested (`backends.base.Interruption`, which ONNX Runtime heeds between two operators), and it is left to itself.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from time import perf_counter
from typing import Any, Generic, TypeVar

from cxr_edge.backends.base import Interruption

__all__ = ["Call", "Deadline", "Ended", "TimedRuns"]

Result = TypeVar("Result")

_LONGEST_EXIT_S = 1.0  # that the end of the process waits for runs that were left to themselves


class Deadline:
    """A point in time. ms: from now; it may have passed."""

    def __init__(self, ms: float) -> None:
        self._end = perf_counter() + ms / 1e3

    def left_s(self) -> float:
        """Return the seconds that are left; 0 if it has passed."""
        return max(0.0, self._end - perf_counter())

    def halved(self) -> Deadline:
        """Return the deadline after half of the time that is left."""
        return Deadline(500 * self.left_s())


@dataclass(frozen=True, kw_only=True)
class Call(Generic[Result]):
    """A run to be made. name: of the network; a network whose earlier run never ended is not run again beside it."""

    name: str
    run: Callable[[Interruption], Result]


@dataclass(frozen=True, kw_only=True)
class Ended(Generic[Result]):
    """Results of calls by name."""

    results: dict[str, Result] = field(default_factory=dict)
    errors: dict[str, Exception] = field(default_factory=dict)
    late: dict[str, str] = field(default_factory=dict)  # with the reasons, clauses


class _Worker:
    """A thread that makes one run after the other, and waits among the idle ones in between."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Callable[[], None]] = SimpleQueue()
        threading.Thread(target=self._work, name="run", daemon=True).start()

    def start(self, job: Callable[[], None]) -> None:
        self._jobs.put(job)

    def _work(self) -> None:
        while True:
            self._jobs.get()()
            _IDLE.append(self)


# Kept, since a network that runs in a new thread takes about a millisecond longer: its memory is all new.
_IDLE: deque[_Worker] = deque()

if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
    os.register_at_fork(after_in_child=_IDLE.clear)  # their threads are not copied


class _Run(Generic[Result]):
    """One call in a thread of its own."""

    def __init__(self, call: Call[Result], ended: SimpleQueue[tuple[str, Any]]) -> None:
        self.name, self.interruption, self.over = call.name, Interruption(), threading.Event()

        def work() -> None:
            try:
                result: Any = call.run(self.interruption)
            except Exception as error:  # whatever the call raises is passed on to the caller
                result = error
            ended.put((call.name, result))
            self.over.set()

        try:
            worker = _IDLE.pop()
        except IndexError:
            worker = _Worker()
        worker.start(work)


class TimedRuns:
    """Makes runs until a deadline. Several threads may share one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._left_alone: list[_Run[Any]] = []

    def run(self, calls: Sequence[Call[Result]], deadline: Deadline) -> Ended[Result]:
        """Run the calls one after the other, and return what had ended at the deadline.

        A run that takes longer than its share of the time left no longer holds up those after it, which then run beside it.
        """
        found: Ended[Result] = Ended()
        ended: SimpleQueue[tuple[str, Any]] = SimpleQueue()
        running: dict[str, _Run[Result]] = {}
        busy = self._busy()
        for i, call in enumerate(calls):
            left = deadline.left_s()
            if call.name in busy:
                found.late[call.name] = "its run for an earlier image has not ended yet"
            elif not left:
                found.late[call.name] = "the deadline came before its turn"
            else:
                running[call.name] = _Run(call, ended)
                turn = Deadline(1e3 * left / (len(calls) - i))
                _collect(found, ended, running, turn, until=call.name)
        _collect(found, ended, running, deadline)
        self._leave_alone(running.values())
        found.late.update(dict.fromkeys(running, "it had not ended at the deadline"))
        return found

    def _busy(self) -> set[str]:
        """Return the names of networks with a run that was left to itself and goes on."""
        with self._lock:
            self._left_alone = [run for run in self._left_alone if not run.over.is_set()]
            return {run.name for run in self._left_alone}

    def _leave_alone(self, runs: Iterable[_Run[Any]]) -> None:
        for run in runs:
            run.interruption.request()
            with self._lock:
                self._left_alone.append(run)
            _UNFINISHED.add(run)


def _collect(
    found: Ended[Result],
    ended: SimpleQueue[tuple[str, Any]],
    running: dict[str, _Run[Result]],
    deadline: Deadline,
    *,
    until: str | None = None,
) -> None:
    """Move results of runs that end before the deadline into `found`; return when all, or the one named `until`, have ended."""
    while running and (until is None or until in running):
        try:
            left = deadline.left_s()
            name, result = ended.get(timeout=left) if left else ended.get_nowait()
        except Empty:
            return
        del running[name]
        if isinstance(result, Exception):
            found.errors[name] = result
        else:
            found.results[name] = result


_UNFINISHED: weakref.WeakSet[_Run[Any]] = weakref.WeakSet()


@atexit.register
def _end_with_the_process() -> None:
    """Wait a little for runs whose end was requested, so that the runtime they are in is not taken down under them."""
    last = Deadline(1e3 * _LONGEST_EXIT_S)
    for run in list(_UNFINISHED):
        run.over.wait(last.left_s())
