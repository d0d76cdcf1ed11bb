"""WEBP decoder: a file with one still image in (RIFF container, RFC 9649), decoded image out, its size checked first."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from cxr_edge.decoding.decoded_image import DAMAGED, TRUNCATED, DecodedImage
from cxr_edge.decoding.formats import HOW_TO_CONVERT
from cxr_edge.decoding.limits import Limits
from cxr_edge.decoding.metadata import exif_orientation, first_orientation, xmp_orientation
from cxr_edge.decoding.opencv import decode_with_opencv
from cxr_edge.errors import InputError

__all__ = ["decode", "image_size"]

_MAX_CHUNKS = 10_000
_ANIMATION = 2  # flag of VP8X
_DECODER_BYTES_PER_PIXEL = 9  # lossless: 4 of work memory and 4 of output, then the gray


def decode(data: bytes, limits: Limits) -> DecodedImage:
    """Decode a WEBP file of one image. Raises InputError."""
    width, height, orientation = _read_header(data)
    limits.check_size(width, height)
    limits.check_memory(width, height, _DECODER_BYTES_PER_PIXEL)
    samples = decode_with_opencv(data, "WEBP", width_px=width, height_px=height)
    return DecodedImage(samples=samples, bits=8, orientation=orientation)


def image_size(data: bytes) -> tuple[int, int]:
    """Return (width, height) of a WEBP stream in a file or in a TIFF segment. Raises InputError."""
    return _read_header(data)[:2]


def _read_header(data: bytes) -> tuple[int, int, int]:
    """Return (width, height, orientation). Raises InputError unless there is one image, as large as its canvas."""
    try:
        return _parse_header(data)
    except (struct.error, IndexError):
        raise InputError(TRUNCATED) from None


def _parse_header(data: bytes) -> tuple[int, int, int]:
    canvas: tuple[int, int] | None = None
    image: tuple[int, int] | None = None
    exif: int | None = None
    xmp: int | None = None
    for kind, body in _chunks(data):
        if kind == b"VP8X":
            if body[0] & _ANIMATION:
                raise InputError(f"an animated WEBP contains several images: {HOW_TO_CONVERT}, one per file")
            canvas = int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1
        elif kind in (b"VP8 ", b"VP8L"):
            if image is not None:
                raise InputError(f"the WEBP contains two images: {DAMAGED}")
            image = _bitstream_size(kind, body)
        elif kind == b"EXIF" and exif is None:
            exif = exif_orientation(bytes(body))
        elif kind == b"XMP " and xmp is None:
            xmp = xmp_orientation(bytes(body))
    if image is None or (canvas is not None and canvas != image):
        raise InputError(f"the WEBP contains no image of the size in its header: {DAMAGED}")
    return *image, first_orientation((exif, xmp))


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Yield (type, body) of each chunk within the RIFF container's length."""
    end = 8 + int(struct.unpack_from("<I", data, 4)[0])
    if end > len(data):
        raise InputError(TRUNCATED)
    view, offset = memoryview(data), 12
    for _ in range(_MAX_CHUNKS):
        if offset + 8 > end:
            return
        kind, length = struct.unpack_from("<4sI", data, offset)
        if offset + 8 + length > len(data):
            raise InputError(TRUNCATED)
        yield kind, view[offset + 8 : offset + 8 + length]
        offset += 8 + length + (length & 1)
    raise InputError(f"the WEBP contains more than {_MAX_CHUNKS:,} chunks: export it again")


def _bitstream_size(kind: bytes, body: memoryview) -> tuple[int, int]:
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", body, 6)
        return width & 0x3FFF, height & 0x3FFF
    packed = struct.unpack_from("<I", body, 1)[0]
    return (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1
