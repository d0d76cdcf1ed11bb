"""`DecodedFile` of manifest.json: a file of the bundle with the digest of its decoded pixels.

Training stores what decoding gives; `decode_check` compares a machine's libraries with it before anything is screened there.
"""

from __future__ import annotations

import hashlib
import re
import sys
from dataclasses import dataclass
from typing import Any, Literal, get_args

from cxr_edge.bundle.networks import FileRef
from cxr_edge.records import Image
from cxr_edge.specs.json_fields import (
    field_names,
    read_field,
    read_list,
    require,
    require_integer,
    require_keys,
    require_text,
)

__all__ = ["DecodedFile", "PixelType", "pixels_sha256"]

PixelType = Literal["uint8", "uint16"]

_SHA256 = re.compile(r"[0-9a-f]{64}")
_PIXEL_TYPES = get_args(PixelType)


@dataclass(frozen=True, kw_only=True)
class DecodedFile:
    """A drawn image file, and what decoding it gives on every machine: pixels, to the last bit, and flags."""

    file: FileRef
    pixels_sha256: str  # of the gray pixels, row by row, 16-bit ones in little-endian words
    width_px: int
    height_px: int
    dtype: PixelType
    flags: tuple[str, ...]  # codes of the image's flags, in their order

    def __post_init__(self) -> None:
        valid = isinstance(self.pixels_sha256, str) and _SHA256.fullmatch(self.pixels_sha256) is not None
        require(valid, "pixels_sha256", "64 lower-case hexadecimal digits", self.pixels_sha256)
        require_integer(self.width_px, "width_px", least=1)
        require_integer(self.height_px, "height_px", least=1)
        require(self.dtype in _PIXEL_TYPES, "dtype", f"one of {', '.join(_PIXEL_TYPES)}", self.dtype)
        for i, code in enumerate(self.flags):
            require_text(code, f"flags[{i}]", longest=64)

    @classmethod
    def of_image(cls, file: FileRef, image: Image) -> DecodedFile:
        """Return the entry of a decoded file."""
        return cls(
            file=file,
            pixels_sha256=pixels_sha256(image),
            width_px=image.width_px,
            height_px=image.height_px,
            dtype="uint8" if image.pixels.dtype.itemsize == 1 else "uint16",
            flags=tuple(flag.code for flag in image.flags),
        )

    def as_json(self) -> dict[str, Any]:
        return {
            "file": self.file.as_json(),
            "pixels_sha256": self.pixels_sha256,
            "width_px": self.width_px,
            "height_px": self.height_px,
            "dtype": self.dtype,
            "flags": list(self.flags),
        }

    @classmethod
    def from_json(cls, value: object) -> DecodedFile:
        found = require_keys(value, field_names(cls))
        return cls(
            **{**found, "file": read_field(found, "file", FileRef.from_json), "flags": read_list(found, "flags")},
        )


def pixels_sha256(image: Image) -> str:
    """Return the SHA-256 of an image's pixels, in hexadecimal: equal on machines of either byte order."""
    pixels = image.pixels if sys.byteorder == "little" else image.pixels.byteswap()
    return hashlib.sha256(pixels.tobytes()).hexdigest()
