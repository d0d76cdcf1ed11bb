"""Rule that turns a lung mask into a crop box, as the manifest stores it. `cxr_edge.ops.lung_box` applies it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from cxr_edge.specs.json_fields import (
    exactly,
    field_names,
    is_share,
    require_integer,
    require_number,
)

__all__ = ["LungBoxRule"]


@dataclass(frozen=True, kw_only=True)
class LungBoxRule:
    """How a lung mask becomes a box; the defaults are R20's rule with limits beyond which the box is not believed.

    threshold: a mask pixel at or above it is lung. min_pixels: a row or column of the mask is occupied from so many
    lung pixels on (1 is the paper's rule; a few more shrug off specks). margin: share of the extent added on each side.
    min_area, max_area: box area as a share of the frame. min_aspect, max_aspect: box width / height in image pixels.
    """

    threshold: float = 0.5
    min_pixels: int = 1
    margin: float = 0.05
    min_area: float = 0.1
    max_area: float = 1.0
    min_aspect: float = 0.4
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
        return cls(**exactly(value, field_names(cls)))
