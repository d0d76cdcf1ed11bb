"""Screening of one image within a deadline: an image in, outputs and checks out, in time or an error.

The order is lungs, checks, members, so that what comes last is what can be left out. Preprocessing is native code that nothing
ends early: an image so large that it takes the whole time is an error that comes late.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import numpy as np
import numpy.typing as npt

from cxr_edge.backends.base import Interruption
from cxr_edge.errors import BackendError
from cxr_edge.records import Image
from cxr_edge.screening.checker import Checked
from cxr_edge.screening.deadline import Call, Deadline, TimedRuns
from cxr_edge.screening.pipeline import HostPipeline, Outputs

__all__ = ["TimedPipeline"]

Frame = npt.NDArray[np.float32] | None
_CHECKER = "checker"
_AFTERWARDS_MS = 1.0  # kept for what follows the members: combination, decision and the switch between threads


class TimedPipeline:
    """A host pipeline with a deadline. Thread-safe."""

    def __init__(self, pipeline: HostPipeline, deadline_ms: float) -> None:
        self._pipeline, self._deadline_ms = pipeline, deadline_ms
        self._runs = TimedRuns()

    def run(
        self, image: Image, decode_ms: float, check: Callable[[Image, Frame], Checked]
    ) -> tuple[Outputs, Checked, float]:
        """Return outputs, checks, and the milliseconds of the checks. decode_ms: of the deadline that decoding took.

        Raises BackendError if no members could answer, or the image could not be checked, before the deadline.
        """
        deadline = Deadline(self._deadline_ms - decode_ms - min(_AFTERWARDS_MS, self._deadline_ms / 10))
        if not deadline.left_s():
            raise self._late(f"decoding took {decode_ms:.1f} ms")
        prepared = self._pipeline.prepare(image, deadline)
        if not deadline.left_s():
            raise self._late(f"decoding took {decode_ms:.1f} ms, {prepared.spent}")
        start = perf_counter()
        checked = self._checked(image, prepared.frame, check, deadline)
        checks_ms = 1e3 * (perf_counter() - start)
        return self._pipeline.classify(prepared, deadline), checked, checks_ms

    def _checked(
        self, image: Image, frame: Frame, check: Callable[[Image, Frame], Checked], deadline: Deadline
    ) -> Checked:
        def run(_: Interruption) -> Checked:
            return check(image, frame)

        ended = self._runs.run([Call(name=_CHECKER, run=run)], deadline)
        for error in ended.errors.values():
            raise error
        if _CHECKER in ended.late:
            raise self._late(f"the image could not be checked: {ended.late[_CHECKER]}")
        return ended.results[_CHECKER]

    def _late(self, reason: str) -> BackendError:
        return BackendError(
            f"no answer within the deadline of {self._deadline_ms:g} ms: {reason}; give a longer one (--deadline-ms), or smaller "
            "images"
        )
