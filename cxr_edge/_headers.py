"""File bytes in, a checked `Header` out: which format this is, its size, depth and orientation, and the bytes to decode.

It exists because the pixel limit must hold before any decoder allocates memory, and because OpenCV answers a cut-off
JPEG with a half-gray picture: formats are told apart by their first bytes, never by the file's name, and a file that
ends too early, holds several pictures or needs something unsupported is refused here. DICOM is recognised here and read
in `dicom`. Messages do not name the file; `decode` puts the name in front.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from cxr_edge.errors import InputError

__all__ = ["Header", "JpegFrame", "check_pixel_count", "read_header", "read_jpeg_frame", "sniff"]

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_TIFF_MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_HOW_TO_CONVERT = "export the picture as JPEG, PNG, TIFF, WEBP or DICOM and give that file"
_CUT = "the file ends before its picture does (truncated copy or download): copy or export it again"
_DAMAGED = "the file is damaged: copy or export it again"

# Formats that people hand in by mistake, by their first bytes, so that the refusal can name them.
_REFUSED = (
    (re.compile(rb"GIF8[79]a"), "a GIF"),
    (re.compile(rb"%PDF-"), "a PDF document"),
    (re.compile(rb"PK\x03\x04"), "a ZIP archive"),
    (re.compile(rb"\x1f\x8b"), "a gzip archive"),
    (re.compile(rb"....ftyp(avif|avis)", re.DOTALL), "an AVIF"),
    (re.compile(rb"....ftyp(hei|hev|mif)", re.DOTALL), "a HEIC photograph"),
    (re.compile(rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51"), "a bare JPEG 2000"),
    (re.compile(rb"\xff\x0a|\0\0\0\x0cJXL "), "a JPEG XL"),
    (re.compile(rb"<\?xml|<svg|<!DOCTYPE|<html|\{", re.IGNORECASE), "text (XML, HTML or JSON)"),
)


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a file says about its picture, before anything is decoded.

    bits: of one sample as stored. channels: samples a pixel, alpha included. orientation: EXIF 1..8, still to be
    applied. significant_bits: fewer than `bits` when the file says so (PNG sBIT). white_is_zero: gray still to be
    inverted. data: the bytes for the decoder, without what would make it turn, invert or complain by itself.
    """

    format: str
    width_px: int
    height_px: int
    bits: int
    channels: int
    data: bytes
    orientation: int = 1
    significant_bits: int | None = None
    white_is_zero: bool = False


@dataclass(frozen=True, kw_only=True)
class JpegFrame:
    """The frame header of a JPEG stream. process: the number of its SOF marker, 0 baseline, 3 lossless."""

    process: int
    width_px: int
    height_px: int
    bits: int
    channels: int


def sniff(data: bytes) -> str:
    """`jpeg`, `png`, `tiff`, `webp`, `bmp` or `dicom`, from the first bytes. Raises InputError for anything else."""
    if not data:
        raise InputError("the file is empty (0 bytes): copy or export it again")
    if data.startswith(b"\xff\xd8"):
        return "jpeg"
    if data.startswith(_PNG_MAGIC):
        return "png"
    if data.startswith(_TIFF_MAGICS):
        return "tiff"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "webp"
    if _is_dicom(data):
        return "dicom"
    if data.startswith(b"BM") and data[14:18] in (b"\x28\0\0\0", b"\x6c\0\0\0", b"\x7c\0\0\0"):
        return "bmp"
    for pattern, name in _REFUSED:
        if pattern.match(data):
            raise InputError(f"{name} file is not read here: {_HOW_TO_CONVERT}")
    if not data.strip(b"\0"):
        raise InputError("the file holds nothing but zero bytes: copy or export it again")
    raise InputError(
        f"the content is not a picture that is read here (JPEG, PNG, TIFF, WEBP, BMP, DICOM): {_HOW_TO_CONVERT}"
    )


def read_header(data: bytes, *, max_pixels: int) -> Header:
    """Parse and check the header of a JPEG, PNG, TIFF, WEBP or BMP file.

    Raises InputError for a file that is cut off, damaged, over `max_pixels`, holds several pictures, or has a layout
    that is not read here.
    """
    parse = {"jpeg": _jpeg, "png": _png, "tiff": _tiff, "webp": _webp, "bmp": _bmp}[sniff(data)]
    try:
        header = parse(data)
    except (struct.error, IndexError):
        raise InputError(_CUT) from None
    if header.width_px < 1 or header.height_px < 1:
        raise InputError(f"the header gives a size of {header.width_px}x{header.height_px} px: {_DAMAGED}")
    check_pixel_count(header.width_px, header.height_px, max_pixels)
    return header


def check_pixel_count(width_px: int, height_px: int, max_pixels: int) -> None:
    """Raise InputError for a picture of more than `max_pixels` pixels."""
    if width_px * height_px > max_pixels:
        raise InputError(
            f"{width_px}x{height_px} px are more than the limit of {max_pixels:,} pixels: "
            "check that this is one X-ray, shrink it, or raise the limit (max_pixels)"
        )


def _is_dicom(data: bytes) -> bool:
    """The magic after the preamble, or, without a preamble, a first element of group 2 or 8 that makes sense."""
    if data[128:132] == b"DICM":
        return True
    if len(data) < 16 or data[:2] not in (b"\x02\0", b"\x08\0") or data[3] != 0:
        return False
    explicit = data[4:6] in (b"UL", b"CS", b"UI", b"DA", b"TM", b"SH", b"LO", b"OB")
    return explicit or int.from_bytes(data[4:8], "little") < 1024


# JPEG ---------------------------------------------------------------------------------------------------------------

# After a scan's header come entropy-coded bytes, where FF is followed by 00 or a restart marker; anything else ends it.
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_JPEG_PROCESSES = {0xC0: "baseline", 0xC1: "extended", 0xC2: "progressive", 0xC9: "arithmetic", 0xCA: "arithmetic"}
_ALL_COEFFICIENTS = (1 << 64) - 1


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(marker, payload) of each segment up to and with EOI. Raises InputError when the data end before EOI."""
    at = 2
    while True:
        at = data.find(b"\xff", at)
        if at < 0 or at + 1 >= len(data):
            raise InputError(_CUT)
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
        elif marker == 0xD9:
            yield marker, b""
            return
        elif marker in (0x00, 0x01, 0xD8) or 0xD0 <= marker <= 0xD7:
            at += 2
        else:
            end = at + 2 + int(struct.unpack_from(">H", data, at + 2)[0])
            if end > len(data):
                raise InputError(_CUT)
            yield marker, data[at + 4 : end]
            at = _after_scan(data, end) if marker == 0xDA else end


def _after_scan(data: bytes, at: int) -> int:
    found = _NEXT_MARKER.search(data, at)
    if found is None:
        raise InputError(_CUT)
    return found.start()


def read_jpeg_frame(data: bytes) -> JpegFrame:
    """The frame header of a JPEG stream, also lossless, also one inside DICOM.

    Raises InputError for a stream that is cut off or lacks scans.
    """
    try:
        sof, frame, _ = _jpeg_frame(data)
        bits, height, width, channels = struct.unpack_from(">BHHB", frame)
    except (struct.error, IndexError):
        raise InputError(_CUT) from None
    return JpegFrame(process=sof - 0xC0, width_px=width, height_px=height, bits=bits, channels=channels)


def _jpeg_frame(data: bytes) -> tuple[int, bytes, int]:
    """(SOF marker, SOF payload, EXIF orientation) of a complete JPEG."""
    sof, frame, orientation = 0, b"", 1
    done: dict[int, int] = {}
    for marker, body in _jpeg_segments(data):
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if sof:
                raise InputError(f"it holds more than one JPEG frame: {_HOW_TO_CONVERT}")
            sof, frame = marker, body
        elif marker == 0xE1 and body.startswith(b"Exif\0\0"):
            orientation = _exif_orientation(body[6:])
        elif marker == 0xDA:
            _note_scan(done, body, progressive=sof in (0xC2, 0xCA))
    if not sof:
        raise InputError(f"there is no picture in this JPEG file: {_DAMAGED}")
    if any(done.get(frame[6 + 3 * i]) != _ALL_COEFFICIENTS for i in range(frame[5])):
        raise InputError("scans of this JPEG are missing, the picture would be incomplete: copy or export it again")
    return sof, frame, orientation


def _note_scan(done: dict[int, int], body: bytes, *, progressive: bool) -> None:
    """Mark in `done` which coefficients of which components this scan brings to full precision."""
    count = body[0]
    first, last, low_bit = body[1 + 2 * count], body[2 + 2 * count], body[3 + 2 * count] & 15
    for i in range(count):
        component = body[1 + 2 * i]
        if not progressive:
            done[component] = _ALL_COEFFICIENTS
        elif low_bit == 0:
            done[component] = done.get(component, 0) | (
                ((1 << (last + 1)) - 1) & ~((1 << first) - 1) & _ALL_COEFFICIENTS
            )


def _jpeg(data: bytes) -> Header:
    sof, frame, orientation = _jpeg_frame(data)
    bits, height, width, channels = struct.unpack_from(">BHHB", frame)
    if sof not in _JPEG_PROCESSES or bits != 8:
        kind = "lossless" if sof == 0xC3 else f"{bits}-bit (process SOF{sof - 0xC0})"
        raise InputError(f"a {kind} JPEG is read only inside DICOM: export it as 8-bit JPEG, 16-bit PNG or DICOM")
    return Header(
        format="jpeg",
        width_px=width,
        height_px=height,
        bits=bits,
        channels=channels,
        data=data,
        orientation=orientation,
    )


# PNG ----------------------------------------------------------------------------------------------------------------

_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_PNG_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(type, start, end) of each chunk up to and with IEND, length and checksum included. Checks every checksum."""
    at, view = len(_PNG_MAGIC), memoryview(data)
    while True:
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data):
            raise InputError(_CUT)
        if zlib.crc32(view[at + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
            raise InputError(f"a checksum in this PNG does not match its data: {_DAMAGED}")
        yield kind, at, end
        if kind == b"IEND":
            return
        at = end


def _png(data: bytes) -> Header:
    width = height = bits = colour = 0
    orientation, significant = 1, None
    kept: list[memoryview] = []
    view = memoryview(data)
    for kind, start, end in _png_chunks(data):
        body = data[start + 8 : end - 4] if kind in (b"IHDR", b"acTL", b"eXIf", b"sBIT") else b""
        if kind == b"IHDR":
            width, height, bits, colour = struct.unpack_from(">IIBB", body)
        elif kind == b"acTL" and struct.unpack_from(">I", body)[0] > 1:
            raise InputError(f"an animated PNG holds several pictures: {_HOW_TO_CONVERT}, one picture a file")
        elif kind == b"eXIf":
            orientation = _exif_orientation(body)
        elif kind == b"sBIT":
            significant = max(body[:3], default=None)
        if kind in _PNG_KEPT:
            kept.append(view[start:end])
    if colour not in _PNG_CHANNELS or bits not in (1, 2, 4, 8, 16):
        raise InputError(f"the PNG header gives colour type {colour} with {bits} bits: {_DAMAGED}")
    return Header(
        format="png",
        width_px=width,
        height_px=height,
        bits=bits,
        channels=_PNG_CHANNELS[colour],
        data=b"".join([_PNG_MAGIC, *kept]),
        orientation=orientation,
        significant_bits=significant if significant and significant < bits else None,
    )


# TIFF, and EXIF, which is a TIFF without pixels -----------------------------------------------------------------------

_TIFF_TYPES = {1: "B", 3: "H", 4: "I", 16: "Q"}
_MAX_DIRECTORIES = 64


@dataclass(frozen=True)
class _Directory:
    """One TIFF directory: integer tags, where each tag's value field lies, and the next directory's offset."""

    tags: dict[int, tuple[int, ...]]
    value_at: dict[int, int]
    next_at: int

    def one(self, tag: int, default: int) -> int:
        values = self.tags.get(tag)
        return values[0] if values else default


def _tiff_directory(data: bytes, at: int, *, order: str, big: bool) -> _Directory:
    entry, word = (20, "Q") if big else (12, "I")
    count = int(struct.unpack_from(order + ("Q" if big else "H"), data, at)[0])
    at += 8 if big else 2
    if at + count * entry > len(data):
        raise InputError(_CUT)
    tags: dict[int, tuple[int, ...]] = {}
    places: dict[int, int] = {}
    for i in range(count):
        start = at + i * entry
        tag, kind, n = struct.unpack_from(order + "HH" + word, data, start)
        code = _TIFF_TYPES.get(kind)
        if code is None:
            continue
        size = struct.calcsize(code) * n
        inline = start + entry - struct.calcsize(word)
        place = inline if size <= struct.calcsize(word) else int(struct.unpack_from(order + word, data, inline)[0])
        if place + size > len(data):
            raise InputError(_CUT)
        tags[tag], places[tag] = struct.unpack_from(f"{order}{n}{code}", data, place), place
    following = struct.unpack_from(order + word, data, at + count * entry)[0]
    return _Directory(tags, places, int(following))


def _tiff_start(data: bytes) -> tuple[str, bool, int]:
    """(byte order, whether BigTIFF, offset of the first directory)."""
    order = "<" if data[:2] == b"II" else ">"
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    return order, big, int(struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)[0])


def _exif_orientation(exif: bytes) -> int:
    """EXIF orientation 1..8; 1 where the EXIF block has none or is damaged, since then nothing is known."""
    if not exif.startswith(_TIFF_MAGICS):
        return 1
    try:
        order, big, at = _tiff_start(exif)
        value = _tiff_directory(exif, at, order=order, big=big).one(274, 1)
    except (InputError, struct.error):
        return 1
    return value if 1 <= value <= 8 else 1


def _tiff(data: bytes) -> Header:
    order, big, at = _tiff_start(data)
    page = _tiff_directory(data, at, order=order, big=big)
    _check_one_page(data, page, order=order, big=big)
    bits, layout = page.one(258, 1), page.one(339, 1)
    _check_tiff_layout(page, bits, layout)
    for offsets, counts in ((273, 279), (324, 325)):
        for start, size in zip(page.tags.get(offsets, ()), page.tags.get(counts, ()), strict=False):
            if start + size > len(data):
                raise InputError(_CUT)
    orientation, white_is_zero = page.one(274, 1), page.one(262, 1) == 0
    return Header(
        format="tiff",
        width_px=page.one(256, 0),
        height_px=page.one(257, 0),
        bits=bits,
        channels=page.one(277, 1),
        data=_tiff_plain(data, page, order),
        orientation=orientation if 1 <= orientation <= 8 else 1,
        white_is_zero=white_is_zero,
    )


def _check_one_page(data: bytes, page: _Directory, *, order: str, big: bool) -> None:
    """Refuse a second page; reduced-resolution copies (NewSubfileType bit 0) do not count."""
    for _ in range(_MAX_DIRECTORIES):
        if page.next_at == 0:
            return
        page = _tiff_directory(data, page.next_at, order=order, big=big)
        if not page.one(254, 0) & 1:
            break
    raise InputError(f"this TIFF holds several pages: {_HOW_TO_CONVERT}, one picture a file")


def _check_tiff_layout(page: _Directory, bits: int, layout: int) -> None:
    allowed = {1: (1, 2, 4, 8, 16), 3: (32, 64)}.get(layout, ())
    if bits not in allowed or len(set(page.tags.get(258, (bits,)))) != 1:
        kind = {1: "unsigned", 2: "signed", 3: "floating-point"}.get(layout, "complex or unknown")
        raise InputError(f"a TIFF with {bits}-bit {kind} samples is not read here: save it with 8 or 16 bits, unsigned")


def _tiff_plain(data: bytes, page: _Directory, order: str) -> bytes:
    """The bytes with orientation and photometric set to upright and black-is-zero.

    OpenCV applies both for some sample sizes and not for others; here they are applied afterwards, always.
    """
    changes = [274] if page.one(274, 1) != 1 else []
    if page.one(262, 1) == 0:
        changes.append(262)
    if not changes:
        return data
    patched = bytearray(data)
    for tag in changes:
        struct.pack_into(order + "H", patched, page.value_at[tag], 1)
    return bytes(patched)


# WEBP and BMP ---------------------------------------------------------------------------------------------------------


def _webp(data: bytes) -> Header:
    if 8 + struct.unpack_from("<I", data, 4)[0] > len(data):
        raise InputError(_CUT)
    at, size, orientation, channels = 12, (0, 0), 1, 3
    while at + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, at)
        body = data[at + 8 : at + 8 + length]
        if len(body) < length:
            raise InputError(_CUT)
        if kind == b"VP8X" and body[0] & 2:
            raise InputError(f"an animated WEBP holds several pictures: {_HOW_TO_CONVERT}, one picture a file")
        if kind == b"VP8X" and body[0] & 16:
            channels = 4
        if kind == b"VP8 ":
            width, height = struct.unpack_from("<HH", body, 6)
            size = (width & 0x3FFF, height & 0x3FFF)
        elif kind == b"VP8L":
            packed = struct.unpack_from("<I", body, 1)[0]
            size = ((packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1)
            channels = 4 if packed >> 28 & 1 else channels
        elif kind == b"EXIF":
            orientation = _exif_orientation(body.removeprefix(b"Exif\0\0"))
        at += 8 + length + (length & 1)
    return Header(
        format="webp",
        width_px=size[0],
        height_px=size[1],
        bits=8,
        channels=channels,
        data=data,
        orientation=orientation,
    )


def _bmp(data: bytes) -> Header:
    start, _, width, height, _, bits, compression = struct.unpack_from("<IIiiHHI", data, 10)
    if compression not in (0, 3):
        raise InputError(f"a BMP with compression {compression} is not read here: {_HOW_TO_CONVERT}")
    if start + (width * bits + 31) // 32 * 4 * abs(height) > len(data):
        raise InputError(_CUT)
    return Header(
        format="bmp",
        width_px=width,
        height_px=abs(height),
        bits=min(bits, 8),
        channels=4 if bits == 32 else 3,
        data=data,
    )
