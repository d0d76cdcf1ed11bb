"""Real images that may travel in a bundle as its gate set: `gate_images` of a configuration, validated."""

from __future__ import annotations

from dataclasses import dataclass

from cxr_edge.errors import InputError
from training.data.collections import COLLECTIONS

__all__ = ["GateImages"]

_LEAST_PX = 64


@dataclass(frozen=True, kw_only=True)
class GateImages:
    """Choice of the images, and their terms. Raises InputError for values that cannot work."""

    licence: str  # terms under which they may be passed on
    attribution: str  # whom they are of
    folder: str = ""  # whose sub-folders name the labels; or ...
    collection: str = ""  # ... validation images of a published collection that the run reads
    images: int = 200  # at most
    longest_px: int = 256  # larger images are reduced

    def __post_init__(self) -> None:
        for name in ("licence", "attribution"):
            if not str(getattr(self, name)).strip():
                raise InputError(
                    f"gate_images needs the {name}: only images that may be passed on travel in a bundle, and it says under "
                    "which terms"
                )
        if bool(self.folder) == bool(self.collection):
            raise InputError(
                f"gate_images takes a folder or a collection, got {self.folder!r} and {self.collection!r}: give one of them"
            )
        if self.collection and self.collection not in COLLECTIONS:
            raise InputError(f"gate_images.collection is one of {', '.join(COLLECTIONS)}, got {self.collection!r}")
        if self.images < 1 or self.longest_px < _LEAST_PX:
            raise InputError(
                f"gate_images takes 1 image or more of {_LEAST_PX} px or more, got {self.images} of {self.longest_px} px"
            )
