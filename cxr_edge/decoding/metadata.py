"""Orientation and pixel aspect from image metadata: EXIF blocks, XMP packets, ImageMagick's text profiles.

Input: the bytes of a block. Output: orientation 1..8 as in EXIF 2.32 (tag 274), or None if the block has none. Only that
tag is read, so time and memory do not depend on the other contents of a block.
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
    "inflate_start",
    "text_profile_orientation",
    "xmp_orientation",
]

_TIFF_MAGICS = (b"II*\0", b"MM\0*")
_ORIENTATION = 274
_TYPE_CODES = {1: "B", 3: "H", 4: "I"}  # the standard requires a short; some writers use other types
_MAX_ENTRIES = 4096
_MAX_TEXT_BYTES = 1 << 20  # enough for an EXIF block with a preview; the orientation is near its start
_XMP_ORIENTATION = re.compile(rb"""tiff:Orientation(?:\s*=\s*["']|\s*>\s*)([1-8])\s*["'<]""")
_HEX_PROFILE = re.compile(rb"\s*\w+\s+\d+\s+([0-9a-fA-F\s]+)")
_ASPECT_TOLERANCE = 0.01


def first_orientation(orientations: Iterable[int | None]) -> int:
    """Return the first orientation that is not None, in order of precedence; 1 (upright) if there is none."""
    return next((value for value in orientations if value is not None), 1)


def exif_orientation(block: bytes) -> int | None:
    """Return the orientation in the first directory of an EXIF block, with or without its `Exif` prefix."""
    block = block.removeprefix(b"Exif\0\0")
    if not block.startswith(_TIFF_MAGICS):
        return None
    order = "<" if block[:2] == b"II" else ">"
    try:
        directory = int(struct.unpack_from(order + "I", block, 4)[0])
        count = int(struct.unpack_from(order + "H", block, directory)[0])
        for offset in range(directory + 2, directory + 2 + 12 * min(count, _MAX_ENTRIES), 12):
            tag, kind = struct.unpack_from(order + "HH", block, offset)
            if tag == _ORIENTATION and kind in _TYPE_CODES:
                value = int(struct.unpack_from(order + _TYPE_CODES[kind], block, offset + 8)[0])
                return value if 1 <= value <= 8 else None
    except struct.error:  # a truncated block: its orientation is not known
        pass
    return None


def xmp_orientation(packet: bytes) -> int | None:
    """Return tiff:Orientation of an XMP packet (XMP part 1 and 2), as attribute or element."""
    found = _XMP_ORIENTATION.search(packet)
    return int(found[1]) if found else None


def text_profile_orientation(text: bytes) -> int | None:
    """Return the orientation in ImageMagick's `Raw profile type exif` (or APP1): name, length, lines of hex digits."""
    found = _HEX_PROFILE.match(text)
    if found is None:
        return None
    digits = b"".join(found[1].split())
    block = bytes.fromhex(digits[: len(digits) // 2 * 2].decode("ascii"))
    orientation = exif_orientation(block)
    return orientation if orientation is not None else xmp_orientation(block)


def inflate_start(data: bytes) -> bytes:
    """Return up to the first 1 MiB of a zlib stream; empty if it is damaged."""
    try:
        return zlib.decompressobj().decompress(data, _MAX_TEXT_BYTES)
    except zlib.error:
        return b""


def aspect_flag(horizontal: float, vertical: float) -> tuple[Flag, ...]:
    """Return a flag if the pixels are not square. horizontal, vertical: pixels per unit of length, 0 if not known."""
    if min(horizontal, vertical) <= 0 or abs(horizontal / vertical - 1) <= _ASPECT_TOLERANCE:
        return ()
    message = (
        f"by the file's metadata the pixels are not square ({horizontal:g} by {vertical:g} per unit of length); they were "
        "treated as square, as viewers do"
    )
    return (Flag(code="pixel_aspect", message=message),)
