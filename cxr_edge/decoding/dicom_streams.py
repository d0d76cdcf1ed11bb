"""A compressed frame in, what it says of itself out: JPEG, JPEG-LS, JPEG 2000, each followed to its end.

It exists because decoders take a header's word for sizes and answer some cut-off streams with half a picture.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable
from dataclasses import dataclass

from cxr_edge.decoding import jpeg
from cxr_edge.decoding.dicom_frame import CUT, DAMAGED
from cxr_edge.decoding.dicom_syntaxes import JPEG_2000, JPEG_LOSSLESS, JPEG_LOSSY, JPEG_LS
from cxr_edge.errors import InputError

__all__ = ["StreamSize", "codestream", "read_size"]


@dataclass(frozen=True, kw_only=True)
class StreamSize:
    """What a stream says of itself. bits: of one sample. jpeg: the frame header, of a lossy JPEG stream."""

    width_px: int
    height_px: int
    samples: int
    bits: int
    jpeg: jpeg.JpegFrame | None = None


Reader = Callable[[bytes], StreamSize]


def _cut_is_refused(reader: Reader) -> Reader:
    """A reader for which running off the end of the stream is an InputError."""

    @functools.wraps(reader)
    def read(stream: bytes) -> StreamSize:
        try:
            return reader(stream)
        except (struct.error, IndexError):
            raise InputError(f"the compressed pixel data cannot be followed to their end: {CUT}") from None

    return read


@_cut_is_refused
def _read_jpeg(stream: bytes) -> StreamSize:
    """A sequential or progressive JPEG stream (ITU-T T.81) that holds all its scans."""
    size = _jpeg_size(stream, processes=(0, 1, 2))
    if size.bits not in (8, 12) or (size.bits == 12 and size.samples != 1):
        raise InputError(
            f"JPEG with {size.bits} bits and {size.samples} samples is not read here, 8 and gray of 12 bits are: "
            "export as JPEG lossless"
        )
    return size


@_cut_is_refused
def _read_jpeg_lossless(stream: bytes) -> StreamSize:
    """A lossless JPEG stream (ITU-T T.81 annex H) that keeps its rules."""
    size = _jpeg_size(stream, processes=(3,))
    _check_lossless(stream)
    return size


def _jpeg_size(stream: bytes, *, processes: tuple[int, ...]) -> StreamSize:
    if not stream.startswith(b"\xff\xd8\xff"):
        raise InputError(f"there is no JPEG stream: {DAMAGED}")
    found = jpeg.read_frame(stream)
    if found.process not in processes:
        raise InputError(
            f"the JPEG process (SOF{found.process}) is not the one that the transfer syntax says: {DAMAGED}"
        )
    return StreamSize(
        width_px=found.width_px,
        height_px=found.height_px,
        samples=found.samples,
        bits=found.bits,
        jpeg=found if found.process != 3 else None,
    )


def _check_lossless(stream: bytes) -> None:
    """Markers without gaps, tables before their use, values in range (T.81 B.2, H.1): decoders differ on the rest."""
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
            raise InputError(f"the lossless JPEG breaks the rules of its markers: {DAMAGED}")
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
        raise InputError(f"the lossless JPEG breaks the rules of its headers: {DAMAGED}")


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
            raise InputError(f"a code table of the lossless JPEG is not valid: {DAMAGED}")
        found.add(body[at])
        at += 17 + sum(counts)
    return found


@_cut_is_refused
def _read_jpeg_ls(stream: bytes) -> StreamSize:
    """A JPEG-LS stream (ITU-T T.87) that reaches its end marker."""
    at, frame_at = 2, 0
    while stream[at + 1] != 0xDA:
        if stream[at] != 0xFF:
            raise InputError(f"the JPEG-LS stream breaks the rules of its markers: {DAMAGED}")
        if stream[at + 1] == 0xF7:
            frame_at = at
        at += 2 + int(struct.unpack_from(">H", stream, at + 2)[0])
    if not frame_at:
        raise InputError(f"the JPEG-LS stream has no frame header: {DAMAGED}")
    # In coded data FF is followed by a zero bit (T.87 A.1), so the first end marker ends the picture.
    if stream.find(b"\xff\xd9", at) < 0:
        raise InputError(f"the JPEG-LS stream has no end marker: {CUT}")
    bits, height, width, samples = struct.unpack_from(">BHHB", stream, frame_at + 4)
    return StreamSize(width_px=width, height_px=height, samples=samples, bits=bits)


@_cut_is_refused
def _read_jpeg_2000(stream: bytes) -> StreamSize:
    """A JPEG 2000 codestream (ITU-T T.800 annex A), bare or in a JP2 file, that holds all its tiles."""
    stream = codestream(stream)
    size = struct.unpack_from(">8IH", stream, 8)
    (x1, y1, x0, y0, tile_w, tile_h, tile_x, tile_y), samples = size[:8], size[8]
    if not (x0 < x1 and y0 < y1 and tile_w and tile_h and tile_x <= x0 and tile_y <= y0 and 1 <= samples <= 4):
        raise InputError(f"the size of the JPEG 2000 picture is not valid: {DAMAGED}")
    components = stream[42 : 42 + 3 * samples]
    if len(components) < 3 * samples or any(components[i] != 1 for i in range(len(components)) if i % 3):
        raise InputError(f"the components of the JPEG 2000 picture are subsampled, which is not read here: {DAMAGED}")
    tiles = -(-(x1 - tile_x) // tile_w) * -(-(y1 - tile_y) // tile_h)
    if tiles > 65535 or _tiles_held(stream, 2) != tiles:
        raise InputError(f"tiles of the JPEG 2000 picture are missing: {CUT}")
    bits = max(components[i] & 0x7F for i in range(0, len(components), 3)) + 1
    return StreamSize(width_px=x1 - x0, height_px=y1 - y0, samples=samples, bits=bits)


def codestream(stream: bytes) -> bytes:
    """From SOC to EOC, without a JP2 file's boxes and without padding behind."""
    start = stream.find(b"\xff\x4f\xff\x51")
    if start < 0:
        raise InputError(f"there is no JPEG 2000 codestream: {DAMAGED}")
    end = stream.rfind(b"\xff\xd9")  # coded data have no marker above FF8F (T.800 A.1)
    return stream[start : end + 2] if end > start else stream[start:]


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
        if part_bytes == 0:  # the last tile-part, up to the end marker
            part_bytes = len(stream) - at
            if not stream.endswith(b"\xff\xd9"):
                raise InputError(f"the JPEG 2000 codestream has no end marker: {CUT}")
        if part_bytes < 14 or at + part_bytes > len(stream):
            raise InputError(f"a tile of the JPEG 2000 picture is cut off: {CUT}")
        seen.add(tile)
        at += part_bytes
    return len(seen)


_READERS: dict[str, Reader] = {
    **dict.fromkeys(JPEG_LOSSY, _read_jpeg),
    **dict.fromkeys(JPEG_LOSSLESS, _read_jpeg_lossless),
    **dict.fromkeys(JPEG_LS, _read_jpeg_ls),
    **dict.fromkeys(JPEG_2000, _read_jpeg_2000),
}


def read_size(stream: bytes, syntax: str) -> StreamSize:
    """What the stream says of itself; not for RLE, which says nothing. Raises InputError where it is cut or damaged."""
    return _READERS[syntax](stream)
