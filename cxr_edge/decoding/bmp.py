"""A BMP file in, its decoded picture out: uncompressed, 1 to 32 bits per pixel."""

from __future__ import annotations

import struct
from typing import Literal

from cxr_edge.decoding.limits import Limits
from cxr_edge.decoding.metadata import aspect_flag
from cxr_edge.decoding.opencv import decoded
from cxr_edge.decoding.picture import CUT, DAMAGED, HOW_TO_CONVERT, Picture
from cxr_edge.errors import InputError

__all__ = ["HEADER_SIZES", "decode"]

HEADER_SIZES = (40, 108, 124)
_UNCOMPRESSED, _BIT_FIELDS = 0, 3
_BITS = (1, 4, 8, 16, 24, 32)
_ALPHA_MASK_AT = 66


def decode(data: bytes, limits: Limits) -> Picture:
    """Decode a BMP file. Raises InputError."""
    try:
        start, header, width, height, planes, bits, compression = struct.unpack_from("<IIiiHHI", data, 10)
        density = struct.unpack_from("<ii", data, 38)
        alpha_mask = struct.unpack_from("<I", data, _ALPHA_MASK_AT)[0] if header >= 56 else 0
    except struct.error:
        raise InputError(CUT) from None
    if compression not in (_UNCOMPRESSED, _BIT_FIELDS):
        raise InputError(f"a BMP with compression {compression} is not read here: {HOW_TO_CONVERT}")
    if bits not in _BITS or planes != 1:
        raise InputError(f"the BMP header gives {bits} bits per pixel in {planes} planes: {DAMAGED}")
    limits.check_size(width, abs(height))
    limits.check_memory(width, abs(height), 5)
    if start + (width * bits + 31) // 32 * 4 * abs(height) > len(data):
        raise InputError(CUT)
    samples = decoded(data, "BMP", width_px=width, height_px=abs(height))
    # The fourth byte of a pixel is alpha only where a mask says so; else it is padding, mostly zero.
    alpha: Literal["straight", "ignored"] = "straight" if compression == _BIT_FIELDS and alpha_mask else "ignored"
    return Picture(format="bmp", samples=samples, bits=min(bits, 8), alpha=alpha, flags=aspect_flag(*density))
