"""Header parsers for compressed DICOM frames: a JPEG, JPEG-LS or JPEG 2000 stream in, its size and depth out.

Each stream is parsed to its end, because decoders trust the sizes in a header and return half an image for some truncated
streams.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable
from dataclasses import dataclass

from cxr_edge.decoding import jpeg
from cxr_edge.decoding.dicom_frame import PIXELS_DAMAGED, PIXELS_TRUNCATED
from cxr_edge.decoding.dicom_syntaxes import JPEG_2000, JPEG_LOSSLESS, JPEG_LOSSY, JPEG_LS
from cxr_edge.errors import InputError

__all__ = ["StreamHeader", "extract_codestream", "read_stream_header"]


@dataclass(frozen=True, kw_only=True)
class StreamHeader:
    """Properties of a stream by its own header."""

    width_px: int
    height_px: int
    samples: int  # per pixel
    bits: int  # of one sample
    jpeg: jpeg.FrameHeader | None = None  # of a lossy JPEG stream


_Parser = Callable[[bytes], StreamHeader]


def _reject_truncated(parser: _Parser) -> _Parser:
    """Wrap a parser so that reading beyond the end of the stream raises InputError."""

    @functools.wraps(parser)
    def parse(stream: bytes) -> StreamHeader:
        try:
            return parser(stream)
        except (struct.error, IndexError):
            raise InputError(f"the compressed pixel data are incomplete: {PIXELS_TRUNCATED}") from None

    return parse


@_reject_truncated
def _parse_jpeg(stream: bytes) -> StreamHeader:
    """Parse a sequential or progressive JPEG stream (ITU-T T.81) with all its scans."""
    header = _jpeg_header(stream, processes=(0, 1, 2))
    if header.bits not in (8, 12) or (header.bits == 12 and header.samples != 1):
        raise InputError(
            f"JPEG with {header.bits} bits and {header.samples} samples is not supported, only 8 bits, and gray of 12 bits: "
            "export as JPEG lossless"
        )
    return header


@_reject_truncated
def _parse_jpeg_lossless(stream: bytes) -> StreamHeader:
    """Parse a lossless JPEG stream that conforms to ITU-T T.81 annex H."""
    header = _jpeg_header(stream, processes=(3,))
    _check_lossless(stream)
    return header


def _jpeg_header(stream: bytes, *, processes: tuple[int, ...]) -> StreamHeader:
    if not stream.startswith(b"\xff\xd8\xff"):
        raise InputError(f"the pixel data contain no JPEG stream: {PIXELS_DAMAGED}")
    frame = jpeg.read_frame_header(stream)
    if frame.process not in processes:
        raise InputError(f"the JPEG process (SOF{frame.process}) does not match the transfer syntax: {PIXELS_DAMAGED}")
    return StreamHeader(
        width_px=frame.width_px,
        height_px=frame.height_px,
        samples=frame.samples,
        bits=frame.bits,
        jpeg=frame if frame.process != 3 else None,
    )


def _check_lossless(stream: bytes) -> None:
    """Check markers without gaps, tables before use, values in range (T.81 B.2, H.1): decoders differ on other streams."""
    tables: set[int] = set()
    offset, sof, marker = 2, b"", 0
    while marker != 0xDA:
        prefix, marker, length = struct.unpack_from(">BBH", stream, offset)
        body = stream[offset + 4 : offset + 2 + length]
        if (
            prefix != 0xFF
            or length < 2
            or not (marker in (0xC3, 0xC4, 0xDA, 0xDB, 0xDD, 0xFE) or 0xE0 <= marker <= 0xEF)
        ):
            raise InputError(f"the markers of the lossless JPEG are invalid: {PIXELS_DAMAGED}")
        if marker == 0xC4:
            tables |= _huffman_tables(body)
        elif marker == 0xC3:
            sof = body
        offset += 2 + length
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
        raise InputError(f"the headers of the lossless JPEG are invalid: {PIXELS_DAMAGED}")


def _huffman_tables(body: bytes) -> set[int]:
    """Return the numbers of the tables in one DHT segment (T.81 B.2.4.2); check that each is a prefix code."""
    numbers, offset = set(), 0
    while offset < len(body):
        counts = body[offset + 1 : offset + 17]
        free_codes = 1 << 16
        for length, count in enumerate(counts, 1):
            free_codes -= count << (16 - length)
        symbols = body[offset + 17 : offset + 17 + sum(counts)]
        if (
            len(counts) < 16
            or free_codes < 0
            or len(symbols) < sum(counts)
            or not symbols
            or max(symbols) > 16
            or body[offset] > 3
        ):
            raise InputError(f"a code table of the lossless JPEG is not valid: {PIXELS_DAMAGED}")
        numbers.add(body[offset])
        offset += 17 + sum(counts)
    return numbers


@_reject_truncated
def _parse_jpeg_ls(stream: bytes) -> StreamHeader:
    """Parse a JPEG-LS stream (ITU-T T.87) with an end marker."""
    offset, frame_offset = 2, 0
    while stream[offset + 1] != 0xDA:
        if stream[offset] != 0xFF:
            raise InputError(f"the markers of the JPEG-LS stream are invalid: {PIXELS_DAMAGED}")
        if stream[offset + 1] == 0xF7:
            frame_offset = offset
        offset += 2 + int(struct.unpack_from(">H", stream, offset + 2)[0])
    if not frame_offset:
        raise InputError(f"the JPEG-LS stream has no frame header: {PIXELS_DAMAGED}")
    # In coded data FF is followed by a zero bit (T.87 A.1), so the first end marker ends the image.
    if stream.find(b"\xff\xd9", offset) < 0:
        raise InputError(f"the JPEG-LS stream has no end marker: {PIXELS_TRUNCATED}")
    bits, height, width, samples = struct.unpack_from(">BHHB", stream, frame_offset + 4)
    return StreamHeader(width_px=width, height_px=height, samples=samples, bits=bits)


@_reject_truncated
def _parse_jpeg_2000(stream: bytes) -> StreamHeader:
    """Parse a JPEG 2000 codestream (ITU-T T.800 annex A), bare or in a JP2 file, with all its tiles."""
    stream = extract_codestream(stream)
    size = struct.unpack_from(">8IH", stream, 8)
    (x1, y1, x0, y0, tile_w, tile_h, tile_x, tile_y), samples = size[:8], size[8]
    if not (x0 < x1 and y0 < y1 and tile_w and tile_h and tile_x <= x0 and tile_y <= y0 and 1 <= samples <= 4):
        raise InputError(f"the size of the JPEG 2000 image is not valid: {PIXELS_DAMAGED}")
    components = stream[42 : 42 + 3 * samples]
    if len(components) < 3 * samples or any(components[i] != 1 for i in range(len(components)) if i % 3):
        raise InputError(
            f"the components of the JPEG 2000 image are subsampled, which is not supported: {PIXELS_DAMAGED}"
        )
    tiles = -(-(x1 - tile_x) // tile_w) * -(-(y1 - tile_y) // tile_h)
    if tiles > 65535 or _complete_tiles(stream) != tiles:
        raise InputError(f"tiles of the JPEG 2000 image are missing: {PIXELS_TRUNCATED}")
    bits = max(components[i] & 0x7F for i in range(0, len(components), 3)) + 1
    return StreamHeader(width_px=x1 - x0, height_px=y1 - y0, samples=samples, bits=bits)


def extract_codestream(stream: bytes) -> bytes:
    """Return the codestream from SOC to EOC, without the boxes of a JP2 file and without padding."""
    start = stream.find(b"\xff\x4f\xff\x51")
    if start < 0:
        raise InputError(f"the pixel data contain no JPEG 2000 codestream: {PIXELS_DAMAGED}")
    end = stream.rfind(b"\xff\xd9")  # coded data contain no marker above FF8F (T.800 A.1)
    return stream[start : end + 2] if end > start else stream[start:]


def _complete_tiles(stream: bytes) -> int:
    """Return the number of different tiles with complete tile-parts."""
    tiles, offset = set(), 2
    while offset + 2 <= len(stream):
        marker, length = struct.unpack_from(">HH", stream, offset) if offset + 4 <= len(stream) else (0xFFD9, 0)
        if marker == 0xFFD9 or marker < 0xFF00:
            break
        if marker != 0xFF90:
            offset += 2 + length
            continue
        tile, part_bytes = struct.unpack_from(">HI", stream, offset + 4)
        if part_bytes == 0:  # the last tile-part, up to the end marker
            part_bytes = len(stream) - offset
            if not stream.endswith(b"\xff\xd9"):
                raise InputError(f"the JPEG 2000 codestream has no end marker: {PIXELS_TRUNCATED}")
        if part_bytes < 14 or offset + part_bytes > len(stream):
            raise InputError(f"a tile of the JPEG 2000 image is cut off: {PIXELS_TRUNCATED}")
        tiles.add(tile)
        offset += part_bytes
    return len(tiles)


_PARSERS: dict[str, _Parser] = {
    **dict.fromkeys(JPEG_LOSSY, _parse_jpeg),
    **dict.fromkeys(JPEG_LOSSLESS, _parse_jpeg_lossless),
    **dict.fromkeys(JPEG_LS, _parse_jpeg_ls),
    **dict.fromkeys(JPEG_2000, _parse_jpeg_2000),
}


def read_stream_header(stream: bytes, syntax: str) -> StreamHeader:
    """Parse the header of a stream, not of RLE, which has none. Raises InputError if it is truncated or damaged."""
    return _PARSERS[syntax](stream)
