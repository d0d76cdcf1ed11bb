"""TIFF header parser: a file in, the layout of its image out: offsets and coding of the segments (strips or tiles).

It exists because the tags of a TIFF file cannot be trusted: only those in `_TAGS` are read, each once and only as many values
as the layout needs, so that time and memory stay linear in the file's length. Unsupported layouts are rejected by their tags,
before anything is decoded (TIFF 6.0; BigTIFF; libtiff's list of registered values).
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

from cxr_edge.decoding.decoded_image import DAMAGED, TRUNCATED
from cxr_edge.decoding.formats import HOW_TO_CONVERT
from cxr_edge.errors import InputError

__all__ = ["FLOAT", "JPEG", "NONE", "PALETTE", "WEBP", "WHITE_IS_ZERO", "TiffLayout", "read_layout"]

_TYPES = {1: "B", 2: "B", 3: "H", 4: "I", 5: "I", 7: "B", 13: "I", 16: "Q"}  # a rational (5) is two words
_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER = 254, 256, 257, 258, 259, 262, 266
_STRIP_OFFSETS, _ORIENTATION, _SAMPLES, _ROWS_PER_STRIP, _STRIP_BYTES = 273, 274, 277, 278, 279
_X_RESOLUTION, _Y_RESOLUTION, _PLANAR, _PREDICTOR, _COLOR_MAP = 282, 283, 284, 317, 320
_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_BYTES = 322, 323, 324, 325
_EXTRA, _FORMAT, _JPEG_TABLES, _SUBSAMPLING, _XMP, _DEPTH = 338, 339, 347, 530, 700, 32997
_TAGS = frozenset(
    (
        *(_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER, _STRIP_OFFSETS, _ORIENTATION),
        *(_SAMPLES, _ROWS_PER_STRIP, _STRIP_BYTES, _X_RESOLUTION, _Y_RESOLUTION, _PLANAR, _PREDICTOR, _COLOR_MAP),
        *(_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_BYTES, _EXTRA, _FORMAT, _JPEG_TABLES, _SUBSAMPLING),
        *(_XMP, _DEPTH),
    )
)
_MAX_DIRECTORIES, _MAX_ENTRIES = 64, 4096
_MAX_XMP_BYTES = 1 << 20

NONE, JPEG, WEBP = 1, 7, 50001
_COMPRESSIONS = (NONE, 5, JPEG, 8, 32773, 32946, 34925, 50000, WEBP)
_OTHER_COMPRESSIONS = {
    2: "CCITT RLE",
    3: "CCITT fax 3",
    4: "CCITT fax 4",
    6: "old-style JPEG",
    34676: "LogLuv",
    34677: "LogLuv 24",
    34712: "JPEG 2000",
    34887: "LERC",
    33003: "JPEG 2000",
    33005: "JPEG 2000",
    34892: "lossy JPEG of DNG",
    34926: "Zstandard",
    34933: "PNG",
    34934: "JPEG XR",
    50002: "JPEG XL",
    52546: "JPEG XL",
}
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, YCBCR = 0, 1, 2, 3, 6
_COLOURS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, YCBCR: 3}
_OTHER_PHOTOMETRICS = {4: "transparency mask", 5: "CMYK", 8: "CIELab", 9: "ICCLab", 10: "ITULab", 32803: "camera raw"}
UNSIGNED, FLOAT = 1, 3
_FORMATS = {1: "unsigned", 2: "signed", 3: "floating-point"}


@dataclass(frozen=True, kw_only=True)
class TiffLayout:
    """Storage of the image. Values without a comment are those of the TIFF tag of that name."""

    order: str  # byte order for `struct`
    width_px: int
    height_px: int
    bits: int  # of one sample
    samples: int  # per pixel, alpha included
    sample_format: int
    compression: int
    photometric: int
    planar: bool
    predictor: int
    fill_order: int
    tiled: bool
    segment_width: int  # of a strip or tile, in pixels
    segment_height: int
    segments: tuple[tuple[int, int], ...]  # (offset, bytes), all within the file
    extra: int | None  # ExtraSamples value of the sample in addition to gray or colour, None without one
    orientation: int | None
    xmp: bytes
    color_map: tuple[int, ...]  # red, then green, then blue entries of 16 bits
    jpeg_tables: bytes
    subsampling: tuple[int, ...]
    resolution: tuple[float, float]  # horizontal and vertical; 0: not known


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """Location of the values of one tag."""

    code: str  # struct type of one value
    count: int
    offset: int


class _File:
    """Bytes of a TIFF with their byte order and word size."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.order = "<" if data[:2] == b"II" else ">"
        self.big = self.unpack("H", 2)[0] == 43  # BigTIFF
        self.word = "Q" if self.big else "I"
        self.first_directory = self.unpack(self.word, 8 if self.big else 4)[0]

    def unpack(self, codes: str, offset: int) -> tuple[int, ...]:
        """Return values at a byte offset. Raises struct.error beyond the end."""
        if offset > len(self.data):
            raise struct.error("beyond the end of the file")
        return struct.unpack_from(self.order + codes, self.data, offset)


class _Directory:
    """Entries of one directory with tags in `_TAGS`, and the offset of the next directory."""

    def __init__(self, file: _File, offset: int) -> None:
        self._file = file
        head, entry = (8, 20) if file.big else (2, 12)
        count = file.unpack("Q" if file.big else "H", offset)[0]
        if count > _MAX_ENTRIES or offset + head + count * entry > len(file.data):
            raise InputError(f"a directory of this TIFF has {count:,} tags: {DAMAGED}")
        self._entries: dict[int, _Entry] = {}
        for start in range(offset + head, offset + head + count * entry, entry):
            self._add(start)
        self.next_offset = file.unpack(file.word, offset + head + count * entry)[0]

    def _add(self, start: int) -> None:
        file = self._file
        tag, kind, count = file.unpack("HH" + file.word, start)
        code = _TYPES.get(kind)
        if tag not in _TAGS or code is None:
            return
        if tag in self._entries:
            raise InputError(f"tag {tag} occurs twice in a directory of this TIFF: {DAMAGED}")
        count *= 2 if kind == 5 else 1
        size, inline = struct.calcsize(code) * count, 8 if file.big else 4
        offset = start + (12 if file.big else 8)
        if size > inline:
            offset = file.unpack(file.word, offset)[0]
        self._entries[tag] = _Entry(code=code, count=count, offset=offset)

    def values(self, tag: int, limit: int) -> tuple[int, ...]:
        """Return at most the first `limit` values of a tag; empty if it is missing."""
        entry = self._entries.get(tag)
        if entry is None:
            return ()
        count = min(entry.count, limit)
        return self._file.unpack(f"{count}{entry.code}", entry.offset)

    def raw(self, tag: int, limit: int) -> bytes:
        """Return at most the first `limit` bytes of a tag of bytes."""
        entry = self._entries.get(tag)
        if entry is None or entry.code != "B":
            return b""
        return bytes(self._file.data[entry.offset : entry.offset + min(entry.count, limit)])

    def value(self, tag: int, default: int) -> int:
        """Return the first value of a tag."""
        return next(iter(self.values(tag, 1)), default)


def read_layout(data: bytes) -> TiffLayout:
    """Return the layout of the one image in a TIFF. Raises InputError if it is truncated, damaged or not supported."""
    try:
        file = _File(data)
        page = _Directory(file, file.first_directory)
        _check_one_page(file, page)
        return _layout(file, page)
    except struct.error:
        raise InputError(TRUNCATED) from None


def _check_one_page(file: _File, page: _Directory) -> None:
    """Reject a second page; reduced-resolution copies (NewSubfileType bit 0) do not count."""
    visited = {file.first_directory}
    while page.next_offset:
        if page.next_offset in visited or len(visited) > _MAX_DIRECTORIES:
            raise InputError(
                f"the directories of this TIFF form a cycle or are more than {_MAX_DIRECTORIES}: {DAMAGED}"
            )
        visited.add(page.next_offset)
        page = _Directory(file, page.next_offset)
        if not page.value(_SUBFILE, 0) & 1:
            raise InputError(f"this TIFF contains several pages: {HOW_TO_CONVERT}, one image per file")


def _layout(file: _File, page: _Directory) -> TiffLayout:
    samples, photometric, compression = (
        page.value(_SAMPLES, 1),
        page.value(_PHOTOMETRIC, -1),
        page.value(_COMPRESSION, NONE),
    )
    bits = page.values(_BITS, 8) or (1,)
    formats = page.values(_FORMAT, 8) or (UNSIGNED,)
    _check_coding(photometric, compression, samples)
    _check_samples(bits, formats, colours=_COLOURS[photometric], compression=compression)
    _check_depth(page)
    width, height = page.value(_WIDTH, 0), page.value(_HEIGHT, 0)
    tiled = bool(page.values(_TILE_OFFSETS, 1))
    segment_width = page.value(_TILE_WIDTH, 0) if tiled else width
    segment_height = page.value(_TILE_HEIGHT, 0) if tiled else min(page.value(_ROWS_PER_STRIP, height), height)
    planar = page.value(_PLANAR, 1) == 2 and samples > 1
    extra = samples - _COLOURS[photometric]
    layout = TiffLayout(
        order=file.order,
        width_px=width,
        height_px=height,
        bits=bits[0],
        samples=samples,
        sample_format=formats[0],
        compression=compression,
        photometric=photometric,
        planar=planar,
        predictor=page.value(_PREDICTOR, 1),
        fill_order=page.value(_FILL_ORDER, 1),
        tiled=tiled,
        segment_width=segment_width,
        segment_height=segment_height,
        segments=_segments(
            file,
            page,
            tiled=tiled,
            count=_segment_count(width, height, segment_width, segment_height) * (samples if planar else 1),
        ),
        extra=_extra(page) if extra else None,
        orientation=page.value(_ORIENTATION, 0) or None,
        xmp=page.raw(_XMP, _MAX_XMP_BYTES),
        color_map=page.values(_COLOR_MAP, 3 << bits[0]) if photometric == PALETTE else (),
        jpeg_tables=page.raw(_JPEG_TABLES, 1 << 16),
        subsampling=page.values(_SUBSAMPLING, 2),
        resolution=(_rational(page, _X_RESOLUTION), _rational(page, _Y_RESOLUTION)),
    )
    if photometric == PALETTE and len(layout.color_map) != 3 << layout.bits:
        raise InputError(f"the colour map of this TIFF is missing or short: {DAMAGED}")
    return layout


def _check_coding(photometric: int, compression: int, samples: int) -> None:
    if compression not in _COMPRESSIONS:
        name = _OTHER_COMPRESSIONS.get(compression, "an unknown one")
        raise InputError(
            f"a TIFF with compression {compression} ({name}) is not supported: save it with LZW, deflate or none"
        )
    if photometric not in _COLOURS or (photometric == YCBCR and compression != JPEG):
        name = _OTHER_PHOTOMETRICS.get(
            photometric, "YCbCr without JPEG" if photometric == YCBCR else "missing or unknown"
        )
        raise InputError(
            f"a TIFF with photometric interpretation {photometric} ({name}) is not supported: save it as gray"
        )
    if not 0 <= samples - _COLOURS[photometric] <= 1 or (
        photometric in (PALETTE, YCBCR) and samples != _COLOURS[photometric]
    ):
        raise InputError(
            f"a TIFF with {samples} samples per pixel is not supported, expected gray or RGB with at most one extra sample "
            "(alpha): save it as gray"
        )


def _check_samples(bits: tuple[int, ...], formats: tuple[int, ...], *, colours: int, compression: int) -> None:
    if len(set(bits)) != 1 or len(set(formats)) != 1:
        raise InputError(f"the samples of this TIFF have different bits {bits} or formats {formats}: save it as gray")
    depth, kind = bits[0], formats[0]
    allowed: tuple[int, ...] = {UNSIGNED: (1, 2, 4, 8, 10, 12, 14, 16), FLOAT: (16, 32, 64)}.get(kind, ())
    if kind == FLOAT and colours > 1:
        raise InputError("floating-point colour is not supported: save the image as gray with 8 or 16 bits")
    if kind == UNSIGNED and colours > 1:
        allowed = (8, 16)
    if kind == UNSIGNED and compression in (JPEG, WEBP):
        allowed = (8,)
    if depth not in allowed:
        name = _FORMATS.get(kind, "complex or unknown")
        raise InputError(
            f"a TIFF with {depth}-bit {name} samples is not supported: save it with 8 or 16 bits, unsigned"
        )


def _check_depth(page: _Directory) -> None:
    if page.value(_DEPTH, 1) != 1:
        raise InputError(
            f"this TIFF contains a volume of {page.value(_DEPTH, 1)} layers: {HOW_TO_CONVERT}, one image per file"
        )
    predictor, fill_order = page.value(_PREDICTOR, 1), page.value(_FILL_ORDER, 1)
    if predictor not in (1, 2, 3) or fill_order not in (1, 2):
        raise InputError(f"the TIFF gives predictor {predictor} and fill order {fill_order}: {DAMAGED}")


def _segment_count(width: int, height: int, segment_width: int, segment_height: int) -> int:
    if min(width, height, segment_width, segment_height) < 1:
        raise InputError(
            f"the TIFF gives a size of {width}x{height} px in segments of {segment_width}x{segment_height}: {DAMAGED}"
        )
    return math.ceil(width / segment_width) * math.ceil(height / segment_height)


def _segments(file: _File, page: _Directory, *, tiled: bool, count: int) -> tuple[tuple[int, int], ...]:
    """Return (offset, bytes) of each segment, checked to be within the file."""
    if count > len(file.data):
        raise InputError(TRUNCATED)  # each offset takes at least two bytes
    offsets = page.values(_TILE_OFFSETS if tiled else _STRIP_OFFSETS, count)
    sizes = page.values(_TILE_BYTES if tiled else _STRIP_BYTES, count)
    if not sizes and count == 1 and offsets:
        sizes = (max(0, len(file.data) - offsets[0]),)
    if len(offsets) < count or len(sizes) < count:
        raise InputError(f"the TIFF has {min(len(offsets), len(sizes))} of {count} strips or tiles: {DAMAGED}")
    segments = tuple(zip(offsets, sizes, strict=True))
    if any(size == 0 or offset + size > len(file.data) for offset, size in segments):
        raise InputError(TRUNCATED)
    return segments


def _extra(page: _Directory) -> int:
    """Return the meaning of the extra sample: 1 or 2, alpha; 0, unspecified (also for values that TIFF 6.0 does not have)."""
    value = page.value(_EXTRA, 0)
    return value if value in (1, 2) else 0


def _rational(page: _Directory, tag: int) -> float:
    values = page.values(tag, 2)
    return values[0] / values[1] if len(values) == 2 and values[1] else 0.0
