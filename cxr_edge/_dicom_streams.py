"""A compressed picture as it lies inside DICOM in, its size out: JPEG, JPEG-LS, JPEG 2000, each followed to its end.

It exists because the decoders take a header's word for sizes, answer some cut-off streams with half a picture, and GDCM
aborts the whole process where a lossless JPEG breaks certain rules; so those rules are checked here first.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable
from dataclasses import dataclass

from cxr_edge._headers import read_jpeg_frame
from cxr_edge.errors import InputError

__all__ = ["StreamSize", "read_jpeg", "read_jpeg_2000", "read_jpeg_lossless", "read_jpeg_ls"]

_CUT = "the pixel data end too early (truncated copy or transfer): copy or export the file again"
_DAMAGED = "the compressed pixel data are damaged: copy or export the file again"


@dataclass(frozen=True, kw_only=True)
class StreamSize:
    """What a stream says of itself. bits: of one sample."""

    width_px: int
    height_px: int
    samples: int
    bits: int


Reader = Callable[[bytes], StreamSize]


def _cut_is_refused(reader: Reader) -> Reader:
    """A reader for which running off the end of the stream is an InputError."""

    @functools.wraps(reader)
    def read(stream: bytes) -> StreamSize:
        try:
            return reader(stream)
        except (struct.error, IndexError):
            raise InputError(f"the compressed pixel data cannot be followed to their end: {_CUT}") from None

    return read


@_cut_is_refused
def read_jpeg(stream: bytes) -> StreamSize:
    """The size of a sequential or progressive JPEG stream (ITU-T T.81) that holds all its scans."""
    return _jpeg(stream, lossless=False)


@_cut_is_refused
def read_jpeg_lossless(stream: bytes) -> StreamSize:
    """The size of a lossless JPEG stream (ITU-T T.81 annex H) that keeps its rules."""
    size = _jpeg(stream, lossless=True)
    _check_lossless(stream)
    return size


def _jpeg(stream: bytes, *, lossless: bool) -> StreamSize:
    if not stream.startswith(b"\xff\xd8\xff"):
        raise InputError(f"there is no JPEG stream: {_DAMAGED}")
    frame = read_jpeg_frame(stream)
    if frame.process not in ((3,) if lossless else (0, 1, 2)):
        raise InputError(
            f"the JPEG process (SOF{frame.process}) is not the one that the transfer syntax says: {_DAMAGED}"
        )
    return StreamSize(width_px=frame.width_px, height_px=frame.height_px, samples=frame.channels, bits=frame.bits)


def _check_lossless(stream: bytes) -> None:
    """Markers without gaps, tables before their use, values in range: what GDCM does not survive otherwise."""
    tables: set[int] = set()
    at, sof, marker = 2, b"", 0
    while marker != 0xDA:
        prefix, marker, length = struct.unpack_from(">BBH", stream, at)
        body = stream[at + 4 : at + 2 + length]
        if (
            prefix != 0xFF
            or length < 2
            or not (marker in (0xC3, 0xC4, 0xDA, 0xDB, 0xDD, 0xFE) or 0xE0 <= marker <= 0xEF)
        ):
            raise InputError(_DAMAGED)
        if marker == 0xC4:
            tables |= _huffman_tables(body)
        elif marker == 0xC3:
            sof = body
        at += 2 + length
    samples = sof[5]
    sampling = [sof[7 + 3 * i] for i in range(samples)]
    used = [body[2 + 2 * i] for i in range(body[0])]
    predictor, end, transform = body[-3:]
    if (
        len(sof) != 6 + 3 * samples
        or not 2 <= sof[0] <= 16
        or set(sampling) != {0x11}
        or body[0] != samples
        or len(body) != 4 + 2 * samples
        or [body[1 + 2 * i] for i in range(samples)] != [sof[6 + 3 * i] for i in range(samples)]
        or any(u & 15 or u >> 4 not in tables for u in used)
        or not 1 <= predictor <= 7
        or end
        or transform >= sof[0]
    ):
        raise InputError(f"the lossless JPEG breaks the rules of its headers: {_DAMAGED}")


def _huffman_tables(body: bytes) -> set[int]:
    """The numbers of the tables in one DHT segment (T.81 B.2.4.2), each checked for being a prefix code."""
    found, at = set(), 0
    while at < len(body):
        counts = body[at + 1 : at + 17]
        room = 1 << 16
        for length, count in enumerate(counts, 1):
            room -= count << (16 - length)
        symbols = body[at + 17 : at + 17 + sum(counts)]
        if (
            len(counts) < 16
            or room < 0
            or len(symbols) < sum(counts)
            or not symbols
            or max(symbols) > 16
            or body[at] > 3
        ):
            raise InputError(f"a code table of the lossless JPEG is not valid: {_DAMAGED}")
        found.add(body[at])
        at += 17 + sum(counts)
    return found


@_cut_is_refused
def read_jpeg_ls(stream: bytes) -> StreamSize:
    """The size of a JPEG-LS stream (ITU-T T.87) that reaches its end marker."""
    if not stream.rstrip(b"\0").endswith(b"\xff\xd9"):
        raise InputError(_CUT)
    at = 2
    while stream[at + 1] != 0xF7:
        if stream[at] != 0xFF:
            raise InputError(_DAMAGED)
        at += 2 + int(struct.unpack_from(">H", stream, at + 2)[0])
    bits, height, width, channels = struct.unpack_from(">BHHB", stream, at + 4)
    return StreamSize(width_px=width, height_px=height, samples=channels, bits=bits)


@_cut_is_refused
def read_jpeg_2000(stream: bytes) -> StreamSize:
    """The size of a JPEG 2000 codestream (ITU-T T.800 annex A) that holds all its tiles."""
    start = stream.find(b"\xff\x4f\xff\x51")
    if start < 0:
        raise InputError(f"there is no JPEG 2000 codestream: {_DAMAGED}")
    size = struct.unpack_from(">8IHB", stream, start + 8)
    (x1, y1, x0, y0, tile_w, tile_h, tile_x, tile_y), channels, depth = size[:8], size[8], size[9]
    if not (x0 < x1 and y0 < y1 and tile_w and tile_h):
        raise InputError(_DAMAGED)
    tiles = -(-(x1 - tile_x) // tile_w) * -(-(y1 - tile_y) // tile_h)
    if _tiles_held(stream, start + 2) != tiles:
        raise InputError(f"tiles of the JPEG 2000 picture are missing: {_CUT}")
    return StreamSize(width_px=x1 - x0, height_px=y1 - y0, samples=channels, bits=(depth & 0x7F) + 1)


def _tiles_held(stream: bytes, at: int) -> int:
    """How many different tiles have complete tile-parts."""
    seen = set()
    while at + 2 <= len(stream):
        marker, length = struct.unpack_from(">HH", stream, at) if at + 4 <= len(stream) else (0xFFD9, 0)
        if marker == 0xFFD9 or marker < 0xFF00:
            break
        if marker != 0xFF90:
            at += 2 + length
            continue
        tile, part_bytes = struct.unpack_from(">HI", stream, at + 4)
        if part_bytes == 0:
            part_bytes = len(stream) - at
            if not stream.rstrip(b"\0").endswith(b"\xff\xd9"):
                raise InputError(_CUT)
        if part_bytes < 14 or at + part_bytes > len(stream):
            raise InputError(_CUT)
        seen.add(tile)
        at += part_bytes
    return len(seen)
