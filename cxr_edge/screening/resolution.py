"""Flag of images with fewer pixels than the members need: previews and thumbnails.

The members' specs and the lung box come in, a flag or none comes out. An enlarged preview looks like an X-ray to every
other check, and the ensemble answers it with confidence, although the detail that it was trained on is missing.
"""

from __future__ import annotations

from collections.abc import Sequence

from cxr_edge.records import Flag, Image, Roi
from cxr_edge.specs.preprocess import PreprocessSpec

__all__ = ["resolution_flags"]


def resolution_flags(specs: Sequence[PreprocessSpec], roi: Roi, image: Image) -> tuple[Flag, ...]:
    """Return the flag `few_pixels` if a member's input region has a side shorter than its canvas."""
    frame = Roi.full(image.width_px, image.height_px)
    regions = [(roi if spec.region == "lungs" else frame, spec.canvas_px) for spec in specs]
    short = [(region, side) for region, side in regions if min(region.width_px, region.height_px) < side]
    if not short:
        return ()
    region, side = max(short, key=lambda pair: pair[1])
    return (
        Flag(
            code="few_pixels",
            message=f"the region that the networks see has {region.width_px}x{region.height_px} px and was enlarged to "
            f"{side}x{side}, so detail is missing: use the X-ray itself, not a preview",
        ),
    )
