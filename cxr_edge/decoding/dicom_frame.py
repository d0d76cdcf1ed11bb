"""Fragments of DICOM pixel data: encapsulated pixel data in, its one compressed frame out (PS3.5 annex A.4).

It exists because real files violate the rules of encapsulation: wrong or missing offset tables, no delimiter at the end. What
is unambiguous is accepted, and noted in the header.
"""

from __future__ import annotations

import struct

from cxr_edge.decoding.dicom_elements import PixelElement
from cxr_edge.decoding.dicom_header import Header
from cxr_edge.decoding.dicom_syntaxes import RLE
from cxr_edge.errors import InputError

__all__ = ["PIXELS_DAMAGED", "PIXELS_TRUNCATED", "join_fragments"]

PIXELS_TRUNCATED = "the pixel data end too early (truncated copy or transfer): copy or export the file again"
PIXELS_DAMAGED = "the compressed pixel data are damaged: copy or export the file again"

_ITEM, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE0DD
_STREAM_STARTS = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  ")


def join_fragments(header: Header, pixels: PixelElement, syntax: str) -> bytes:
    """Return the one compressed frame. Deviations from the standard are noted in the header. Raises InputError."""
    fragments = _fragments(header, pixels)
    if fragments and not _is_offset_table(fragments[0], syntax):
        header.note("the compressed pixel data have no basic offset table")
    elif fragments:
        table = fragments.pop(0)
        if len(table) >= 4 and any(table[:4]):
            header.note("the basic offset table of the one frame does not begin with 0")
    if not fragments:
        raise InputError(f"the compressed pixel data have no frame: {PIXELS_TRUNCATED}")
    return b"".join(fragments)


def _fragments(header: Header, pixels: PixelElement) -> list[bytes]:
    """Return the items of the encapsulated pixel data, the offset table first."""
    data, offset = memoryview(header.elements.data), pixels.start
    end = len(data) if pixels.length is None else min(len(data), offset + pixels.length)
    fragments: list[bytes] = []
    while offset + 8 <= end:
        group, element, length = struct.unpack_from("<HHI", data, offset)
        if group << 16 | element == _SEQUENCE_END:
            return fragments
        if group << 16 | element != _ITEM:
            if not fragments or any(data[offset : offset + 2]):
                raise InputError(f"the fragments of the compressed pixel data are invalid: {PIXELS_DAMAGED}")
            break  # padding instead of the delimiter
        # A truncated fragment is returned as far as it goes: the parser of the stream checks that its image is complete.
        fragments.append(bytes(data[offset + 8 : min(offset + 8 + length, end)]))
        offset += 8 + length
    header.note("the compressed pixel data have no sequence delimiter")
    return fragments


def _is_offset_table(item: bytes, syntax: str) -> bool:
    """Return whether the first item is the table, empty or with one offset; some files begin with the image instead."""
    if len(item) in (0, 4):
        return True
    return not item.startswith(_STREAM_STARTS) and not (syntax == RLE and len(item) > 64 and 0 < item[0] <= 15)
