"""Resolution of a build's images: their kind and number in; the smallest losses that they notice and refuse, out."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cxr_edge.compiler.samples import ImageKind, Samples
from cxr_edge.ops.binomial import upper_bound

__all__ = ["ImageSet"]

_CONFIDENCE = 0.95
_ROUNDING = 1e-9  # as the parity check allows


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """Images that engines were compared on, with exact limits of what so many can show (one-sided, 95 %)."""

    kind: ImageKind
    images: int  # of the ensemble
    network_images: int  # of each single network
    # Engines that decide this share of all images otherwise differ on one of these images or more with 95 % confidence.
    noticed_from: float
    # Likewise they are refused: they differ on more of these images than may be lost.
    refused_from: float

    @classmethod
    def of(cls, images: Samples, network_images: Samples, max_loss: float) -> ImageSet:
        """Return what `images` can show at this limit. network_images: those of single networks."""
        n = len(images.items)
        allowed = math.floor(max_loss * n + _ROUNDING)
        return cls(
            kind=images.kind,
            images=n,
            network_images=len(network_images.items),
            noticed_from=upper_bound(0, n, _CONFIDENCE),
            refused_from=upper_bound(allowed, n, _CONFIDENCE),
        )

    def line(self) -> str:
        """Return one sentence."""
        networks = (
            ""
            if self.network_images == self.images
            else f"; single networks are compared on {self.network_images} of them"
        )
        return (
            f"So many images notice engines that decide {self.noticed_from:.1%} of all images otherwise, and refuse those that "
            f"decide {self.refused_from:.1%} otherwise, with 95 % confidence{networks}."
        )
