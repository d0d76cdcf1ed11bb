"""BMP decoder: uncompressed files of 1 to 32 bits per pixel in, decoded image out."""

from __future__ import annotations

import struct
from typing import Literal

from cxr_edge.decoding.decoded_image import DAMAGED, TRUNCATED, DecodedImage
from cxr_edge.decoding.formats import HOW_TO_CONVERT
from cxr_edge.decoding.limits import Limits
from cxr_edge.decoding.metadata import aspect_flag
from cxr_edge.decoding.opencv import decode_with_opencv
from cxr_edge.errors import InputError

__all__ = ["decode"]

_UNCOMPRESSED, _BIT_FIELDS = 0, 3
_BITS = (1, 4, 8, 16, 24, 32)
_ALPHA_MASK_OFFSET = 66
_DECODER_BYTES_PER_PIXEL = 5


def decode(data: bytes, limits: Limits) -> DecodedImage:
    """Decode a BMP file. Raises InputError."""
    try:
        start, header, width, height, planes, bits, compression = struct.unpack_from("<IIiiHHI", data, 10)
        density = struct.unpack_from("<ii", data, 38)
        alpha_mask = struct.unpack_from("<I", data, _ALPHA_MASK_OFFSET)[0] if header >= 56 else 0
    except struct.error:
        raise InputError(TRUNCATED) from None
    if compression not in (_UNCOMPRESSED, _BIT_FIELDS):
        raise InputError(f"a BMP with compression {compression} is not supported: {HOW_TO_CONVERT}")
    if bits not in _BITS or planes != 1:
        raise InputError(f"the BMP header gives {bits} bits per pixel in {planes} planes: {DAMAGED}")
    limits.check_size(width, abs(height))
    limits.check_memory(width, abs(height), _DECODER_BYTES_PER_PIXEL)
    if start + (width * bits + 31) // 32 * 4 * abs(height) > len(data):
        raise InputError(TRUNCATED)
    samples = decode_with_opencv(data, "BMP", width_px=width, height_px=abs(height))
    # The fourth byte of a pixel is alpha only if the header has a mask for it; otherwise it is padding, mostly zero.
    alpha: Literal["straight", "ignored"] = "straight" if compression == _BIT_FIELDS and alpha_mask else "ignored"
    return DecodedImage(samples=samples, bits=min(bits, 8), alpha=alpha, flags=aspect_flag(*density))
