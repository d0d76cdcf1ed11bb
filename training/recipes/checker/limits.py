"""Limits of the checker's scores: scores of good validation images in, the checks of a manifest out.

A code may refuse its share of the good frontal images, `ALLOWED`; the shares add up to the allowance for all codes together. The
limit is then as low as that permits, but no probability below one half counts.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from cxr_edge.specs.checks import Check, ImageLimits

__all__ = ["AGE_ALLOWED", "ALLOWED", "IMAGE_LIMITS", "age_checks", "limit_for", "score_checks"]

Scores = npt.NDArray[np.float64]

# Share of the good frontal images of validation patients that a code may refuse. Most is for `mirrored`, which has a target and
# is hard to tell where the heart is in the middle; not_chest, inverted, turned and lateral hardly use theirs.
ALLOWED: Mapping[str, float] = {
    "not_chest": 0.0005,
    "inverted": 0.0005,
    "turned": 0.0005,
    "lateral": 0.0005,
    "mirrored": 0.0035,
    "cut_off": 0.0,
    "photo": 0.0005,
    "marks": 0.0005,
    "unfamiliar": 0.0,
}
# Added to the logit of a limit. Validation patients had fewer tightly collimated images than test patients: without it, test
# patients' good images were refused as cut off nine times as often.
_MARGINS: Mapping[str, float] = {"cut_off": 1.0}
AGE_ALLOWED = 0.01  # of the adults, where children are refused, and of the children, where adults are

# No image of the collections is outside of these.
IMAGE_LIMITS = ImageLimits(min_side_px=96, min_contrast=0.1, max_saturated=0.9)

_LEAST_PROBABILITY = 0.5
_DIGITS = 4


def limit_for(good: Scores, allowed: float) -> float:
    """Return the lowest limit, to four digits, from which on at most this share of the scores (N,) is."""
    ordered = np.sort(good)[::-1]
    highest_answered = ordered[min(int(allowed * len(good)), len(good) - 1)]
    step = 10.0**-_DIGITS
    return round(float(np.floor(highest_answered / step + 1) * step), _DIGITS)


def score_checks(good: Mapping[str, Scores]) -> tuple[Check, ...]:
    """Return a check per code of ALLOWED. good: the score (N,) of each code on good images of validation patients."""
    return tuple(
        Check(code=code, score=code, limit=_final(code, limit_for(good[code], allowed)))
        for code, allowed in ALLOWED.items()
    )


def age_checks(adults: Scores, children: Scores) -> tuple[Check, ...]:
    """Return the checks `child` and `adult`. adults, children: the score `child` (N,) on good images of validation patients."""
    return (
        Check(code="child", score="child", limit=limit_for(adults, AGE_ALLOWED)),
        Check(code="adult", score="child", limit=round(1 - limit_for(1 - children, AGE_ALLOWED), _DIGITS), below=True),
    )


def _final(code: str, limit: float) -> float:
    """Return the limit of a probability with its margin, one half at least; that of a distance as it is."""
    if code == "unfamiliar":
        return limit
    probability = min(max(limit, _LEAST_PROBABILITY), 1 - 10.0**-_DIGITS)
    odds = np.exp(_MARGINS.get(code, 0.0)) * probability / (1 - probability)
    return round(float(odds / (1 + odds)), _DIGITS)
