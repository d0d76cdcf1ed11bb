"""Log sink for TensorRT: collects error messages instead of printing them, so that a BackendError can quote the cause.

NVIDIA's own logger writes to stdout, which is reserved for results. One log serves the whole process, because TensorRT uses
the first logger that it is given. The logger class can be defined only after TensorRT has been imported.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable
from typing import Any

from cxr_edge.errors import BackendError

__all__ = ["Log", "construct"]

_MAX_ERRORS = 8  # the first error of a failure usually names the cause


class Log:
    """The most recent TensorRT errors."""

    def __init__(self, trt: Any) -> None:
        self.errors: deque[str] = deque(maxlen=_MAX_ERRORS)
        self.logger = _logger_class(trt)(self.errors)  # the object to hand to TensorRT

    @staticmethod
    @functools.cache
    def of(trt: Any) -> Log:
        """Return the log of this process for the module `trt`."""
        return Log(trt)

    def error(self, failure: str) -> BackendError:
        """Return a BackendError with the failure and TensorRT's first logged reason, and clear the log."""
        reasons = list(self.errors)
        self.errors.clear()
        return BackendError(f"{failure}: {reasons[0] if reasons else 'TensorRT gave no reason'}")


def construct(factory: Callable[[Any], Any], log: Log, *, action: str) -> Any:
    """Return `factory(logger)`. Raises BackendError with the logged reason.

    Where TensorRT finds no GPU, its bindings raise a TypeError.
    """
    try:
        return factory(log.logger)
    except (TypeError, RuntimeError) as error:
        log.errors.append(str(error).splitlines()[0])
        raise log.error(f"TensorRT could not {action}") from error


def _logger_class(trt: Any) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self, errors: deque[str]) -> None:
            trt.ILogger.__init__(self)
            self._errors = errors

        def log(self, severity: Any, msg: str) -> None:  # called from TensorRT's threads too
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self._errors.append(" ".join(msg.split())[:400])

    return Logger
