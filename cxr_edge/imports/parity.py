"""Parity of an imported member with the original network: both get the same images, each by its own preprocessing.

The original's input is computed by `plain_input`, the member's by the deployed code. Differences have two sources: sums in
another order, and pixels that the two ways of resizing round to neighbouring gray levels. Beyond the limits an import is
refused.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr_edge.errors import ContractError, InputError

__all__ = [
    "EXPECTED_TOLERANCE",
    "PROBABILITY_TOLERANCE",
    "VARIATION_TOLERANCE",
    "Parity",
    "check_expected",
    "measure_parity",
    "read_expected",
]

Values = npt.NDArray[np.float64]

PROBABILITY_TOLERANCE = 0.01  # of any probability of any image
VARIATION_TOLERANCE = 0.05  # of an output's error (RMS), as a share of its variation over the images
EXPECTED_TOLERANCE = 0.05  # of probabilities by another program, whose way of resizing is its own
_ROUNDING = {False: 1e-4, True: 1e-2}  # relative to the largest value; True: half precision was widened


@dataclass(frozen=True, kw_only=True)
class Parity:
    """Differences between a member and its original."""

    member: str
    images: int
    probability: float  # largest absolute difference
    # The same of the logits, before a softmax with each image's mean subtracted; None: the original gives probabilities.
    logit: float | None
    variation: float  # largest error (RMS) of an output over its variation over the images
    worst: str  # image with the largest difference of a probability
    passed: bool

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        """Format as `net: probabilities differ by at most 1.2e-05, logits by 3.1e-05 (16 images)`."""
        logit = "" if self.logit is None else f", logits by {self.logit:.1e}"
        return f"{self.member}: probabilities differ by at most {self.probability:.1e}{logit} ({self.images} images)"

    def check(self) -> None:
        """Raise ContractError beyond the limits."""
        if not self.passed:
            raise ContractError(
                f"{self}; the error is {self.variation:.2g} of the outputs' variation, and at most "
                f"{PROBABILITY_TOLERANCE:g} of a probability and {VARIATION_TOLERANCE:g} of the variation are allowed (most on "
                f"{self.worst}): the member would not be the network that was trained, so nothing is kept. Likely causes: "
                "the layout of its input (NHWC or NCHW), the order of its channels' mean and std, the range of its values, or "
                "an operator that computes something else for other batch sizes"
            )


def measure_parity(
    member: str,
    names: Sequence[str],
    probabilities: tuple[Values, Values],
    logits: tuple[Values, Values] | None,
    *,
    half: bool = False,
    centred: bool = True,
) -> Parity:
    """Compare values of the original and of the member, (images, labels) each.

    names: of the images. logits: None if the original gives probabilities. half: it computes in half precision. centred: a number
    added to all logits of an image changes nothing, as before a softmax.
    """
    shift = np.abs(probabilities[0] - probabilities[1])
    expected, actual = logits or probabilities
    if logits is not None and centred:
        expected, actual = (v - v.mean(axis=1, keepdims=True) for v in logits)
    error = np.sqrt(np.square(actual - expected).mean(axis=0))
    spread = expected.std(axis=0) if len(names) > 1 else np.abs(expected).max(axis=0)
    scale = float(np.abs(probabilities[0] if logits is None else logits[0]).max())
    allowed = VARIATION_TOLERANCE * spread + _ROUNDING[half] * scale
    largest = float(shift.max())
    return Parity(
        member=member,
        images=len(names),
        probability=largest,
        logit=None if logits is None else float(np.abs(actual - expected).max()),
        variation=float((error / np.maximum(spread, np.finfo(np.float32).tiny)).max()),
        worst=names[int(shift.max(axis=1).argmax())],
        passed=bool(np.isfinite(largest) and largest <= PROBABILITY_TOLERANCE and (error <= allowed).all()),
    )


def read_expected(path: Path, columns: int) -> dict[str, Values]:
    """Read a CSV file: a header, then a file's name and its values (columns) by the program of the training. By name.

    Raises InputError with the line of what cannot be used.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [(number, row) for number, row in enumerate(csv.reader(file), 1) if row][1:]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"--expected {path} cannot be read as CSV: {error}") from None
    return {row[0].strip(): _numbers(row, columns, f"{path}, line {number}") for number, row in rows}


def check_expected(member: str, expected: Values, actual: Values, names: Sequence[str]) -> float:
    """Compare probabilities (images, labels) of another program with the original's here; return the largest difference.

    Raises ContractError beyond EXPECTED_TOLERANCE.
    """
    shift = np.abs(expected - actual).max(axis=1)
    largest = float(shift.max())
    if not largest <= EXPECTED_TOLERANCE:
        raise ContractError(
            f"{member}: with the stated preprocessing its probabilities differ from those of --expected by {largest:.2g} (at "
            f"most {EXPECTED_TOLERANCE:g} is allowed) on {names[int(shift.argmax())]}: the network was trained with other "
            "values. Likely causes: the range (0..1, 0..255, -1..1, [-1024, 1024]), mean and std or their order of channels, "
            "black and white exchanged, the region, a resize that keeps the aspect ratio"
        )
    return largest


def _numbers(row: list[str], columns: int, where: str) -> Values:
    try:
        values = np.array([float(v) for v in row[1:]], np.float64)
    except ValueError:
        raise InputError(f"{where}: expected a file's name and {columns} numbers, got {row}") from None
    if values.shape != (columns,) or not np.isfinite(values).all():
        raise InputError(f"{where}: expected {columns} finite numbers after the file's name, got {row[1:]}")
    return values
