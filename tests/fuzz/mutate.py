"""Mutations: a seed file and a random generator in, a file with one to three mutations out.

The same generator state gives the same file. Most of the time PNG checksums and RIFF sizes are recomputed, and data sets are
deflated at the end, since otherwise nothing after the checksum would be parsed.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from tests.fuzz.image_seeds import Seed, png_chunk, png_parts
from tests.fuzz.layout import Layout, find_layout

MAX_BYTES = 1 << 18  # of a mutated file; repeated ranges could make it arbitrarily large

_EDGES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_WIDE_EDGES = (1 << 32, (1 << 63) - 16, (1 << 63) - 1, 1 << 63, (1 << 64) - 16, (1 << 64) - 1)
_TOKENS = {
    "jpeg": (b"\xff\xd9", b"\xff\xd8", b"\xff\xc2", b"\xff\xc3", b"\xff\xc9", b"\xff\xda", b"\xff\xdd\0\4\0\1", b"\xff\xdc\0\4"),
    "png": (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"acTL", b"fdAT", b"eXIf", b"zTXt", b"iTXt", b"iCCP", b"sBIT"),
    "tiff": tuple(struct.pack("<H", tag) for tag in (254, 258, 259, 262, 273, 274, 277, 279, 284, 317, 322, 330, 338, 339, 347)),
    "webp": (b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF", b"EXIF", b"XMP ", b"ICCP"),
    "bmp": (b"\x28\0\0\0", b"\x7c\0\0\0", b"\x0c\0\0\0", b"\1\0\0\0", b"\2\0\0\0", b"\4\0\0\0"),
    "dicom": (
        *(b"\xfe\xff\0\xe0", b"\xfe\xff\x0d\xe0", b"\xfe\xff\xdd\xe0", b"\xff\xff\xff\xff", b"\xe0\x7f\x10\0", b"\x28\0\x50\x10"),
        *(b"SQ", b"UN", b"OW", b"DS", b"UT", b"AT", b"US", b"nan ", b"inf ", b"1e999", b"-1e-300", b"\\\\\\\\", b"[2] ", b"1,5 "),
        *(b"MONOCHROME1 ", b"PALETTE COLOR ", b"YBR_FULL_422", b"1.2.840.10008.1.2\0", b"1.2.840.10008.1.2.5\0"),
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Source:
    """A seed with its layout, computed once."""

    seed: Seed
    layout: Layout


def make_source(seed: Seed) -> Source:
    """Find the layout of a seed."""
    return Source(seed=seed, layout=find_layout(seed.data))


def mutate(source: Source, others: tuple[Source, ...], random: Random) -> bytes:
    """Return a mutated file. others: seeds of the same format, for splicing."""
    data = bytearray(source.seed.data)
    for _ in range(random.choice((1, 1, 1, 1, 2, 2, 3))):
        random.choice(_MUTATIONS)(data, source, random.choice(others), random)
    del data[MAX_BYTES:]
    return finish(source.seed, bytes(data), random)


def finish(seed: Seed, data: bytes, random: Random) -> bytes:
    """Deflate the unpacked parts of the seed; recompute checksums and sizes most of the time."""
    if seed.format == "dicom" and seed.unpacked:
        start = 144 + int.from_bytes(data[140:144], "little")
        packer = zlib.compressobj(1, wbits=-zlib.MAX_WBITS)
        return data[:start] + packer.compress(data[start:]) + packer.flush()
    if seed.format == "png" and (seed.unpacked or random.random() < 0.8):
        return _recompute_png(data, unpacked=seed.unpacked)
    if seed.format == "webp" and random.random() < 0.7:
        return data[:4] + struct.pack("<I", max(len(data) - 8, 0)) + data[8:]
    return data


def _recompute_png(data: bytes, *, unpacked: bool) -> bytes:
    """Recompute the checksum of each chunk that can be parsed and deflate pixel data; the rest is unchanged."""
    parts = list(png_parts(data))
    rest = data[8 + sum(12 + len(body) for _, body in parts) :]
    packed = ((kind, zlib.compress(body, 1) if unpacked and kind == b"IDAT" else body) for kind, body in parts)
    return data[:8] + b"".join(png_chunk(kind, body) for kind, body in packed) + rest


def _edge(size: int, random: Random) -> int:
    """Return a value of `size` bytes: an edge of an integer type, a small number, or any."""
    kind = random.randrange(4)
    if kind == 0:
        value = random.randrange(300)
    elif kind == 1:
        value = random.getrandbits(8 * size)
    else:
        value = random.choice(_WIDE_EDGES if size == 8 and kind == 2 else _EDGES)
    return value & ((1 << 8 * size) - 1)


def _put(data: bytearray, offset: int, value: int, size: int, order: str) -> None:
    if 0 <= offset <= len(data) - size:
        data[offset : offset + size] = value.to_bytes(size, "little" if order == "<" else "big")


# Mutations change `data` in place. After a block has moved the offsets of the layout may be wrong: one more mutation.


def _set_field(data: bytearray, source: Source, other: Source, random: Random) -> None:
    field = random.choice(source.layout.fields)
    _put(data, field.offset, _edge(field.size, random), field.size, field.order)


def _increment_field(data: bytearray, source: Source, other: Source, random: Random) -> None:
    field = random.choice(source.layout.fields)
    order = "little" if field.order == "<" else "big"
    value = int.from_bytes(data[field.offset : field.offset + field.size], order) + random.choice((-2, -1, 1, 2, 8))
    _put(data, field.offset, value & ((1 << 8 * field.size) - 1), field.size, field.order)


def _copy_field(data: bytearray, source: Source, other: Source, random: Random) -> None:
    field, twin = random.choice(source.layout.fields), random.choice(source.layout.fields)
    data[field.offset : field.offset + field.size] = data[twin.offset : twin.offset + field.size]


def _delete_block(data: bytearray, source: Source, other: Source, random: Random) -> None:
    start, end = random.choice(source.layout.blocks)
    del data[start:end]


def _repeat_block(data: bytearray, source: Source, other: Source, random: Random) -> None:
    start, end = random.choice(source.layout.blocks)
    data[end:end] = data[start:end] * random.choice((1, 1, 1, 2, 30))


def _move_block(data: bytearray, source: Source, other: Source, random: Random) -> None:
    (start, end), (target, _) = random.choice(source.layout.blocks), random.choice(source.layout.blocks)
    block = bytes(data[start:end])
    del data[start:end]
    data[target:target] = block


def _import_block(data: bytearray, source: Source, other: Source, random: Random) -> None:
    (start, end), (target, stop) = random.choice(other.layout.blocks), random.choice(source.layout.blocks)
    data[target : random.choice((target, stop))] = other.seed.data[start:end]


def _splice(data: bytearray, source: Source, other: Source, random: Random) -> None:
    cut = random.randrange(len(data) + 1)
    data[cut:] = other.seed.data[cut if random.random() < 0.5 else random.randrange(len(other.seed.data)) :]


def _flip_bits(data: bytearray, source: Source, other: Source, random: Random) -> None:
    for _ in range(random.choice((1, 1, 2, 8, 40))):
        if data:
            data[random.randrange(len(data))] ^= 1 << random.randrange(8)


def _set_bytes(data: bytearray, source: Source, other: Source, random: Random) -> None:
    start, value = random.randrange(len(data) + 1), random.choice((0, 0xFF, 0x7F, 0x80))
    for offset in range(start, min(start + random.choice((1, 1, 2, 4, 16)), len(data))):
        data[offset] = value


def _set_number(data: bytearray, source: Source, other: Source, random: Random) -> None:
    size = random.choice((2, 4, 8))
    _put(data, random.randrange(len(data) + 1), _edge(size, random), size, random.choice("<>"))


def _put_token(data: bytearray, source: Source, other: Source, random: Random) -> None:
    token = random.choice(_TOKENS[source.seed.format])
    start = random.choice(source.layout.fields).offset if random.random() < 0.7 else random.randrange(len(data) + 1)
    data[start : start + random.choice((0, len(token), len(token)))] = token


def _truncate(data: bytearray, source: Source, other: Source, random: Random) -> None:
    del data[random.randrange(len(data) + 1) :]


def _delete_range(data: bytearray, source: Source, other: Source, random: Random) -> None:
    start = random.randrange(len(data) + 1)
    del data[start : start + random.choice((1, 2, 3, 8, 100))]


def _repeat_range(data: bytearray, source: Source, other: Source, random: Random) -> None:
    start = random.randrange(len(data) + 1)
    chunk = data[start : start + random.choice((1, 2, 12, 100))]
    data[start:start] = chunk * random.choice((1, 1, 5, 200))


_MUTATIONS: tuple[Callable[[bytearray, Source, Source, Random], None], ...] = (
    *(_set_field, _set_field, _set_field, _set_field, _increment_field, _increment_field, _copy_field),
    *(_delete_block, _repeat_block, _move_block, _import_block, _splice, _put_token, _put_token),
    *(_flip_bits, _set_bytes, _set_number, _truncate, _delete_range, _repeat_range),
)
