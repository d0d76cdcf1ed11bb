"""Comparison of answers for the self-test: screenings, the reference's probabilities and those of the build in, a finding out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cxr_edge.compiler.parity import TIE, largest_shift
from cxr_edge.compiler.samples import KNOWN_ANSWER_TOLERANCE
from cxr_edge.compiler.verdicts import probabilities_of
from cxr_edge.engines import Measured
from cxr_edge.health.checks import Finding, failed, passed
from cxr_edge.records import Screening

__all__ = ["agreement", "compared", "rows_of"]

_FAULTY = "the machine, a library or a file has changed since: build the engines again; if that does not help, test the memory"


def compared(
    found: Sequence[Screening],
    reference: npt.NDArray[np.float32],
    verdict: str,
    new: npt.NDArray[np.float32] | None,
    what: str,
) -> Finding:
    """Compare screenings with the reference (by the gate's verdict) and with what the engines gave when they were built.

    verdict: why the gate rejects them; empty if it passes them or compared others. new: None where the build did not measure.
    """
    now = probabilities_of(found)
    from_reference = float(largest_shift(reference, now).max())
    figure = f"{what}: probabilities within {from_reference:.3f} of the fp32 networks'"
    if not np.isfinite(now).all():
        return failed(f"the engines give probabilities that are not finite; {_FAULTY}", figure)
    if new is not None:
        shift = float(largest_shift(new, now).max())
        figure += f", within {shift:.1g} of the build's"
        if not shift <= KNOWN_ANSWER_TOLERANCE:
            return failed(
                f"the engines gave other probabilities when they were built, {shift:.2g} apart (at most "
                f"{KNOWN_ANSWER_TOLERANCE:g}); {_FAULTY}",
                figure,
            )
    return failed(f"{verdict}; {_FAULTY}", figure) if verdict else passed(figure)


def agreement(found: Sequence[Screening], decisions: Sequence[str], probabilities: npt.NDArray[np.float32]) -> float:
    """Return the share of images with the reference's decision; a change of less than TIE counts as the same."""
    shift = largest_shift(probabilities, probabilities_of(found))
    pairs = zip(found, decisions, shift, strict=True)
    return float(np.mean([s.forced_decision == own or change <= TIE for s, own, change in pairs]))


def rows_of(measured: Measured | None, name: str, count: int) -> npt.NDArray[np.float32] | None:
    """Return the build's probabilities (images, labels) of `known_answers` or `gate_set`; None unless it has `count` of them."""
    rows = () if measured is None else getattr(measured, name)
    return np.array(rows, np.float32) if len(rows) == count else None
