"""PNG decoder: a file of one image in, decoded image out (W3C PNG, third edition).

It exists because the size must be checked before anything is inflated, and because chunks contain more than pixels:
orientation in four places, a transparent gray value, significant bits, further images. libpng gets only the chunks it needs.
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

from cxr_edge.decoding.decoded_image import DAMAGED, TRUNCATED, DecodedImage
from cxr_edge.decoding.formats import HOW_TO_CONVERT
from cxr_edge.decoding.imagecodecs_log import capture_imagecodecs_log
from cxr_edge.decoding.limits import Limits
from cxr_edge.decoding.metadata import (
    aspect_flag,
    exif_orientation,
    first_orientation,
    inflate_start,
    text_profile_orientation,
    xmp_orientation,
)
from cxr_edge.errors import InputError

__all__ = ["decode"]

_MAGIC = b"\x89PNG\r\n\x1a\n"
_DECODED_SAMPLES = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_DECODER_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_UNIQUE_CHUNKS = (b"IHDR", b"PLTE", b"tRNS")
_MAX_CHUNKS = 200_000
_SURPLUS = re.compile(
    "Too much image data|Extra compressed data"
)  # libpng's messages for data after the end of the image


@dataclass(kw_only=True)
class _Chunks:
    """Contents of the chunks, filled in while they are read."""

    width_px: int = 0
    height_px: int = 0
    bits: int = 0
    colour: int = 0
    significant_bits: int | None = None
    transparency: bool = False
    density: tuple[int, int] = (0, 0)
    orientations: dict[str, int | None] = field(default_factory=dict)  # by source: eXIf, text, XMP
    for_decoder: list[memoryview] = field(default_factory=list)


def decode(data: bytes, limits: Limits) -> DecodedImage:
    """Decode a PNG file of one image. Raises InputError."""
    try:
        chunks = _read_chunks(data, limits)
    except (struct.error, IndexError):
        raise InputError(TRUNCATED) from None
    limits.check_memory(chunks.width_px, chunks.height_px, _decoder_bytes_per_pixel(chunks))
    for_decoder = b"".join([_MAGIC, *chunks.for_decoder])
    return DecodedImage(
        samples=_run_libpng(for_decoder, chunks),
        bits=chunks.bits,
        significant_bits=chunks.significant_bits,
        orientation=first_orientation(chunks.orientations.get(k) for k in ("eXIf", "text", "XMP")),
        flags=aspect_flag(*chunks.density),
    )


def _run_libpng(data: bytes, chunks: _Chunks) -> npt.NDArray[Any]:
    """Decode with libpng, which widens fewer than eight bits to eight, and converts palettes to RGB and tRNS to alpha."""
    import imagecodecs

    with capture_imagecodecs_log() as warnings:
        try:
            samples = np.asarray(imagecodecs.png_decode(data))
        except Exception as error:  # PngError has libpng's message; the messages of other types do not help
            message = _printable_start(str(error))
            detail = f" ({message})" if type(error).__name__ == "PngError" and message else ""
            raise InputError(f"the PNG data cannot be decoded{detail}: {DAMAGED}") from None
    if any("IDAT" in warning and not _SURPLUS.search(warning) for warning in warnings):
        raise InputError(f"the PNG data are damaged ({'; '.join(map(_printable_start, warnings))}): {DAMAGED}")
    if samples.shape[:2] != (chunks.height_px, chunks.width_px):
        raise InputError(f"the decoded size differs from the header: {DAMAGED}")
    return samples


def _printable_start(message: str) -> str:
    """Cut a message of libpng at an unprintable character: imagecodecs 2025.3.30 ends some in uninitialised memory."""
    return "".join(takewhile(str.isprintable, message))


def _decoder_bytes_per_pixel(chunks: _Chunks) -> float:
    """Return the memory of decoding in bytes per pixel: the samples and the gray."""
    sample = 2 if chunks.bits == 16 else 1
    samples = _DECODED_SAMPLES[chunks.colour] + (chunks.transparency and chunks.colour < 4)
    return sample * (samples + 1)


def _read_chunks(data: bytes, limits: Limits) -> _Chunks:
    chunks = _Chunks()
    seen: set[bytes] = set()
    view = memoryview(data)
    for kind, start, end in _chunk_bounds(data):
        if kind in _UNIQUE_CHUNKS and kind in seen:
            raise InputError(f"the PNG contains two {kind.decode()} chunks: {DAMAGED}")
        if kind != b"IHDR" and not seen:
            raise InputError(f"the PNG does not begin with its IHDR chunk: {DAMAGED}")
        seen.add(kind)
        if kind == b"IHDR":
            _read_header(chunks, data[start + 8 : end - 4], limits)
        elif kind not in (b"IDAT", b"IEND", b"PLTE"):
            _read_ancillary(chunks, kind, view[start + 8 : end - 4])
        if kind in _DECODER_CHUNKS:
            chunks.for_decoder.append(view[start:end])
    return chunks


def _chunk_bounds(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield (type, start, end) of each chunk up to IEND, length and checksum included. Checks every checksum."""
    start, view = len(_MAGIC), memoryview(data)
    for _ in range(_MAX_CHUNKS):
        length, kind = struct.unpack_from(">I4s", data, start)
        end = start + 12 + length
        if end > len(data):
            raise InputError(TRUNCATED)
        if zlib.crc32(view[start + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
            raise InputError(f"a checksum in this PNG does not match its data: {DAMAGED}")
        yield kind, start, end
        if kind == b"IEND":
            return
        start = end
    raise InputError(f"the PNG contains more than {_MAX_CHUNKS:,} chunks: export it again")


def _read_header(chunks: _Chunks, body: bytes, limits: Limits) -> None:
    chunks.width_px, chunks.height_px, chunks.bits, chunks.colour = struct.unpack_from(">IIBB", body)
    if chunks.bits not in _DEPTHS.get(chunks.colour, ()):
        raise InputError(f"the PNG header gives colour type {chunks.colour} with {chunks.bits} bits: {DAMAGED}")
    limits.check_size(chunks.width_px, chunks.height_px)


def _read_ancillary(chunks: _Chunks, kind: bytes, body: memoryview) -> None:
    if kind == b"acTL" and struct.unpack_from(">I", body)[0] > 1:
        raise InputError(f"an animated PNG contains several images: {HOW_TO_CONVERT}, one per file")
    if kind == b"tRNS":
        chunks.transparency = True
    elif kind == b"sBIT":
        significant = max(bytes(body[:3]), default=chunks.bits)
        chunks.significant_bits = significant if 0 < significant < chunks.bits and chunks.colour != 3 else None
    elif kind == b"pHYs":
        chunks.density = struct.unpack_from(">II", body)
    elif kind == b"eXIf":
        chunks.orientations.setdefault("eXIf", exif_orientation(bytes(body)))
    elif kind in (b"tEXt", b"zTXt", b"iTXt"):
        _read_text(chunks, kind, body)


def _read_text(chunks: _Chunks, kind: bytes, body: memoryview) -> None:
    """Read the orientation in a text chunk; chunks with other keywords are skipped without a copy."""
    keyword = bytes(body[:80]).split(b"\0", 1)[0]
    source = "text" if keyword.startswith(b"Raw profile type ") else "XMP" if keyword == b"XML:com.adobe.xmp" else ""
    if not source or chunks.orientations.get(source) is not None:
        return
    text = _chunk_text(kind, bytes(body[len(keyword) + 1 :]))
    chunks.orientations[source] = text_profile_orientation(text) if source == "text" else xmp_orientation(text)


def _chunk_text(kind: bytes, rest: bytes) -> bytes:
    """Return the text of a chunk, at most the first MiB of a compressed one. rest: the chunk after its keyword."""
    if kind == b"tEXt":
        return rest
    if kind == b"zTXt":
        return inflate_start(rest[1:])
    compressed = rest[:1] == b"\1"
    text = rest[2:].split(b"\0", 2)[-1]  # after language tag and translated keyword
    return inflate_start(text) if compressed else text
