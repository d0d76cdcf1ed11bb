"""The encapsulated pixel data of a DICOM file in, the one compressed frame out: all fragments joined (PS3.5 annex A.4).

It exists because real files break the rules of encapsulation: offset tables that are wrong or missing, no delimiter at the
end. What can be read without doubt is read and noted.
"""

from __future__ import annotations

import struct

from cxr_edge.decoding.dicom_elements import PixelElement
from cxr_edge.decoding.dicom_header import Header
from cxr_edge.decoding.dicom_syntaxes import RLE
from cxr_edge.errors import InputError

__all__ = ["CUT", "DAMAGED", "frame"]

CUT = "the pixel data end too early (truncated copy or transfer): copy or export the file again"
DAMAGED = "the compressed pixel data are damaged: copy or export the file again"

_ITEM, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE0DD
_STREAM_STARTS = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  ")


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
