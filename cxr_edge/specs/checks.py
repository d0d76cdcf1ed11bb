"""Checks of an image before it is answered, as stored in the manifest; `cxr_edge.ops.checks` applies them.

A refused image is a result with a code and a reason, never an error: a bundle is made for frontal chest X-rays of one kind
of patients, and says nothing of other pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from cxr_edge.specs.json_fields import (
    field_names,
    is_share,
    read_list,
    require,
    require_integer,
    require_keys,
    require_number,
    require_text,
)

__all__ = ["AP_SCORE", "CODES", "POPULATIONS", "SCORED_CODES", "Check", "ImageLimits", "Population", "RefusalCode"]

Population = Literal["any", "adults", "children"]
POPULATIONS: tuple[Population, ...] = get_args(Population)

# In the order in which they are applied: the first that holds is the reason, the others are flags.
RefusalCode = Literal[
    "too_small",  # fewer pixels than the networks need
    "blank",  # hardly any contrast
    "saturated",  # most pixels at an end of the gray scale
    "not_chest",  # no chest X-ray
    "inverted",  # black and white exchanged
    "turned",  # by a quarter or a half turn
    "lateral",  # from the side
    "mirrored",  # left and right exchanged
    "cut_off",  # lungs cut off by the edge
    "photo",  # of a film or a screen
    "marks",  # text or markers inside the lungs
    "child",  # in a bundle for adults
    "adult",  # in a bundle for children
    "unfamiliar",  # unlike every training image
]
CODES: tuple[RefusalCode, ...] = get_args(RefusalCode)

_MEASURED = ("too_small", "blank", "saturated")  # on the pixels, by `ImageLimits`
SCORED_CODES = tuple(code for code in CODES if code not in _MEASURED)  # by the checker network

AP_SCORE = "ap"  # output of a checker that estimates the view: 1 for AP, 0 for PA


@dataclass(frozen=True, kw_only=True)
class Check:
    """One reason for refusal that the checker network scores."""

    code: str  # one of SCORED_CODES
    score: str  # output of the checker
    limit: float  # refused from this score on; up to it with `below`
    below: bool = False

    def __post_init__(self) -> None:
        require(self.code in SCORED_CODES, "code", f"one of {', '.join(SCORED_CODES)}", self.code)
        require_text(self.score, "score", longest=64)
        require_number(self.limit, "limit", "a number", lambda v: True)
        require(isinstance(self.below, bool), "below", "true or false", self.below)

    def holds(self, score: float) -> bool:
        """Return True if an image with this score is to be refused."""
        return score <= self.limit if self.below else score >= self.limit

    def as_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in field_names(type(self))}

    @classmethod
    def from_json(cls, value: object) -> Check:
        return cls(**require_keys(value, field_names(cls)))


@dataclass(frozen=True, kw_only=True)
class ImageLimits:
    """Limits of what is measured on the pixels, a part of the full gray scale being a number from 0 to 1."""

    min_side_px: int  # of the shorter side
    min_contrast: float  # between the 1st and 99th percentile of the gray values
    max_saturated: float  # share of the pixels that have the lowest or the highest gray value of the image

    def __post_init__(self) -> None:
        require_integer(self.min_side_px, "min_side_px", least=1)
        require_number(self.min_contrast, "min_contrast", "a number from 0 to 1", is_share)
        require_number(self.max_saturated, "max_saturated", "a number from 0 to 1", is_share)

    def as_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in field_names(type(self))}

    @classmethod
    def from_json(cls, value: object) -> ImageLimits:
        return cls(**require_keys(value, field_names(cls)))


def read_checks(fields: dict[str, Any]) -> tuple[Check, ...]:
    """Return the list under `checks`, whose codes differ."""
    checks = read_list(fields, "checks", Check.from_json)
    codes = [check.code for check in checks]
    require(len(set(codes)) == len(codes), "checks", "a list with each code once", codes)
    return checks
