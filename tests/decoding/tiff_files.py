"""TIFF builder: directory entries in, the bytes of a little-endian TIFF out; also EXIF blocks, TIFFs without pixels.

It exists so that tests can write directories that no library writes: overlapping, repeated, cyclic.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

SHORT, LONG = 3, 4
Entry = tuple[int, int, int, int | bytes]


def tiff(entries: Iterable[Entry], *, data: bytes = b"", following: int = 0) -> bytes:
    """Return a little-endian TIFF: header, `data` from offset 8, then the directory.

    entries: (tag, type, count, value or bytes).
    """
    entries, head = list(entries), b"II*\0" + struct.pack("<I", 8 + len(data))
    table, outside = b"", b""
    start = 8 + len(data) + 2 + 12 * len(entries) + 4
    for tag, kind, count, value in entries:
        if isinstance(value, bytes):
            outside, value = outside + value, start + len(outside)
        table += struct.pack("<HHII", tag, kind, count, value)
    return head + data + struct.pack("<H", len(entries)) + table + struct.pack("<I", following) + outside


def strip(
    body: bytes,
    *,
    width: int = 180,
    height: int = 201,
    bits: int = 8,
    samples: int = 1,
    code: int = 1,
) -> list[Entry]:
    """Return the entries of an image in one strip, which `tiff` puts at offset 8."""
    return [
        (256, LONG, 1, width),
        (257, LONG, 1, height),
        (258, SHORT, samples, bits if samples == 1 else struct.pack("<H", bits) * samples),
        (259, SHORT, 1, code),
        (262, SHORT, 1, 1 if samples == 1 else 2),
        (273, LONG, 1, 8),
        (277, SHORT, 1, samples),
        (278, LONG, 1, height),
        (279, LONG, 1, len(body)),
    ]


def strip_file(body: bytes, *extra: Entry, **layout: int) -> bytes:
    """Return a TIFF of one strip with additional entries."""
    return tiff([*strip(body, **layout), *extra], data=body)


def without_segments(entries: list[Entry]) -> list[Entry]:
    """Return the entries without those of strips."""
    return [entry for entry in entries if entry[0] not in (273, 278, 279)]


def overlapping_exif(entries: int) -> bytes:
    """Return an EXIF block in which every entry has the full block as its value."""
    length = 8 + 2 + 12 * entries + 4
    return tiff((40_000 + i % 20_000, SHORT, length // 2, 0) for i in range(entries))
