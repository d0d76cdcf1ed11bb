"""A PNG file in, its decoded picture out (W3C PNG, third edition).

It exists because the size must be checked before anything is inflated and the chunks hold more than pixels: orientation in
four places, a transparent gray value, significant bits, further pictures. The decoder sees only the chunks it needs.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr_edge.decoding.limits import Limits
from cxr_edge.decoding.metadata import (
    aspect_flag,
    exif_orientation,
    first_orientation,
    inflated_start,
    text_profile_orientation,
    xmp_orientation,
)
from cxr_edge.decoding.picture import CUT, DAMAGED, HOW_TO_CONVERT, Picture
from cxr_edge.decoding.remarks import remarks_of_imagecodecs
from cxr_edge.errors import InputError

__all__ = ["MAGIC", "decode"]

MAGIC = b"\x89PNG\r\n\x1a\n"
_DECODED_SAMPLES = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_FOR_DECODER = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_ONCE = (b"IHDR", b"PLTE", b"tRNS")
_MAX_CHUNKS = 200_000
_SURPLUS = re.compile("Too much image data|Extra compressed data")  # libpng's words for data behind the picture


@dataclass(kw_only=True)
class _Chunks:
    """What the chunks say, filled in while they are read. orientations: by source, eXIf, text profile, XMP."""

    width_px: int = 0
    height_px: int = 0
    bits: int = 0
    colour: int = 0
    significant: int | None = None
    transparency: bool = False
    density: tuple[int, int] = (0, 0)
    orientations: dict[str, int | None] = field(default_factory=dict)
    for_decoder: list[memoryview] = field(default_factory=list)


def decode(data: bytes, limits: Limits) -> Picture:
    """Decode a PNG file of one picture. Raises InputError."""
    try:
        chunks = _read_chunks(data, limits)
    except (struct.error, IndexError):
        raise InputError(CUT) from None
    limits.check_memory(chunks.width_px, chunks.height_px, _decoder_bytes(chunks))
    for_decoder = b"".join([MAGIC, *chunks.for_decoder])
    return Picture(
        format="png",
        samples=_decoded(for_decoder, chunks),
        bits=chunks.bits,
        significant_bits=chunks.significant,
        orientation=first_orientation(chunks.orientations.get(k) for k in ("eXIf", "text", "XMP")),
        flags=aspect_flag(*chunks.density),
    )


def _decoded(data: bytes, chunks: _Chunks) -> npt.NDArray[Any]:
    """Samples by libpng: fewer bits than eight widened, palettes resolved, tRNS made alpha."""
    import imagecodecs

    with remarks_of_imagecodecs() as remarks:
        try:
            samples = np.asarray(imagecodecs.png_decode(data))
        except Exception as error:  # PngError with libpng's words; others, with none that help
            reason = _words(str(error))
            words = f" ({reason})" if type(error).__name__ == "PngError" and reason else ""
            raise InputError(f"the PNG data cannot be decoded{words}: {DAMAGED}") from None
    if any("IDAT" in remark and not _SURPLUS.search(remark) for remark in remarks):
        raise InputError(f"the PNG data are damaged ({'; '.join(map(_words, remarks))}): {DAMAGED}")
    if samples.shape[:2] != (chunks.height_px, chunks.width_px):
        raise InputError(f"the decoded size is not that of the header: {DAMAGED}")
    return samples


def _words(text: str) -> str:
    """libpng's words: imagecodecs 2025.3.30 ends some in unset memory, so what follows an unprintable character is dropped."""
    return "".join(takewhile(str.isprintable, text))


def _decoder_bytes(chunks: _Chunks) -> float:
    """Bytes per pixel: decoded samples and the gray made of them."""
    sample = 2 if chunks.bits == 16 else 1
    samples = _DECODED_SAMPLES[chunks.colour] + (chunks.transparency and chunks.colour < 4)
    return sample * (samples + 1)


def _read_chunks(data: bytes, limits: Limits) -> _Chunks:
    chunks = _Chunks()
    seen: set[bytes] = set()
    view = memoryview(data)
    for kind, start, end in _chunk_bounds(data):
        if kind in _ONCE and kind in seen:
            raise InputError(f"the PNG holds two {kind.decode()} chunks: {DAMAGED}")
        if kind != b"IHDR" and not seen:
            raise InputError(f"the PNG does not begin with its IHDR chunk: {DAMAGED}")
        seen.add(kind)
        if kind == b"IHDR":
            _read_header(chunks, data[start + 8 : end - 4], limits)
        elif kind not in (b"IDAT", b"IEND", b"PLTE"):
            _read_ancillary(chunks, kind, view[start + 8 : end - 4])
        if kind in _FOR_DECODER:
            chunks.for_decoder.append(view[start:end])
    return chunks


def _chunk_bounds(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(type, start, end) of each chunk up to and with IEND, length and checksum included. Checks every checksum."""
    at, view = len(MAGIC), memoryview(data)
    for _ in range(_MAX_CHUNKS):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data):
            raise InputError(CUT)
        if zlib.crc32(view[at + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
            raise InputError(f"a checksum in this PNG does not match its data: {DAMAGED}")
        yield kind, at, end
        if kind == b"IEND":
            return
        at = end
    raise InputError(f"the PNG holds more than {_MAX_CHUNKS:,} chunks: export it again")


def _read_header(chunks: _Chunks, body: bytes, limits: Limits) -> None:
    chunks.width_px, chunks.height_px, chunks.bits, chunks.colour = struct.unpack_from(">IIBB", body)
    if chunks.bits not in _DEPTHS.get(chunks.colour, ()):
        raise InputError(f"the PNG header gives colour type {chunks.colour} with {chunks.bits} bits: {DAMAGED}")
    limits.check_size(chunks.width_px, chunks.height_px)


def _read_ancillary(chunks: _Chunks, kind: bytes, body: memoryview) -> None:
    if kind == b"acTL" and struct.unpack_from(">I", body)[0] > 1:
        raise InputError(f"an animated PNG holds several pictures: {HOW_TO_CONVERT}, one per file")
    if kind == b"tRNS":
        chunks.transparency = True
    elif kind == b"sBIT":
        significant = max(bytes(body[:3]), default=chunks.bits)
        chunks.significant = significant if 0 < significant < chunks.bits and chunks.colour != 3 else None
    elif kind == b"pHYs":
        chunks.density = struct.unpack_from(">II", body)
    elif kind == b"eXIf":
        chunks.orientations.setdefault("eXIf", exif_orientation(bytes(body)))
    elif kind in (b"tEXt", b"zTXt", b"iTXt"):
        _read_text(chunks, kind, body)


def _read_text(chunks: _Chunks, kind: bytes, body: memoryview) -> None:
    """Text chunks that may hold an orientation; others are passed over without a copy."""
    keyword = bytes(body[:80]).split(b"\0", 1)[0]
    source = "text" if keyword.startswith(b"Raw profile type ") else "XMP" if keyword == b"XML:com.adobe.xmp" else ""
    if not source or chunks.orientations.get(source) is not None:
        return
    text = _text(kind, bytes(body[len(keyword) + 1 :]))
    chunks.orientations[source] = text_profile_orientation(text) if source == "text" else xmp_orientation(text)


def _text(kind: bytes, rest: bytes) -> bytes:
    """The text of a chunk, from after its keyword; at most the first MiB of a compressed one."""
    if kind == b"tEXt":
        return rest
    if kind == b"zTXt":
        return inflated_start(rest[1:])
    compressed = rest[:1] == b"\1"
    text = rest[2:].split(b"\0", 2)[-1]  # after language tag and translated keyword
    return inflated_start(text) if compressed else text
