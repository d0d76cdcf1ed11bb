"""The compressed frame of a DICOM file: its fragments joined, followed to its end, then decoded.

It exists because decoders take a header's word for sizes and answer some cut-off streams with half a picture, and because
real files break the rules of encapsulation (PS3.5 annex A.4): offset tables that are wrong or missing, no delimiter at the
end, padding behind the end marker.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr_edge.decoding import jpeg
from cxr_edge.decoding.dicom_elements import PixelElement
from cxr_edge.decoding.dicom_header import Header
from cxr_edge.errors import InputError
from cxr_edge.records import Flag

__all__ = ["DAMAGED", "RLE", "SYNTAXES", "StreamSize", "decoded", "decoded_rle", "decoder_bytes", "frame", "read_size"]

CUT = "the pixel data end too early (truncated copy or transfer): copy or export the file again"
DAMAGED = "the compressed pixel data are damaged: copy or export the file again"

_JPEG_BASELINE, _JPEG_EXTENDED = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"
_JPEG_LOSSLESS = ("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")
_JPEG_LS = ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81")
_JPEG_2000 = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")
RLE = "1.2.840.10008.1.2.5"
# APP14 that says "not transformed", for RGB streams that DICOM's header alone tells from YBR.
_ADOBE_RGB = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\0"
_ITEM, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE0DD
_TAIL_PX = 16
_STREAM_STARTS = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  ")


@dataclass(frozen=True, kw_only=True)
class StreamSize:
    """What a stream says of itself. bits: of one sample. jpeg: the frame header, of a lossy JPEG stream."""

    width_px: int
    height_px: int
    samples: int
    bits: int
    jpeg: jpeg.JpegFrame | None = None


Reader = Callable[[bytes], StreamSize]


def decoder_bytes(syntax: str, samples: int, allocated: int) -> float:
    """Bytes per pixel that decoding takes at most. allocated: bytes of a pixel in the header's words."""
    if syntax in _JPEG_2000:
        return 8 * samples + 2 * samples  # 32-bit coefficients and 32-bit samples, then the values
    return allocated + 2 * samples


# Fragments --------------------------------------------------------------------------------------------------------------


def frame(header: Header, pixels: PixelElement, syntax: str) -> bytes:
    """The one compressed frame: all fragments joined. Departures are noted in the header. Raises InputError."""
    fragments = _fragments(header, pixels)
    if fragments and not _is_offset_table(fragments[0], syntax):
        header.note("the compressed pixel data have no basic offset table")
    elif fragments:
        table = fragments.pop(0)
        if len(table) >= 4 and any(table[:4]):
            header.note("the basic offset table of the one frame does not begin with 0")
    if not fragments:
        raise InputError(f"the compressed pixel data have no frame: {CUT}")
    return b"".join(fragments)


def _fragments(header: Header, pixels: PixelElement) -> list[bytes]:
    """The items of the encapsulated pixel data, the offset table first."""
    data, at = memoryview(header.elements.data), pixels.start
    end = len(data) if pixels.length is None else min(len(data), at + pixels.length)
    found: list[bytes] = []
    while at + 8 <= end:
        group, element, length = struct.unpack_from("<HHI", data, at)
        if group << 16 | element == _SEQUENCE_END:
            return found
        if group << 16 | element != _ITEM:
            if not found or any(data[at : at + 2]):
                raise InputError(f"the fragments of the compressed pixel data cannot be followed: {DAMAGED}")
            break  # padding instead of the delimiter
        # Of a fragment that is cut off, what is there: whether the picture in it is whole is for the stream's reader.
        found.append(bytes(data[at + 8 : min(at + 8 + length, end)]))
        at += 8 + length
    header.note("the compressed pixel data have no sequence delimiter")
    return found


def _is_offset_table(item: bytes, syntax: str) -> bool:
    """The first item is the table, empty or one offset for one frame; some files begin with the picture at once."""
    if len(item) in (0, 4):
        return True
    return not item.startswith(_STREAM_STARTS) and not (syntax == RLE and len(item) > 64 and 0 < item[0] <= 15)


# Headers ----------------------------------------------------------------------------------------------------------------


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
    stream = _codestream(stream)
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


def _codestream(stream: bytes) -> bytes:
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
    _JPEG_BASELINE: _read_jpeg,
    _JPEG_EXTENDED: _read_jpeg,
    **dict.fromkeys(_JPEG_LOSSLESS, _read_jpeg_lossless),
    **dict.fromkeys(_JPEG_LS, _read_jpeg_ls),
    **dict.fromkeys(_JPEG_2000, _read_jpeg_2000),
}
SYNTAXES = (*_READERS, RLE)
"""The compressed transfer syntaxes that are read."""


def read_size(stream: bytes, syntax: str) -> StreamSize:
    """What the stream says of itself; not for RLE, which says nothing. Raises InputError where it is cut or damaged."""
    return _READERS[syntax](stream)


# Pixels -----------------------------------------------------------------------------------------------------------------


def decoded(stream: bytes, size: StreamSize, syntax: str, *, rgb: bool) -> tuple[npt.NDArray[Any], tuple[Flag, ...]]:
    """Values (rows, columns) or (rows, columns, 3) of a stream whose size was checked; a flag on what its decoder noticed.

    rgb: the DICOM header says RGB, which a JPEG stream alone need not. Raises InputError for damaged data.
    """
    if size.jpeg is not None and size.bits == 8:
        if rgb and b"Adobe\0" not in stream[:4096]:
            stream = stream[:2] + _ADOBE_RGB + stream[2:]
        try:
            values, flags = jpeg.decoded_8_bit(stream, size.jpeg)
        except InputError as error:
            raise InputError(f"the compressed picture: {error}") from None
        return values, flags
    values = _by_imagecodecs(stream, syntax)
    if syntax in _JPEG_LOSSLESS:
        _refuse_unfinished(stream, values)
    return values, ()


def _imagecodecs() -> Any:
    """The package, imported where it is used: uncompressed files need none."""
    try:
        import imagecodecs
    except ImportError:
        raise InputError(
            "compressed DICOM needs imagecodecs, which cannot be imported: install the package imagecodecs, or export "
            "uncompressed"
        ) from None
    return imagecodecs


def _by_imagecodecs(stream: bytes, syntax: str) -> npt.NDArray[Any]:
    imagecodecs = _imagecodecs()
    try:
        if syntax in _JPEG_LS:
            values = imagecodecs.jpegls_decode(stream[: stream.index(b"\xff\xd9", stream.index(b"\xff\xda")) + 2])
        elif syntax in _JPEG_2000:
            values = imagecodecs.jpeg2k_decode(_codestream(stream))
        else:
            values = imagecodecs.jpeg8_decode(stream)
    except Exception:  # each codec's own type, ValueError, RuntimeError, MemoryError
        raise InputError(f"the compressed pixel data cannot be decoded: {DAMAGED}") from None
    return np.asarray(values)


def _refuse_unfinished(stream: bytes, values: npt.NDArray[Any]) -> None:
    """Refuse a lossless JPEG whose coded data end before its last pixel does.

    libjpeg-turbo then gives rows of one value, and imagecodecs does not pass its warning on. So where the picture ends in one
    value, it is decoded again with other bits behind the data, which do not change a whole picture.
    """
    if np.any(values[-1, -_TAIL_PX:] != values[-1, -1]):
        return
    end = stream.rindex(b"\xff\xd9")
    for fill in (b"\x55", b"\xaa"):
        longer = stream[:end] + fill * 64 + stream[end:]
        if not np.array_equal(_by_imagecodecs(longer, _JPEG_LOSSLESS[0]), values):
            raise InputError(f"the coded data of the lossless JPEG end before its picture does: {CUT}")


def decoded_rle(stream: bytes, *, rows: int, columns: int, samples: int, bytes_per_sample: int) -> npt.NDArray[Any]:
    """Words (rows, columns) or (rows, columns, samples) of a run-length coded frame (PS3.5 annex G). Raises InputError."""
    imagecodecs = _imagecodecs()
    size = rows * columns * samples * bytes_per_sample
    planes = int.from_bytes(stream[:4], "little")
    if planes != samples * bytes_per_sample:
        raise InputError(
            f"the run-length coded picture has {planes} byte planes, {samples} samples of {8 * bytes_per_sample} bits have "
            f"{samples * bytes_per_sample}: {DAMAGED}"
        )
    try:
        data = imagecodecs.dicomrle_decode(stream, f"<u{bytes_per_sample}", out=size)
    except Exception:  # more data than the picture has, offsets that lead nowhere
        raise InputError(f"the run-length coded pixel data cannot be decoded: {DAMAGED}") from None
    if len(data) != size:
        raise InputError(f"the run-length coded pixel data give {len(data):,} of {size:,} bytes: {CUT}")
    values = np.frombuffer(data, f"<u{bytes_per_sample}")
    return values.reshape(rows, columns) if samples == 1 else np.moveaxis(values.reshape(samples, rows, columns), 0, -1)
