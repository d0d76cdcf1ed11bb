"""The orientation that a picture's metadata give: EXIF blocks, XMP packets, ImageMagick's text profiles.

In: the bytes of such a block; out: 1..8 as in EXIF 2.32 (tag 274), or None where the block does not say. Only that tag is
read, so time and memory do not depend on what else a block claims to hold.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterable

from cxr_edge.records import Flag

__all__ = [
    "aspect_flag",
    "exif_orientation",
    "first_orientation",
    "inflated_start",
    "text_profile_orientation",
    "xmp_orientation",
]

TIFF_MAGICS = (b"II*\0", b"MM\0*")
_ORIENTATION = 274
_KINDS = {1: "B", 3: "H", 4: "I"}  # short by the standard; some writers take others
_MAX_ENTRIES = 4096
_MAX_TEXT_BYTES = 1 << 20  # enough for an EXIF block with a preview; the orientation stands near its start
_XMP_ORIENTATION = re.compile(rb"""tiff:Orientation(?:\s*=\s*["']|\s*>\s*)([1-8])\s*["'<]""")
_HEX_PROFILE = re.compile(rb"\s*\w+\s+\d+\s+([0-9a-fA-F\s]+)")
_ASPECT_TOLERANCE = 0.01


def first_orientation(found: Iterable[int | None]) -> int:
    """The first that a block gives, in order of precedence; 1 (upright) where none does."""
    return next((value for value in found if value is not None), 1)


def exif_orientation(block: bytes) -> int | None:
    """The orientation in the first directory of an EXIF block, with or without its `Exif` prefix."""
    block = block.removeprefix(b"Exif\0\0")
    if not block.startswith(TIFF_MAGICS):
        return None
    order = "<" if block[:2] == b"II" else ">"
    try:
        at = int(struct.unpack_from(order + "I", block, 4)[0])
        count = int(struct.unpack_from(order + "H", block, at)[0])
        for start in range(at + 2, at + 2 + 12 * min(count, _MAX_ENTRIES), 12):
            tag, kind = struct.unpack_from(order + "HH", block, start)
            if tag == _ORIENTATION and kind in _KINDS:
                value = int(struct.unpack_from(order + _KINDS[kind], block, start + 8)[0])
                return value if 1 <= value <= 8 else None
    except struct.error:  # the block is cut: what it would say is not known
        pass
    return None


def xmp_orientation(packet: bytes) -> int | None:
    """tiff:Orientation of an XMP packet (XMP part 1 and 2), as attribute or element."""
    found = _XMP_ORIENTATION.search(packet)
    return int(found[1]) if found else None


def text_profile_orientation(text: bytes) -> int | None:
    """The orientation in ImageMagick's `Raw profile type exif` (or APP1): name, length, hexadecimal digits in lines."""
    found = _HEX_PROFILE.match(text)
    if found is None:
        return None
    digits = b"".join(found[1].split())
    block = bytes.fromhex(digits[: len(digits) // 2 * 2].decode("ascii"))
    orientation = exif_orientation(block)
    return orientation if orientation is not None else xmp_orientation(block)


def inflated_start(data: bytes) -> bytes:
    """Up to 1 MiB of what a zlib stream holds; what can be had of a damaged one."""
    try:
        return zlib.decompressobj().decompress(data, _MAX_TEXT_BYTES)
    except zlib.error:
        return b""


def aspect_flag(horizontal: float, vertical: float) -> tuple[Flag, ...]:
    """A flag where the pixels are not square. horizontal, vertical: pixels per unit of length, 0 where it is not known."""
    if min(horizontal, vertical) <= 0 or abs(horizontal / vertical - 1) <= _ASPECT_TOLERANCE:
        return ()
    message = (
        f"the file says that its pixels are not square ({horizontal:g} by {vertical:g} per unit of length); they were taken "
        "as square, as viewers do"
    )
    return (Flag(code="pixel_aspect", message=message),)
