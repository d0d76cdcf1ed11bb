"""A WEBP file in, its decoded picture out (RIFF container, RFC 9649): one still picture, its size checked first."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from cxr_edge.decoding.limits import Limits
from cxr_edge.decoding.metadata import exif_orientation, first_orientation, xmp_orientation
from cxr_edge.decoding.opencv import decoded
from cxr_edge.decoding.picture import CUT, DAMAGED, HOW_TO_CONVERT, Picture
from cxr_edge.errors import InputError

__all__ = ["decode", "picture_size"]

_MAX_CHUNKS = 10_000
_ANIMATION = 2  # flag of VP8X
_DECODER_BYTES = 9  # per pixel: lossless keeps 4 beside the 4 it gives, and the gray


def decode(data: bytes, limits: Limits) -> Picture:
    """Decode a WEBP file of one picture. Raises InputError."""
    width, height, orientation = _read_header(data)
    limits.check_size(width, height)
    limits.check_memory(width, height, _DECODER_BYTES)
    samples = decoded(data, "WEBP", width_px=width, height_px=height)
    return Picture(format="webp", samples=samples, bits=8, orientation=orientation)


def picture_size(data: bytes) -> tuple[int, int]:
    """(width, height) of a WEBP file, also one inside TIFF. Raises InputError."""
    return _read_header(data)[:2]


def _read_header(data: bytes) -> tuple[int, int, int]:
    """(width, height, orientation). Raises InputError unless there is one picture, as large as its canvas."""
    try:
        return _parsed_header(data)
    except (struct.error, IndexError):
        raise InputError(CUT) from None


def _parsed_header(data: bytes) -> tuple[int, int, int]:
    canvas: tuple[int, int] | None = None
    picture: tuple[int, int] | None = None
    exif: int | None = None
    xmp: int | None = None
    for kind, body in _chunks(data):
        if kind == b"VP8X":
            if body[0] & _ANIMATION:
                raise InputError(f"an animated WEBP holds several pictures: {HOW_TO_CONVERT}, one per file")
            canvas = int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1
        elif kind in (b"VP8 ", b"VP8L"):
            if picture is not None:
                raise InputError(f"the WEBP holds two pictures: {DAMAGED}")
            picture = _size_in_bitstream(kind, body)
        elif kind == b"EXIF" and exif is None:
            exif = exif_orientation(bytes(body))
        elif kind == b"XMP " and xmp is None:
            xmp = xmp_orientation(bytes(body))
    if picture is None or (canvas is not None and canvas != picture):
        raise InputError(f"the WEBP holds no picture of the size that its header gives: {DAMAGED}")
    return *picture, first_orientation((exif, xmp))


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """(type, body) of each chunk within the RIFF container's length."""
    end = 8 + int(struct.unpack_from("<I", data, 4)[0])
    if end > len(data):
        raise InputError(CUT)
    view, at = memoryview(data), 12
    for _ in range(_MAX_CHUNKS):
        if at + 8 > end:
            return
        kind, length = struct.unpack_from("<4sI", data, at)
        if at + 8 + length > len(data):
            raise InputError(CUT)
        yield kind, view[at + 8 : at + 8 + length]
        at += 8 + length + (length & 1)
    raise InputError(f"the WEBP holds more than {_MAX_CHUNKS:,} chunks: export it again")


def _size_in_bitstream(kind: bytes, body: memoryview) -> tuple[int, int]:
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", body, 6)
        return width & 0x3FFF, height & 0x3FFF
    packed = struct.unpack_from("<I", body, 1)[0]
    return (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1
