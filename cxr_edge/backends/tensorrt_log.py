"""TensorRT's messages, kept instead of printed, so that an error of ours can quote the one that explains it.

NVIDIA's own logger writes to stdout, which is for results. One log serves a process, because TensorRT keeps the first
that it is given. Its class is made when TensorRT has been imported.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable
from typing import Any

from cxr_edge.errors import BackendError

__all__ = ["Log", "made"]

_KEPT = 8  # errors; the first of a failure usually says why


class Log:
    """The last errors. logger: the object to hand to TensorRT."""

    def __init__(self, trt: Any) -> None:
        self.errors: deque[str] = deque(maxlen=_KEPT)
        self.logger = _logger_class(trt)(self.errors)

    @staticmethod
    @functools.cache
    def of(trt: Any) -> Log:
        """The process's log for that module."""
        return Log(trt)

    def error(self, what: str) -> BackendError:
        """A BackendError that says what failed and why, as far as TensorRT said; forgets what it quotes."""
        said = list(self.errors)
        self.errors.clear()
        return BackendError(f"{what}: {said[0] if said else 'it gave no reason'}")


def made(kind: Callable[[Any], Any], log: Log, *, doing: str) -> Any:
    """`kind(logger)`. Raises BackendError where TensorRT finds no GPU, which its bindings report as a TypeError."""
    try:
        return kind(log.logger)
    except (TypeError, RuntimeError) as error:
        log.errors.append(str(error).splitlines()[0])
        raise log.error(f"TensorRT could not {doing}") from error


def _logger_class(trt: Any) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self, errors: deque[str]) -> None:
            trt.ILogger.__init__(self)
            self._errors = errors

        def log(self, severity: Any, msg: str) -> None:  # called from TensorRT's threads too
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self._errors.append(" ".join(msg.split())[:400])

    return Logger
