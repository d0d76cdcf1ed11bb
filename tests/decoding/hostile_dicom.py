"""Small DICOM files that are expensive to decode: element lists, sequences, and pixel data of every transfer syntax.

No input; gives the `Kind`s that belong to `hostile_files`. They exist because the element parser and each codestream decoder
have sizes of their own to trust or to check.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
from pydicom import uid

from tests.builders.dicom_files import dataset, encapsulated_file, file_bytes, jpeg_baseline, jpeg_lossless, xray_pixels
from tests.decoding.bombs import deflated_zeros, packbits_zeros
from tests.decoding.hostile_files import (
    GIB,
    MIDDLE,
    SIX,
    TEN,
    Bound,
    Kind,
    large,
    middle,
    resized_jpeg,
    sized_jpeg_2000,
    small,
)

TWELVE = xray_pixels(12, rows=201, columns=180)
GRAY = xray_pixels(8, rows=201, columns=180).astype(np.uint8)
_ITEM, _ITEM_END, _SEQUENCE_END = b"\xfe\xff\x00\xe0", b"\xfe\xff\x0d\xe0" + bytes(4), b"\xfe\xff\xdd\xe0" + bytes(4)
_UNDEFINED = b"\xff\xff\xff\xff"


def _insert_element(element: bytes, syntax: str = uid.ExplicitVRLittleEndian) -> bytes:
    """Return a valid file with an element in its encoding before the pixel data."""
    data = file_bytes(dataset(TWELVE), syntax)
    tag = data.rindex(b"\xe0\x7f\x10\0")
    return data[:tag] + element + data[tag:]


def _implicit(tag: bytes, value: bytes) -> bytes:
    return _insert_element(tag + struct.pack("<I", len(value)) + value, uid.ImplicitVRLittleEndian)


def _empty_items() -> bytes:
    """Return a sequence of undefined length with more empty items than a header may have elements, as the view code."""
    return _insert_element(b"\x54\0\x20\x02SQ\0\0" + _UNDEFINED + (_ITEM + bytes(4)) * 600_000 + _SEQUENCE_END)


def _nested(depth: int) -> bytes:
    opening = b"\x54\0\x20\x02SQ\0\0" + _UNDEFINED + _ITEM + _UNDEFINED
    return _insert_element(opening * depth + (_ITEM_END + _SEQUENCE_END) * depth)


def _lookup_tables() -> bytes:
    """Return 200,000 VOI LUT items; only the first is valid."""
    entries = np.linspace(0, 65535, 4096).astype("<u2").tobytes()
    item = (
        b"\x28\0\x02\x30US\6\0"
        + struct.pack("<HHH", 4096, 0, 16)
        + b"\x28\0\x06\x30OW\0\0"
        + struct.pack("<I", len(entries))
        + entries
    )
    first = _ITEM + struct.pack("<I", len(item)) + item
    return _insert_element(b"\x28\0\x10\x30SQ\0\0" + _UNDEFINED + first + (_ITEM + bytes(4)) * 200_000 + _SEQUENCE_END)


def _many_elements() -> bytes:
    """More private elements than a header may have."""
    return _insert_element(b"".join(struct.pack("<HH2sH", 0x0055, i & 0xFFFF, b"LO", 0) for i in range(600_000)))


def _fragments(count: int) -> bytes:
    """Pixel data in `count` empty fragments, then one with the image; the offset table still refers to the first."""
    data = encapsulated_file(dataset(GRAY, bits=8), jpeg_baseline(GRAY), uid.JPEGBaseline8Bit)
    first = data.index(_ITEM, data.rindex(b"\xe0\x7f\x10\0")) + 12  # after the offset table of one entry
    return data[:first] + (_ITEM + bytes(4)) * count + data[first:]


def _deflated_file(pixels: np.ndarray, size: int, start: bytes, *, zeros: int | None = None, **elements: Any) -> bytes:
    """Return a deflated file with `size` bytes of pixel data by its header: `start`, then zeros.

    pixels: a small image with the other elements.
    zeros: the number of zeros after `start`, if not `size`.
    """
    plain = file_bytes(dataset(pixels, bits=16, **elements), uid.ExplicitVRLittleEndian)
    empty = file_bytes(dataset(pixels, bits=16, **elements), uid.DeflatedExplicitVRLittleEndian)
    meta = empty[: 144 + int.from_bytes(empty[140:144], "little")]
    plain = plain[144 + int.from_bytes(plain[140:144], "little") :]
    tag = plain.rindex(b"\xe0\x7f\x10\0")
    head = plain[:tag] + b"\xe0\x7f\x10\0OW\0\0" + struct.pack("<I", size)
    start = head + start
    total = len(head) + size if zeros is None else len(start) + zeros
    return meta + deflated_zeros(total, start=start, raw=True)


def _square_elements(side: int, bits: int = 32) -> dict[str, Any]:
    return {"Rows": side, "Columns": side, "BitsAllocated": bits, "BitsStored": bits, "HighBit": bits - 1}


def _deflated_wide(side: int) -> bytes:
    return _deflated_file(TWELVE, 4 * side * side, b"\0\x80\0\0" * side, **_square_elements(side))


def _trailing_deflate() -> bytes:
    """Return a valid data set with padding of 4 GB as its last element."""
    pixels = TWELVE.astype("<u2").tobytes()
    padding = b"\xfc\xff\xfc\xffOB\0\0" + struct.pack("<I", 0xFFFFFFFE)
    return _deflated_file(TWELVE, len(pixels), pixels + padding, zeros=0xFFFFFFFE)


def _native(side: int, samples: int, bits: int) -> bytes:
    """Uncompressed: a gradient in the first row, zeros below."""
    pixels = TWELVE if samples == 1 else np.dstack([TWELVE] * 3)
    data = file_bytes(dataset(pixels, bits=16, **_square_elements(side, bits)))
    tag = data.rindex(b"\xe0\x7f\x10\0")
    size = side * side * samples * bits // 8
    row = np.repeat(np.arange(side, dtype=f"<u{bits // 8}"), samples).tobytes()
    return data[:tag] + b"\xe0\x7f\x10\0OW\0\0" + struct.pack("<I", size) + row + bytes(size - len(row))


def _stream(frame: bytes, syntax: str, *, deep: bool = True, samples: int = 1, **elements: Any) -> bytes:
    pixels = TWELVE if deep else GRAY
    pixels = pixels if samples == 1 else np.dstack([pixels] * samples)
    return encapsulated_file(dataset(pixels, bits=12 if deep else 8, **elements), frame, syntax)


def _run_length(size: int, *, planes: int = 2, **elements: Any) -> bytes:
    """RLE with equal planes: 128 values, then zeros."""
    segment = b"\x7f" + bytes(range(128)) + packbits_zeros(size - 128)
    segment += b"\0" * (len(segment) % 2)
    offsets = [64 + i * len(segment) for i in range(planes)]
    header = struct.pack("<16I", planes, *offsets, *[0] * (15 - planes))
    return _stream(header + segment * planes, uid.RLELossless, **elements)


def _side(side: int) -> dict[str, Any]:
    return {"Rows": side, "Columns": side}


def _rle_segments_claimed() -> bytes:
    return _stream(struct.pack("<16I", 0xFFFFFFFF, *[64] * 15) + bytes(1000), uid.RLELossless)


_JLS = imagecodecs.jpegls_encode(TWELVE)
_LL = jpeg_lossless(TWELVE, bits=12)
_NATIVE_BOUND = Bound(memory_mb=MIDDLE.memory_mb + 128, seconds=MIDDLE.seconds)  # the file itself has 128 MB

_HUGE = 65_535


def _lossless(frame: bytes, side: int, **elements: Any) -> Callable[[], bytes]:
    """Return a JPEG lossless or JPEG-LS stream with another size in its frame header."""
    syntax = uid.JPEGLSLossless if frame is _JLS else uid.JPEGLosslessSV1
    return lambda: _stream(resized_jpeg(frame, side, side), syntax, **elements)


def _jpeg_2000(side: int, *, tile: int | None = None, components: int = 1, **elements: Any) -> Callable[[], bytes]:
    def build() -> bytes:
        frame = sized_jpeg_2000(side, side, components=components, tile=tile)
        return _stream(frame, uid.JPEG2000Lossless, deep=False, samples=components, **elements)

    return build


def _small_tiles() -> bytes:
    frame = sized_jpeg_2000(180, 201, tile=1, shape=(201, 180))
    return _stream(frame, uid.JPEG2000Lossless, deep=False)


def _baseline(side: int) -> bytes:
    return _stream(resized_jpeg(jpeg_baseline(GRAY), side, side), uid.JPEGBaseline8Bit, deep=False)


_HEADER_KINDS = (
    small("600,000 empty items.dcm", _empty_items),
    small("sequences 100,000 deep.dcm", lambda: _nested(100_000)),
    small("200,000 lookup tables.dcm", _lookup_tables),
    small("600,000 elements.dcm", _many_elements),
    small("window of 50 MB.dcm", lambda: _implicit(b"\x28\0\x50\x10", b"2000\\" * 10_000_000 + b"2000 ")),
    small("character sets of 20 MB.dcm", lambda: _implicit(b"\x08\0\x05\0", b"ISO_IR 100\\" * 2_000_000)),
    small("number of 20 MB.dcm", lambda: _implicit(b"\x28\0\x08\0", b"1" * (20 << 20))),
    small("500,000 fragments.dcm", lambda: _fragments(500_000)),
)
_PIXEL_KINDS = (
    middle("deflated 32 bits 6000.dcm", lambda: _deflated_wide(SIX)),
    small("deflated, 4 GB of padding.dcm", _trailing_deflate),
    large("deflated, 4 GB of pixels.dcm", lambda: _deflated_file(TWELVE, 0xFFFFFFFE, bytes(range(250)))),
    Kind(name="native 32 bits 5700.dcm", build=lambda: _native(5700, 1, 32), bound=_NATIVE_BOUND),
    Kind(name="native rgb 16 bits 4600.dcm", build=lambda: _native(4600, 3, 16), bound=_NATIVE_BOUND),
    middle("run length 6000.dcm", lambda: _run_length(SIX * SIX, **_side(SIX)), decoded=True),
    middle("run length rgb 16 bits.dcm", lambda: _run_length(SIX * SIX, planes=6, samples=3, **_side(SIX))),
    small("run length of 1 GB.dcm", lambda: _run_length(GIB)),
    small("run length, 2^32 segments.dcm", _rle_segments_claimed, decoded=False),
    small("jpeg-ls 65535.dcm", _lossless(_JLS, _HUGE), decoded=False),
    large("jpeg-ls 10000.dcm", _lossless(_JLS, TEN, **_side(TEN)), decoded=False),
    small("jpeg lossless 65535.dcm", _lossless(_LL, _HUGE), decoded=False),
    middle("jpeg lossless 6000.dcm", _lossless(_LL, SIX, **_side(SIX)), decoded=False),
    small("jpeg 65500.dcm", lambda: _baseline(65_500), decoded=False),
    small("jpeg 2000 60000.dcm", _jpeg_2000(60_000), decoded=False),
    large("jpeg 2000 10000.dcm", _jpeg_2000(TEN, **_side(TEN))),
    large("jpeg 2000 9000.dcm", _jpeg_2000(9000, **_side(9000))),
    large("jpeg 2000 rgb 5500.dcm", _jpeg_2000(5500, components=3, **_side(5500))),
    large("jpeg 2000, tiles of 1 px.dcm", _jpeg_2000(9000, tile=1, **_side(9000)), decoded=False),
    small("jpeg 2000, small image, tiles of 1 px.dcm", _small_tiles),
)
DICOM = (*_HEADER_KINDS, *_PIXEL_KINDS)
