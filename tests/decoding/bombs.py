"""Small streams that inflate to gigabytes, built without inflating them: for deflate, zstd, LZW, LZMA and PackBits.

Input: the number of zero bytes after decompression. Output: the compressed bytes. For the memory tests, which must build their
files quickly: a short piece is compressed once and repeated.
"""

from __future__ import annotations

import functools
import lzma
import struct
import zlib

_PIECE = 16 << 20


def deflated_zeros(size: int, *, start: bytes = b"", raw: bool = False) -> bytes:
    """Return `start`, then zeros up to a total of `size` bytes, deflated. The checksum of the zlib form is valid."""
    pieces, rest = divmod(size - len(start), _PIECE)
    packer = zlib.compressobj(1, wbits=-zlib.MAX_WBITS)
    first = packer.compress(start + bytes(rest)) + packer.flush(zlib.Z_FULL_FLUSH)
    stream = first + _deflated_piece() * pieces + b"\3\0"
    if raw:
        return stream
    # Adler-32 of zeros: the low sum stays, the high one grows by it with each byte.
    high, low = divmod(zlib.adler32(start), 1 << 16)
    checksum = ((high + low * (size - len(start))) % 65521) << 16 | low
    return b"\x78\xda" + stream + struct.pack(">I", checksum)


@functools.cache
def _deflated_piece() -> bytes:
    """Return a piece that can be repeated: a full flush makes pieces independent and byte-aligned."""
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    packer.flush(zlib.Z_FULL_FLUSH)
    return packer.compress(bytes(_PIECE)) + packer.flush(zlib.Z_FULL_FLUSH)


def zstd_zeros(size: int, *, claimed: int | None = None) -> bytes:
    """Return a zstd frame (RFC 8878) of run-length blocks. claimed: the content size in its header, if any."""
    block = 1 << 17
    header = b"\x00\x58" if claimed is None else b"\xc0\x58" + struct.pack("<Q", claimed)
    count = -(-size // block)
    body = struct.pack("<I", block << 3 | 1 << 1)[:3] + b"\0"
    last = struct.pack("<I", block << 3 | 1 << 1 | 1)[:3] + b"\0"
    return b"\x28\xb5\x2f\xfd" + header + body * (count - 1) + last


@functools.cache
def lzw_zeros(size: int) -> bytes:
    """TIFF's LZW (6.0 section 13): the longest string of the table repeated, then a clear code."""
    bits, length = "", 0
    for code in range(257, 4094):
        width = 9 if code < 511 else 10 if code < 1023 else 11 if code < 2047 else 12
        bits += f"{code if code > 257 else 0:0{width}b}"
        length += code - 256
    cycles = (bits + f"{256:012b}") * 8  # eight cycles end on a byte
    clear = f"{256:09b}" * 8
    body = int(cycles, 2).to_bytes(len(cycles) // 8, "big")
    return int(clear, 2).to_bytes(9, "big") + body * -(-size // (8 * length)) + b"\x80\x80"


@functools.cache
def lzma_zeros(size: int) -> bytes:
    """Return an xz file of one block, without check: LZMA2 chunks that reset the dictionary can be repeated."""
    options = [{"id": lzma.FILTER_LZMA2, "preset": 0}]
    piece = lzma.compress(bytes(_PIECE), format=lzma.FORMAT_RAW, filters=options)[:-1]
    count = -(-size // _PIECE)
    chunks = piece * count + b"\0"
    header = _with_crc(b"\x02\0\x21\x01\x0c\0\0\0")
    unpadded = len(header) + len(chunks)
    index = b"\0\1" + _varint(unpadded) + _varint(count * _PIECE)
    index = _with_crc(index + bytes(-len(index) % 4))
    footer = struct.pack("<I", len(index) // 4 - 1) + b"\0\0"
    start = b"\xfd7zXZ\0" + _with_crc(b"\0\0")
    return (
        start
        + header
        + chunks
        + bytes(-len(chunks) % 4)
        + index
        + struct.pack("<I", zlib.crc32(footer))
        + footer
        + b"YZ"
    )


def _with_crc(data: bytes) -> bytes:
    return data + struct.pack("<I", zlib.crc32(data))


def _varint(value: int) -> bytes:
    out = b""
    while value >= 128:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def packbits_zeros(size: int) -> bytes:
    """Return runs of 128 zeros, as in TIFF's PackBits and DICOM's RLE."""
    return b"\x81\0" * -(-size // 128)
