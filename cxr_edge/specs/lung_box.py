"""Rule for the crop box of a lung mask, as stored in the manifest; `cxr_edge.ops.lung_box` applies it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from cxr_edge.specs.json_fields import (
    field_names,
    is_share,
    require_integer,
    require_keys,
    require_number,
)

__all__ = ["LungBoxRule"]


@dataclass(frozen=True, kw_only=True)
class LungBoxRule:
    """Rule for the lung box; the defaults are R20's rule, with limits for a plausible box."""

    threshold: float = 0.5  # a mask pixel at or above it is lung
    min_pixels: int = 1  # lung pixels that make a row or column occupied; the paper has 1, a few more ignore specks
    margin: float = 0.05  # share of the extent added on each side
    min_area: float = 0.1  # of a valid box, as a share of the frame
    max_area: float = 1.0
    min_aspect: float = 0.4  # of a valid box, width / height in image pixels
    max_aspect: float = 2.5

    def __post_init__(self) -> None:
        require_number(self.threshold, "threshold", "a number above 0 and below 1", lambda v: 0 < v < 1)
        require_integer(self.min_pixels, "min_pixels", least=1)
        require_number(self.margin, "margin", "a number from 0 to 1", is_share)
        require_number(self.max_area, "max_area", "a number above 0, up to 1", lambda v: 0 < v <= 1)
        require_number(self.min_area, "min_area", "from 0 to below max_area", lambda v: 0 <= v < self.max_area)
        require_number(self.max_aspect, "max_aspect", "a number above 0", lambda v: v > 0)
        require_number(self.min_aspect, "min_aspect", "from 0 to below max_aspect", lambda v: 0 <= v < self.max_aspect)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: object) -> LungBoxRule:
        return cls(**require_keys(value, field_names(cls)))
