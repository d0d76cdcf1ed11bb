"""Variation of raw outputs over images: whether a candidate still follows the image, whatever its decisions are.

Raw outputs of the reference and of a candidate come in, one figure comes out: the candidate's error over the reference's
spread. Decisions and probabilities say nothing where the reference decides all images alike or is saturated; an output
that has become constant has an error of at least its spread there, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["OutputChange", "output_change"]

FloatArray = npt.NDArray[np.floating]

# An output that varies less than this share of the typical one counts with the share: reduced precision rounds by the
# typical one's size, and what it loses of the small one is not seen beside the others.
_SMALL_SPREAD = 0.1
# Relative to the largest output: what fp32 sums in another order differ by, with a margin; and TF32's and half precision's
# rounding, which is allowed where the reference is constant, as on a single image, and shows no variation to lose.
_ROUNDING, _ROUNDING_OF_CONSTANT = 1e-5, 1e-3
_CONSTANT = 1e-6  # relative spread of a constant output in fp32


@dataclass(frozen=True, kw_only=True)
class OutputChange:
    """The output with the largest change."""

    output: int  # its column
    change: float  # RMS error over images, relative to the reference's standard deviation
    constant: bool  # in the reference, over these images

    def reason(self, limit: float, labels: Sequence[str] = ()) -> str | None:
        """Return the reason for rejection, or None.

        limit: `parity.Limits.output_change`. labels: of the outputs; (): they are called by their number.
        """
        if self.change <= limit:  # NaN is not
            return None
        name = labels[self.output] if labels else self.output
        if self.constant:
            return (
                f"raw output {name} differs from the reference's, which is the same for all images, so that nothing "
                f"shows whether it follows the image: give more and other images with --calibration DIR"
            )
        return (
            f"raw output {name} is off by {self.change:.2f} of its variation over the images, at most {limit:.2f} is "
            f"allowed"
        )


def output_change(reference: FloatArray, candidate: FloatArray) -> OutputChange:
    """Return the largest change over the columns of (images, columns), all finite."""
    before, after = reference.astype(np.float64), candidate.astype(np.float64)
    spread, size = before.std(axis=0), float(np.sqrt((before**2).mean(axis=0).max()))
    constant = spread <= _CONSTANT * size
    rounding = np.where(constant, _ROUNDING_OF_CONSTANT, _ROUNDING) * size
    typical = np.sqrt((spread**2).mean())
    scale = np.maximum(np.maximum(spread, _SMALL_SPREAD * typical), np.maximum(rounding, np.finfo(np.float32).tiny))
    change = np.sqrt(((after - before) ** 2).mean(axis=0)) / scale
    worst = int(change.argmax())
    return OutputChange(output=worst, change=float(change[worst]), constant=bool(constant[worst]))
