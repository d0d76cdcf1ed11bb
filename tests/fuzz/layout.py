"""Layout of seed files: bytes in, the offsets of their header fields and blocks out.

It exists so that mutations change header fields: a random bit of an image file is mostly a pixel. The parsers here are for valid
seeds only and are independent of the product, so that the two do not share a bug.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

_HEAD = 24  # bytes of each block's body that count as header fields
_LONG_VRS = (b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"SQ", b"UN", b"UT", b"UC", b"UR", b"SV", b"UV")
_UNDEFINED = 0xFFFFFFFF
_ITEM = (0xFFFE, 0xE000)


@dataclass(frozen=True, kw_only=True)
class Field:
    """A header field."""

    offset: int
    size: int
    order: str  # `<` or `>`


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Header fields, and blocks as (start, end): chunks, segments, elements or directory entries."""

    fields: list[Field] = field(default_factory=list)
    blocks: list[tuple[int, int]] = field(default_factory=list)

    def add(self, offset: int, sizes: tuple[int, ...], order: str) -> None:
        """Add consecutive fields."""
        for size in sizes:
            self.fields.append(Field(offset=offset, size=size, order=order))
            offset += size

    def add_head(self, start: int, end: int, order: str) -> None:
        """Add the first bytes of a body, each as a byte and each even pair as a 16-bit field."""
        stop = min(end, start + _HEAD)
        self.add(start, (1,) * (stop - start), order)
        self.add(start, (2,) * ((stop - start) // 2), order)


def find_layout(data: bytes) -> Layout:
    """Return the layout of a valid file of any supported format."""
    layout = Layout()
    if data[:2] == b"\xff\xd8":
        _jpeg(layout, data, 0, len(data))
    elif data[:4] == b"\x89PNG":
        _png(layout, data)
    elif data[:2] in (b"II", b"MM"):
        _tiff(layout, data, 0)
    elif data[:4] == b"RIFF":
        _webp(layout, data)
    elif data[:2] == b"BM":
        layout.add(2, (4, 2, 2, 4, 4, 4, 4, 2, 2, 4, 4, 4, 4, 4, 4), "<")
        layout.blocks.extend([(14, 54), (54, 58), (len(data) - 40, len(data))])
    else:
        _dicom(layout, data)
    return layout


def _jpeg(layout: Layout, data: bytes, offset: int, end: int) -> None:
    """Add the marker segments of JPEG, JPEG-LS and JPEG 2000 codestreams, up to the first scan or tile."""
    offset += 2
    while offset + 4 <= end and data[offset] == 0xFF:
        marker, length = struct.unpack_from(">HH", data, offset)
        if marker in (0xFFD9, 0xFF93):
            return
        body, stop = offset + 4, min(offset + 2 + length, end)
        layout.add(offset, (2, 2), ">")
        layout.add_head(body, stop, ">")
        layout.blocks.append((offset, stop))
        if marker == 0xFFE1 and data[body : body + 6] == b"Exif\0\0":
            _tiff(layout, data, body + 6)
        if marker == 0xFF51:
            layout.add(body + 2, (4,) * 8, ">")
        if marker == 0xFFDA:
            layout.add_head(stop, end, ">")
            return
        offset = stop


def _png(layout: Layout, data: bytes) -> None:
    offset = 8
    while offset + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, offset)
        layout.add(offset, (4, 4), ">")
        layout.add_head(offset + 8, offset + 8 + length, ">")
        layout.blocks.append((offset, offset + 12 + length))
        if kind == b"IHDR":
            layout.add(offset + 8, (4, 4), ">")
        if kind == b"eXIf":
            _tiff(layout, data, offset + 8)
        offset += 12 + length


def _webp(layout: Layout, data: bytes) -> None:
    layout.add(4, (4, 4), "<")
    offset = 12
    while offset + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, offset)
        layout.add(offset, (4, 4), "<")
        layout.add_head(offset + 8, offset + 8 + length, "<")
        layout.blocks.append((offset, offset + 8 + length + length % 2))
        if kind == b"EXIF":
            _tiff(layout, data, offset + 8)
        offset += 8 + length + length % 2


def _tiff(layout: Layout, data: bytes, base: int) -> None:
    """Add the header and first directory of a TIFF or of an EXIF block that starts at `base`."""
    order = "<" if data[base : base + 2] == b"II" else ">"
    big = struct.unpack_from(order + "H", data, base + 2)[0] == 43
    word, code = (8, "Q") if big else (4, "I")
    layout.add(base + 2, (2, 2, 2, 8) if big else (2, 4), order)
    offset = base + int(struct.unpack_from(order + code, data, base + word)[0])
    count = int(struct.unpack_from(order + ("Q" if big else "H"), data, offset)[0])
    layout.add(offset, (8 if big else 2,), order)
    offset += 8 if big else 2
    for _ in range(count):
        layout.add(offset, (2, 2, word, word), order)
        layout.add(offset + 4 + word, (2,), order)
        layout.blocks.append((offset, offset + 4 + 2 * word))
        offset += 4 + 2 * word
    layout.add(offset, (word,), order)


def _dicom(layout: Layout, data: bytes) -> None:
    """Add all elements, also nested ones and fragments, in one pass: after the head of a container comes its body."""
    offset = 132 if data[128:132] == b"DICM" else 0
    explicit, order, fragments, meta = True, "<", False, True
    while offset + 8 <= len(data):
        if meta and data[offset : offset + 2] != b"\2\0":
            meta, explicit = False, data[offset + 4 : offset + 6].isalpha()
            order = ">" if data[offset : offset + 2] == b"\0\x08" else "<"
        tag, vr, length, body = _element_head(layout, data, offset, explicit=explicit, order=order)
        end = len(data) if length == _UNDEFINED else min(body + length, len(data))
        fragments = fragments or (tag == (0x7FE0, 0x0010) and length == _UNDEFINED)
        container = vr == b"SQ" or length == _UNDEFINED or (tag == _ITEM and not fragments)
        layout.blocks.append((offset, end))
        layout.add_head(body, end, order)
        if data[body : body + 2] in (b"\xff\xd8", b"\xff\x4f"):
            _jpeg(layout, data, body, end)
        offset = body if container else end


def _element_head(
    layout: Layout, data: bytes, offset: int, *, explicit: bool, order: str
) -> tuple[tuple[int, int], bytes, int, int]:
    """Add the fields of an element's head; return (tag, value representation, length, offset of the value)."""
    group, number = struct.unpack_from(order + "HH", data, offset)
    vr = data[offset + 4 : offset + 6] if explicit and group != 0xFFFE else b""
    layout.add(offset, (2, 2), order)
    if not vr:
        length_offset, code = offset + 4, "I"
    else:
        length_offset, code = (offset + 8, "I") if vr in _LONG_VRS else (offset + 6, "H")
        layout.add(offset + 4, (2,), order)
    size = struct.calcsize(code)
    layout.add(length_offset, (size,), order)
    return (group, number), vr, int(struct.unpack_from(order + code, data, length_offset)[0]), length_offset + size
