"""Apply the checks of an image: limits of its pixels, and of the scores of the checker network.

Pixels and scores come in, a refusal or None and flags come out. `specs.checks` has the codes and the limits, `screening`
runs the network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cxr_edge.records import AcquisitionFacts, Flag, GrayPixels
from cxr_edge.specs.checks import AP_SCORE, CODES, Check, ImageLimits, Population

__all__ = ["ADULT_YEARS", "Grays", "estimated_view", "gray_statistics", "refusals"]

ADULT_YEARS = 18.0

_MAX_SAMPLES = 1 << 14  # gray values that the statistics are taken of, from a grid over the image
_VIEW_LIMIT = 0.5

_REASONS = {
    "not_chest": "this is not a chest X-ray of the kind that the bundle is made for",
    "inverted": "black and white are exchanged: bones are dark, air is bright",
    "turned": "the image is turned by a quarter or a half turn",
    "lateral": "this is a lateral view, the bundle is made for frontal ones",
    "mirrored": "left and right are exchanged: the heart is on the other side",
    "cut_off": "the lungs are cut off by the edge of the image",
    "photo": "this looks like a photograph of a film or a screen",
    "marks": "there is text, or a marker, inside the lungs",
    "child": "the bundle is made for adults, this looks like a child",
    "adult": "the bundle is made for children, this looks like an adult",
    "unfamiliar": "the image is unlike every image that the bundle was trained on",
}


@dataclass(frozen=True, kw_only=True)
class Grays:
    """Statistics of an image's gray values, as parts of the full scale."""

    contrast: float  # between the 1st and 99th percentile
    saturated: float  # share of the pixels at the image's lowest or highest value


def gray_statistics(pixels: GrayPixels) -> Grays:
    """Return the statistics of (height, width) gray values, of at most 16,384 of them."""
    step = max(1, int(np.ceil(np.sqrt(pixels.size / _MAX_SAMPLES))))
    # A radix sort: a sixth of the time of the default, a tenth of np.percentile's.
    values = np.sort(pixels[::step, ::step], axis=None, kind="stable")
    last = values.size - 1
    contrast = float(values[round(0.99 * last)]) - float(values[round(0.01 * last)])
    lowest, highest = np.searchsorted(values, values[0], "right"), np.searchsorted(values, values[-1], "left")
    at_ends = values.size if values[0] == values[-1] else int(lowest) + values.size - int(highest)
    return Grays(contrast=contrast / float(np.iinfo(pixels.dtype).max), saturated=at_ends / values.size)


def refusals(
    pixels: GrayPixels,
    facts: AcquisitionFacts,
    scores: Mapping[str, float],
    *,
    limits: ImageLimits,
    checks: Sequence[Check],
    population: Population,
) -> tuple[Flag, ...]:
    """Return every reason for which the image is refused, the first first; none if it is to be answered.

    scores: of the checker, by name.
    """
    found = {**_by_pixels(pixels, limits), **_by_scores(checks, scores, facts, population)}
    if facts.view == "LATERAL":
        found["lateral"] = "the header says that this is a lateral view, the bundle is made for frontal ones"
    return tuple(Flag(code=code, message=f"Refused: {found[code]}.") for code in CODES if code in found)


def estimated_view(scores: Mapping[str, float]) -> str:
    """Return AP or PA by the checker's score, or an empty text if it has none."""
    if AP_SCORE not in scores:
        return ""
    return "AP" if scores[AP_SCORE] >= _VIEW_LIMIT else "PA"


def _by_pixels(pixels: GrayPixels, limits: ImageLimits) -> dict[str, str]:
    found = {}
    side, grays = min(pixels.shape), gray_statistics(pixels)
    if side < limits.min_side_px:
        found["too_small"] = f"its shorter side has {side} pixels, the networks need {limits.min_side_px}"
    if grays.contrast < limits.min_contrast:
        found["blank"] = f"its gray values span {grays.contrast:.1%} of the scale, expected {limits.min_contrast:.1%}"
    if grays.saturated > limits.max_saturated:
        found["saturated"] = (
            f"{grays.saturated:.0%} of its pixels are at an end of its gray scale, expected {limits.max_saturated:.0%} or less"
        )
    return found


def _by_scores(
    checks: Sequence[Check], scores: Mapping[str, float], facts: AcquisitionFacts, population: Population
) -> dict[str, str]:
    found = {}
    for check in checks:
        if check.code in ("child", "adult"):
            continue
        if check.holds(scores[check.score]):
            found[check.code] = _REASONS[check.code]
    refused_age = {"adults": "child", "children": "adult", "any": ""}[population]
    if refused_age and facts.age_years is not None:
        if (facts.age_years < ADULT_YEARS) is (refused_age == "child"):
            who = "adults" if population == "adults" else "children"
            found[refused_age] = f"the bundle is made for {who}, the header says {facts.age_years:g} years"
        return found
    for check in checks:
        if check.code == refused_age and check.holds(scores[check.score]):
            found[check.code] = _REASONS[check.code]
    return found
