"""Small files that are expensive to decode: each `Kind` builds one and has the bound of memory and time for decoding it.

Used by `test_memory` (issue 11, item 11): overlapping tags, cyclic directories, bombs of every compression, headers with huge
sizes, and images that are within the limits but expensive. The DICOM files are in `hostile_dicom`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import imagecodecs
import numpy as np

from tests.builders.dicom_files import xray_pixels
from tests.decoding.bombs import deflated_zeros, lzma_zeros, lzw_zeros, packbits_zeros, zstd_zeros
from tests.decoding.tiff_files import LONG, SHORT, Entry, overlapping_exif, strip, strip_file, tiff, without_segments
from tests.fuzz.image_seeds import bmp_run_length, png_chunk

GIB = 1 << 30
GRAY = xray_pixels(8, rows=201, columns=180).astype(np.uint8)
_PNG = b"\x89PNG\r\n\x1a\n"
_RGBA = struct.pack(">4H", 30_000, 30_000, 30_000, 40_000)


@dataclass(frozen=True, kw_only=True)
class Bound:
    """Limits of decoding one file: memory of the process with its libraries, seconds of processor time."""

    memory_mb: int
    seconds: int


SMALL = Bound(memory_mb=500, seconds=15)
"""For files with a small image, or that must be rejected by their header."""
LARGE = Bound(memory_mb=1300, seconds=25)
"""For images within max_pixels (100 million): 10 bytes per pixel, 300 MB for the process and the file."""
MIDDLE = Bound(memory_mb=660, seconds=10)
"""For images of 36 million pixels, by the same rule."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A hostile file."""

    name: str
    build: Callable[[], bytes]
    bound: Bound = SMALL
    decoded: bool | None = None  # True: must give an image, False: must be rejected, None: either


def small(name: str, build: Callable[[], bytes], *, decoded: bool | None = None) -> Kind:
    """Return a kind with the bound SMALL."""
    return Kind(name=name, build=build, decoded=decoded)


def large(name: str, build: Callable[[], bytes], *, decoded: bool | None = None) -> Kind:
    """Return a kind with the bound LARGE."""
    return Kind(name=name, build=build, bound=LARGE, decoded=decoded)


def middle(name: str, build: Callable[[], bytes], *, decoded: bool | None = None) -> Kind:
    """Return a kind with the bound MIDDLE."""
    return Kind(name=name, build=build, bound=MIDDLE, decoded=decoded)


# TIFF ----------------------------------------------------------------------------------------------------------------


def _self_directory() -> bytes:
    overlaps = [(40_000 + i, SHORT, 90_000, 0) for i in range(10_000)]
    body = GRAY.tobytes()
    return tiff([*strip(body), *overlaps], data=body, following=8 + len(body))


def _sub_directories(tag: int) -> Callable[[], bytes]:
    """Return a TIFF with 100,000 directories in one tag, all at the same offset."""
    return lambda: strip_file(GRAY.tobytes(), (tag, LONG, 100_000, struct.pack("<I", 8 + GRAY.size) * 100_000))


def _directory_chain() -> bytes:
    """Return a TIFF of 60,000 pages, each a separate directory of 100 entries."""
    first = strip_file(GRAY.tobytes())
    page = struct.pack("<H", 100) + b"".join(struct.pack("<HHII", 254, LONG, 1, 1) for _ in range(100))
    size = len(page) + 4
    links = (page + struct.pack("<I", len(first) + (i + 1) * size if i < 59_999 else 0) for i in range(60_000))
    patched = bytearray(first)
    struct.pack_into("<I", patched, 8 + GRAY.size + 2 + 12 * 9, len(first))
    return bytes(patched) + b"".join(links)


def _two_widths() -> bytes:
    body = GRAY.tobytes()
    return tiff([(256, LONG, 1, 30_000), (257, LONG, 1, 30_000), *strip(body)], data=body)


def _shared_strips(width: int, height: int, bits: int, samples: int, sample_format: int) -> bytes:
    """Return a TIFF with strips of one row, all at one offset."""
    row = (np.arange(width * samples * bits // 8) % 251).astype(np.uint8).tobytes()
    entries = [
        entry
        for entry in strip(row, width=width, height=height, bits=bits, samples=samples)
        if entry[0] not in (273, 278, 279)
    ]
    entries += [
        (273, LONG, height, struct.pack("<I", 8) * height),
        (278, LONG, 1, 1),
        (279, LONG, height, struct.pack("<I", len(row)) * height),
        (339, SHORT, samples, struct.pack("<H", sample_format) * samples if samples > 2 else sample_format),
    ]
    return tiff(sorted(entries), data=row)


def _billion_strips() -> bytes:
    """Strip offsets and byte counts of 2^30 entries, without the entries."""
    entries = [entry for entry in strip(b"") if entry[0] not in (273, 279)]
    return tiff(sorted([*entries, (273, LONG, GIB, 8), (279, LONG, GIB, 8)]), data=GRAY.tobytes())


def _tile(side: int, body: bytes, code: int) -> bytes:
    """Return an image of 180x201 px in one tile of side x side."""
    entries = without_segments(strip(body, code=code))
    tile: list[Entry] = [(322, LONG, 1, side), (323, LONG, 1, side), (324, LONG, 1, 8), (325, LONG, 1, len(body))]
    return tiff([*entries, *tile], data=body)


def _tiny_tiles() -> bytes:
    """10000x10000 px in tiles of 16x16, all at one offset: 390,625 segments."""
    count, body = 625 * 625, bytes(range(256))
    entries = without_segments(strip(body, width=10_000, height=10_000))
    tiles: list[Entry] = [(322, SHORT, 1, 16), (323, SHORT, 1, 16)]
    tiles += [(324 + i, LONG, count, struct.pack("<I", value) * count) for i, value in enumerate((8, 256))]
    return tiff([*entries, *tiles], data=body)


def _big_tiff_count() -> bytes:
    """Return a BigTIFF with a directory of 2^60 entries by its header."""
    return b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 1 << 60) + bytes(4096)


def _huge_webp() -> bytes:
    return webp((b"VP8L", flat_vp8l(16_383, 16_383)))


# JPEG -----------------------------------------------------------------------------------------------------------------


def jpeg_segment(marker: int, body: bytes) -> bytes:
    """Return a marker segment."""
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def _jpeg(pixels: np.ndarray = GRAY) -> bytes:
    return cv2.imencode(".jpg", pixels)[1].tobytes()


def with_jpeg_segments(data: bytes, *segments: bytes) -> bytes:
    """Return the JPEG with segments after its start."""
    return data[:2] + b"".join(segments) + data[2:]


def resized_jpeg(data: bytes, width: int, height: int) -> bytes:
    """Return the JPEG or JPEG-LS with another size in its frame header."""
    start = next(i for i in range(len(data)) if data[i] == 0xFF and data[i + 1] in (0xC0, 0xC1, 0xC3, 0xF7))
    return data[: start + 5] + struct.pack(">HH", height, width) + data[start + 9 :]


def progressive_jpeg(width: int, height: int, *, components: int, scans: int) -> bytes:
    """Flat blocks: one scan of zeros for the first coefficients, then `scans` scans of end-of-band runs per component."""
    frame = struct.pack(">BHHB", 8, height, width, components) + bytes(
        b for i in range(components) for b in (i + 1, 0x11, 0)
    )
    tables = jpeg_segment(0xDB, bytes([0] + [1] * 64))
    tables += jpeg_segment(0xC4, bytes([0, 1] + [0] * 15 + [0]))  # first coefficients: code 0, difference 0
    tables += jpeg_segment(0xC4, bytes([0x10, 1] + [0] * 15 + [0xE0]))  # code 0: a run of 2^14 blocks and 14 bits more
    blocks = -(-width // 8) * -(-height // 8)
    members = bytes(b for i in range(components) for b in (i + 1, 0))
    first = jpeg_segment(0xDA, bytes([components]) + members + b"\0\0\0") + bytes(blocks * components // 8)
    runs = "0" + "1" * 14
    bits = runs * -(-blocks // 32767)
    bits += "1" * (-len(bits) % 8)
    coded = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    later = b"".join(jpeg_segment(0xDA, bytes([1, i + 1, 0, 1, 63, 0])) + coded for i in range(components))
    return b"\xff\xd8" + tables + jpeg_segment(0xC2, frame) + first + later * scans + b"\xff\xd9"


def _thumbnails() -> bytes:
    """1,000 APP1 blocks, each an EXIF block of overlapping tags."""
    block = jpeg_segment(0xE1, b"Exif\0\0" + overlapping_exif(5_000))
    return with_jpeg_segments(_jpeg(), *[block] * 1000)


# PNG ------------------------------------------------------------------------------------------------------------------


def png(width: int, height: int, bits: int, colour: int, packed: bytes, *chunks: bytes, interlace: int = 0) -> bytes:
    """Return a PNG of a header, chunks, and packed pixel data."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlace)
    return _PNG + png_chunk(b"IHDR", header) + b"".join(chunks) + png_chunk(b"IDAT", packed) + png_chunk(b"IEND", b"")


def _half_transparent(side: int) -> bytes:
    """16-bit RGBA: the first pixels gray and partly transparent, all others black and wholly transparent."""
    return png(side, side, 16, 6, deflated_zeros((8 * side + 1) * side, start=b"\0" + _RGBA * (side // 2)))


def _interlaced(side: int) -> bytes:
    """Return the same image in the seven passes of PNG 8.2; side: divisible by 8."""
    passes = ((8, 8), (8, 8), (4, 8), (4, 4), (2, 4), (2, 2), (1, 2))
    size = sum(side // dy * (1 + 8 * side // dx) for dx, dy in passes)
    return png(side, side, 16, 6, deflated_zeros(size, start=b"\0" + _RGBA * (side // 8)), interlace=1)


def _with_png_chunks(*chunks: bytes) -> bytes:
    data = cv2.imencode(".png", GRAY)[1].tobytes()
    return data[:33] + b"".join(chunks) + data[33:]


def _two_headers() -> bytes:
    second = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0))
    return _with_png_chunks(second)


def _xmp(text: bytes) -> bytes:
    return png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + text)


# WEBP and BMP ---------------------------------------------------------------------------------------------------------


def webp(*chunks: tuple[bytes, bytes]) -> bytes:
    """Return a RIFF container of chunks."""
    body = b"".join(kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for kind, data in chunks)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def flat_vp8l(width: int, height: int) -> bytes:
    """Return a lossless image of one colour: no transform, no cache, five codes of one symbol each, so no bits for any pixel."""
    bits = f"{width - 1:014b}"[::-1] + f"{height - 1:014b}"[::-1] + "0" + "000" + "0" + "0" + "0"
    for symbol in (90, 90, 90, 255, 0):
        bits += "1" + "0" + "1" + f"{symbol:08b}"[::-1]
    bits += "0" * (-len(bits) % 8)
    return b"\x2f" + bytes(int(bits[i : i + 8][::-1], 2) for i in range(0, len(bits), 8)) + bytes(16)


def _canvas_of_another_size() -> bytes:
    size = struct.pack("<I", 16_383)[:3]
    return webp((b"VP8X", b"\x10\0\0\0" + size + size), (b"VP8L", flat_vp8l(180, 201)))


def _webp_with_exif() -> bytes:
    coded = cv2.imencode(".webp", GRAY, [cv2.IMWRITE_WEBP_QUALITY, 101])[1].tobytes()[20:]
    extended = b"\x08\0\0\0" + struct.pack("<I", 179)[:3] + struct.pack("<I", 200)[:3]
    return webp((b"VP8X", extended), (b"VP8L", coded), (b"EXIF", overlapping_exif(10_000)))


def _bmp_header(width: int, height: int, *, bits: int = 24, colours: int = 0) -> bytes:
    return (
        b"BM"
        + struct.pack("<IHHIIiiHHIIiiII", 200, 0, 0, 54, 40, width, height, 1, bits, 0, 0, 0, 0, colours, 0)
        + bytes(99)
    )


def sized_jpeg_2000(
    width: int, height: int, *, components: int = 1, tile: int | None = None, shape: tuple[int, int] = (64, 64)
) -> bytes:
    """Return a codestream of a small image with another size in its SIZ segment. tile: side of the tiles; None: one tile."""
    pixels = xray_pixels(8, rows=shape[0], columns=shape[1]).astype(np.uint8)
    samples = pixels if components == 1 else np.dstack([pixels] * components)
    data = bytearray(imagecodecs.jpeg2k_encode(samples, codecformat="J2K", reversible=True))
    start = data.index(b"\xff\x51") + 6
    struct.pack_into(">II", data, start, width, height)
    struct.pack_into(">II", data, start + 16, tile or width, tile or height)
    return bytes(data)


def _overlap_jpeg() -> bytes:
    return with_jpeg_segments(_jpeg(), jpeg_segment(0xE1, b"Exif\0\0" + overlapping_exif(5_000)))


def _text_bomb(kind: bytes, head: bytes, start: bytes = b"") -> Callable[[], bytes]:
    """Return a PNG with a text or profile chunk that inflates to 4 GB."""
    return lambda: _with_png_chunks(png_chunk(kind, head + deflated_zeros(4 * GIB, start=start)))


def _square_png(side: int, bits: int, colour: int, row: bytes, *chunks: bytes) -> Callable[[], bytes]:
    """Return an image with the given first row, then zeros."""
    return lambda: png(side, side, bits, colour, deflated_zeros((len(row) + 1) * side, start=b"\0" + row), *chunks)


def _bomb_tiff(code: int, packed: Callable[[int], bytes], size: int) -> Callable[[], bytes]:
    """Return a small image with a strip that inflates to `size`."""
    return lambda: strip_file(packed(size), code=code)


TEN, SIX = 10_000, 6_000  # sides of square images, the first of max_pixels
_RAMP = bytes(range(250)) * 40
_PALETTE = (png_chunk(b"PLTE", bytes(i // 3 for i in range(768))), png_chunk(b"tRNS", b"\0\x80"))
_SPACES, _TAGS = b"tiff:Orientation" + b" " * (20 << 20), b"<tiff:Orientation" * (1 << 20)

_PNG_KINDS = (
    small("exif overlap.png", lambda: _with_png_chunks(png_chunk(b"eXIf", overlapping_exif(10_000))), decoded=True),
    small("xmp of 20 MB.png", lambda: _with_png_chunks(_xmp(_SPACES))),
    small("xmp of tags.png", lambda: _with_png_chunks(_xmp(_TAGS))),
    small("icc profile of 4 GB.png", _text_bomb(b"iCCP", b"icc\0\0")),
    small("exif profile of 4 GB.png", _text_bomb(b"zTXt", b"Raw profile type exif\0\0", b"\nexif\n 4294967295\n")),
    small("text of 4 GB.png", _text_bomb(b"zTXt", b"Comment\0\0")),
    small("xmp of 4 GB.png", _text_bomb(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0")),
    small("a million chunks.png", lambda: _with_png_chunks(png_chunk(b"tEXt", b"a\0b") * 1_000_000)),
    small("two headers.png", _two_headers, decoded=False),
    small("pixels of 512 MB.png", lambda: png(180, 201, 8, 0, deflated_zeros(GIB // 2, start=bytes(range(181))))),
    large("interlaced rgba16.png", lambda: _interlaced(5000)),
    middle("rgba16 6000.png", lambda: _half_transparent(SIX)),
    large("gray16 10000.png", _square_png(TEN, 16, 0, _RAMP * 2), decoded=True),
    middle("rgb8 6000.png", _square_png(SIX, 8, 2, b"\x50\x50\x50" * SIX)),
    middle("palette 6000.png", _square_png(SIX, 8, 3, _RAMP[:SIX], *_PALETTE)),
    large("1 bit 10000.png", _square_png(TEN, 1, 0, b"\x55" * 1250), decoded=True),
)
_JPEG_KINDS = (
    small("exif overlap.jpg", _overlap_jpeg, decoded=True),
    small("1,000 exif overlaps.jpg", _thumbnails),
    large("progressive, 2,000 scans.jpg", lambda: progressive_jpeg(8000, 8000, components=1, scans=2000)),
    middle("progressive cmyk 6000.jpg", lambda: progressive_jpeg(SIX, SIX, components=4, scans=1)),
    middle("progressive rgb 6000.jpg", lambda: progressive_jpeg(SIX, SIX, components=3, scans=1)),
    small("65500 in the header.jpg", lambda: resized_jpeg(_jpeg(), 65500, 65500), decoded=False),
    large("10000 in the header.jpg", lambda: resized_jpeg(_jpeg(), TEN, TEN), decoded=False),
    small("20 MB of fill bytes.jpg", lambda: with_jpeg_segments(_jpeg(), b"\xff" * (20 << 20))),
)
_WEBP_AND_BMP_KINDS = (
    small("exif overlap.webp", _webp_with_exif, decoded=True),
    middle("flat 6000.webp", lambda: webp((b"VP8L", flat_vp8l(SIX, SIX))), decoded=False),
    small("canvas 16384.webp", _canvas_of_another_size, decoded=False),
    middle("run length 6000.bmp", lambda: bmp_run_length(b"\xff\x50" * 200 + b"\0\0" * SIX + b"\0\1", SIX, SIX)),
    small("run length 30000.bmp", lambda: bmp_run_length(b"\0\1", 30_000, 30_000), decoded=False),
    small("30000 in the header.bmp", lambda: _bmp_header(30_000, -30_000), decoded=False),
    small("2 billion colours.bmp", lambda: _bmp_header(180, 201, bits=8, colours=(1 << 31) - 1), decoded=False),
)
_TIFF_KINDS = (
    small("directory at itself.tif", _self_directory),
    small("sub-directories at itself.tif", _sub_directories(330)),
    small("exif directories at itself.tif", _sub_directories(34665)),
    small("chain of directories.tif", _directory_chain),
    small("2^60 entries.tif", _big_tiff_count, decoded=False),
    small("two widths.tif", _two_widths),
    middle("rgb float64 6000.tif", lambda: _shared_strips(SIX, SIX, 64, 3, 3)),
    middle("gray float64 6000.tif", lambda: _shared_strips(SIX, SIX, 64, 1, 3)),
    middle("rgba16 6000.tif", lambda: _shared_strips(SIX, SIX, 16, 4, 1)),
    large("200,000 strips.tif", lambda: _shared_strips(40, 200_000, 8, 1, 1)),
    small("2^30 strips claimed.tif", _billion_strips, decoded=False),
    large("390,625 tiles.tif", _tiny_tiles),
    small("tile of 2^31 px.tif", lambda: _tile(46_336, deflated_zeros(2 * GIB), 8), decoded=False),
    small("tile of 2^31 px, not packed.tif", lambda: _tile(46_336, GRAY.tobytes(), 1)),
    small("deflate of 4 GB.tif", _bomb_tiff(8, deflated_zeros, 4 * GIB)),
    small("zstd of 4 GB.tif", _bomb_tiff(50000, zstd_zeros, 4 * GIB)),
    small("zstd of 2^40, claimed.tif", lambda: strip_file(zstd_zeros(GIB, claimed=1 << 40), code=50000)),
    small("zstd of 4 GB, claimed.tif", lambda: strip_file(zstd_zeros(4 * GIB, claimed=4 * GIB), code=50000)),
    small("lzma of 4 GB.tif", _bomb_tiff(34925, lzma_zeros, 4 * GIB)),
    small("lzw of 4 GB.tif", _bomb_tiff(5, lzw_zeros, 4 * GIB)),
    small("packbits of 1 GB.tif", _bomb_tiff(32773, packbits_zeros, GIB)),
    small("jpeg of 65500 px.tif", lambda: strip_file(resized_jpeg(_jpeg(), 65500, 65500), code=7), decoded=False),
    small("webp of 16383 px.tif", lambda: strip_file(_huge_webp(), code=50001, samples=3), decoded=False),
    small("jpeg 2000 of 60000 px.tif", lambda: strip_file(sized_jpeg_2000(60_000, 60_000), code=34712), decoded=False),
)
IMAGES = (*_PNG_KINDS, *_JPEG_KINDS, *_WEBP_AND_BMP_KINDS, *_TIFF_KINDS)
