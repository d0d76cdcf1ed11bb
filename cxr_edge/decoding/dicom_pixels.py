"""A DICOM header in, the stored values of its picture as integers out: decompressed, unused bits removed, sign extended.

It exists because the header must be checked against the limits and against the compressed stream before a decoder sees
either, and because streams and headers contradict each other in real files.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr_edge.decoding import dicom_syntaxes as syntaxes
from cxr_edge.decoding.dicom_codecs import decoded, decoded_rle
from cxr_edge.decoding.dicom_elements import CUT, Elements, PixelElement
from cxr_edge.decoding.dicom_frame import DAMAGED, frame
from cxr_edge.decoding.dicom_header import Header
from cxr_edge.decoding.dicom_streams import read_size
from cxr_edge.decoding.gray import bands
from cxr_edge.decoding.limits import Limits
from cxr_edge.errors import InputError
from cxr_edge.records import Flag

__all__ = ["Layout", "Stored", "read_layout", "stored_values"]

_GRAY = ("MONOCHROME1", "MONOCHROME2")
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_YBR_AS_STORED = ("YBR_FULL", "YBR_FULL_422")
_BEYOND_LIMIT = 0.01  # share of values with bits beyond Bits Stored above which the header cannot be right


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How the pixels of a file are stored, checked. syntax: the transfer syntax UID."""

    rows: int
    columns: int
    samples: int
    photometric: str
    planar: bool
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    syntax: str

    def with_values(self, *, bits: int, signed: bool) -> Layout:
        """The same with the significant bits and sign that the values turned out to have."""
        return replace(self, bits_stored=bits, signed=signed)

    @property
    def native(self) -> bool:
        """Whether the pixel data are not compressed."""
        return self.syntax in syntaxes.NATIVE

    @property
    def native_bytes(self) -> int:
        """What uncompressed pixel data take."""
        return self.rows * self.columns * self.samples * self.bits_allocated // 8


@dataclass(frozen=True, kw_only=True)
class Stored:
    """Stored values. values: (rows, columns) integers, or (rows, columns, 3), red (or Y) first. bits: significant ones.

    ybr: the three samples are Y, Cb, Cr (PS3.3 C.7.6.3.1.2).
    """

    values: npt.NDArray[Any]
    bits: int
    signed: bool
    ybr: bool = False
    flags: tuple[Flag, ...] = ()


def read_layout(header: Header, limits: Limits) -> Layout:
    """The layout of the pixel data, checked against the limits and for being readable. Raises InputError."""
    allocated = header.integer("BitsAllocated")
    stored = header.integer("BitsStored", allocated) or allocated
    layout = Layout(
        rows=header.integer("Rows"),
        columns=header.integer("Columns"),
        samples=header.integer("SamplesPerPixel", 1),
        photometric=header.code("PhotometricInterpretation"),
        planar=header.integer("PlanarConfiguration", 0) == 1,
        bits_allocated=allocated,
        bits_stored=stored,
        high_bit=header.integer("HighBit", stored - 1),
        signed=header.integer("PixelRepresentation", 0) == 1,
        syntax=_transfer_syntax(header.elements),
    )
    _check_layout(layout, limits)
    return layout


def _transfer_syntax(elements: Elements) -> str:
    """The UID that the file names, or, where it names none, the one that its elements are written in."""
    if not elements.syntax:
        if elements.pixels is not None and elements.pixels.length is None:
            raise InputError(
                f"compressed pixel data and no transfer syntax: {syntaxes.READ} read when named in the file"
            )
        return (
            syntaxes.IMPLICIT
            if elements.implicit
            else syntaxes.EXPLICIT
            if elements.little_endian
            else syntaxes.BIG_ENDIAN
        )
    if elements.syntax not in (*syntaxes.NATIVE, *syntaxes.COMPRESSED):
        from pydicom.uid import UID

        uid = UID("".join(c for c in elements.syntax if c in "0123456789.")[:64])
        name = "unknown or private" if uid.is_private or uid.name == uid else uid.name
        raise InputError(
            f"the transfer syntax {name} ({uid}) is not read here, {syntaxes.READ}: export the file in one of these"
        )
    return elements.syntax


def _check_layout(layout: Layout, limits: Limits) -> None:
    limits.check_size(layout.columns, layout.rows)
    named = layout.photometric if layout.photometric in (*_GRAY, *_COLOUR, "PALETTE COLOR", "ARGB") else "unknown"
    if not layout.photometric:
        raise InputError(
            "the photometric interpretation is missing, expected MONOCHROME1 or MONOCHROME2: export the file again"
        )
    if layout.photometric not in {1: _GRAY, 3: _COLOUR}.get(layout.samples, ()):
        raise InputError(
            f"the photometric interpretation is {named} with samples per pixel {layout.samples}, expected MONOCHROME1 "
            "or MONOCHROME2 with 1, RGB or YBR with 3: export the X-ray as gray"
        )
    if layout.bits_allocated not in ((8, 16, 32) if layout.samples == 1 else (8, 16)):
        raise InputError(
            f"{layout.bits_allocated} bits allocated per sample are not read here: export with 8 or 16 bits"
        )
    if not 2 <= layout.bits_stored <= layout.high_bit + 1 <= layout.bits_allocated:
        raise InputError(
            f"bits stored {layout.bits_stored}, high bit {layout.high_bit} and bits allocated {layout.bits_allocated} "
            "do not fit together: export the file again"
        )
    allocated = layout.bits_allocated // 8 * layout.samples
    # Besides the values, the gray of at most two bytes.
    per_pixel = syntaxes.decoder_bytes(layout.syntax, layout.samples, allocated) + 2
    limits.check_memory(layout.columns, layout.rows, per_pixel)


def stored_values(header: Header, layout: Layout) -> Stored:
    """The stored values of the one frame. Departures from the standard are noted in the header. Raises InputError."""
    elements = header.elements
    if elements.pixels is None:
        raise InputError(f"there are no pixel data: {CUT}")
    return _native(header, layout, elements.pixels) if layout.native else _compressed(header, layout, elements.pixels)


def _native(header: Header, layout: Layout, pixels: PixelElement) -> Stored:
    elements = header.elements
    if pixels.length is None:
        raise InputError(
            "the transfer syntax says that the pixel data are uncompressed, and they are encapsulated as compressed ones are: "
            "export the file again"
        )
    halved = layout.photometric == "YBR_FULL_422" and not _is_full_length(layout, pixels)
    samples = layout.native_bytes * 2 // 3 if halved else layout.native_bytes
    # PS3.5 7.3: bytes in big-endian words are swapped, so an odd number of them ends in the second half of a word.
    in_words = not elements.little_endian and layout.bits_allocated == 8 and pixels.vr == b"OW"
    needed = samples + samples % 2 if in_words else samples
    data = elements.up_to(pixels.start + needed)
    held = min(len(data) - pixels.start, pixels.length)
    if held < needed:
        raise InputError(
            f"the pixel data hold {held:,} bytes, {layout.columns}x{layout.rows} px need {needed:,}: the pixel data end too "
            "early (truncated copy or transfer): copy or export the file again"
        )
    _note_lengths(header, layout, pixels.length, needed)
    order = "<" if elements.little_endian else ">"
    words = np.frombuffer(
        data, f"{order}u{layout.bits_allocated // 8}", offset=pixels.start, count=needed * 8 // layout.bits_allocated
    )
    if in_words:
        words = words.view(">u2").byteswap().view("u1")[:samples]
    if layout.samples == 3:
        values = _colour_values(words, layout, halved=halved)
        return Stored(values=values, bits=layout.bits_stored, signed=False, ybr=layout.photometric in _YBR_AS_STORED)
    return _significant(header, words.reshape(layout.rows, layout.columns), layout)


def _is_full_length(layout: Layout, pixels: PixelElement) -> bool:
    return pixels.length is not None and pixels.length >= layout.native_bytes


def _note_lengths(header: Header, layout: Layout, length: int, needed: int) -> None:
    if layout.photometric == "YBR_FULL_422" and needed == layout.native_bytes:
        header.note("the pixel data are labelled YBR_FULL_422 and have the length of YBR_FULL")
    if length > needed + needed % 2:
        header.note(f"the pixel data hold {length:,} bytes and {needed:,} are needed; the rest was left out")


def _colour_values(words: npt.NDArray[Any], layout: Layout, *, halved: bool) -> npt.NDArray[Any]:
    shape = (layout.rows, layout.columns)
    if halved:  # two of Y, one Cb, one Cr for each two pixels (PS3.3 C.7.6.3.1.2)
        pairs = words.reshape(layout.rows, -1, 4)
        chroma = np.repeat(pairs[..., 2:], 2, axis=1)
        return np.dstack([pairs[..., :2].reshape(*shape), chroma])
    if layout.planar:
        return np.moveaxis(words.reshape(3, *shape), 0, -1)
    return words.reshape(*shape, 3)


def _significant(header: Header, words: npt.NDArray[Any], layout: Layout) -> Stored:
    """Only the stored bits, moved down and sign extended: high bits may hold overlays (retired, still met)."""
    bits, width = layout.bits_stored, layout.bits_allocated
    native = words.dtype.newbyteorder("=")
    if bits == width:
        values = words.astype(native, copy=False)
        return Stored(
            values=values.view(f"i{native.itemsize}") if layout.signed else values, bits=bits, signed=layout.signed
        )
    spare = layout.high_bit + 1 - bits
    up = width - bits - spare
    values = words.astype(native, copy=True)
    if layout.signed:
        values = values.view(f"i{native.itemsize}")
    padding = header.word("PixelPaddingValue")
    beyond = 0
    for rows in bands(values):
        whole = values[rows].copy()
        values[rows] <<= up
        values[rows] >>= up + spare
        changed = (values[rows] << spare) != whole
        if padding is not None and changed.any():
            changed &= whole != np.array(padding).astype(whole.dtype)  # padding may lie beyond the stored bits
        beyond += int(np.count_nonzero(changed))
    flags = _beyond_flags(header, beyond / values.size, layout) if beyond else ()
    return Stored(values=values, bits=bits, signed=layout.signed, flags=flags)


def _beyond_flags(header: Header, share: float, layout: Layout) -> tuple[Flag, ...]:
    """What follows from values with bits outside Bits Stored: a flag, or a refusal where the header cannot be right."""
    if share > _BEYOND_LIMIT and not header.elements.overlay_bits and layout.high_bit == layout.bits_stored - 1:
        raise InputError(
            f"{share:.0%} of the pixel values do not fit into Bits Stored (0028,0101) = {layout.bits_stored}: the header is "
            "wrong and the picture would be garbled; export the file again"
        )
    message = (
        f"{share:.2%} of the pixel values have bits set beyond Bits Stored ({layout.bits_stored}), as overlays do; those bits "
        "were removed"
    )
    return (Flag(code="bits_beyond_stored", message=message),)


def _compressed(header: Header, layout: Layout, pixels: PixelElement) -> Stored:
    stream = frame(header, pixels, layout.syntax)
    if layout.syntax == syntaxes.RLE:
        return _run_length(header, stream, layout)
    size = read_size(stream, layout.syntax)
    if (size.width_px, size.height_px, size.samples) != (layout.columns, layout.rows, layout.samples):
        raise InputError(
            f"the compressed picture is {size.width_px}x{size.height_px} px with {size.samples} samples of {size.bits} "
            f"bits, the header says {layout.columns}x{layout.rows} with {layout.samples} of {layout.bits_allocated}: "
            f"{DAMAGED}"
        )
    values, flags = decoded(stream, size, layout.syntax, rgb=layout.photometric == "RGB")
    expected = (layout.rows, layout.columns) + ((3,) if layout.samples == 3 else ())
    if values.shape != expected or values.dtype.kind not in "iu":
        raise InputError(f"the pixel data hold {values.shape}, the header promises {expected}: {DAMAGED}")
    if layout.samples == 1:
        return _by_stream(header, values, size.bits, layout, flags)
    ybr = layout.photometric in _YBR_AS_STORED and size.jpeg is None
    return Stored(values=values, bits=size.bits, signed=False, ybr=ybr, flags=flags)


def _run_length(header: Header, stream: bytes, layout: Layout) -> Stored:
    words = decoded_rle(
        stream,
        rows=layout.rows,
        columns=layout.columns,
        samples=layout.samples,
        bytes_per_sample=layout.bits_allocated // 8,
    )
    if layout.samples == 1:
        return _significant(header, words, layout)
    return Stored(values=words, bits=layout.bits_stored, signed=False, ybr=layout.photometric in _YBR_AS_STORED)


def _by_stream(
    header: Header, values: npt.NDArray[Any], stream_bits: int, layout: Layout, flags: tuple[Flag, ...]
) -> Stored:
    """Values as the stream has them: its own precision decides where the header's is smaller (PS3.5 8.2).

    A stream of more bits whose values fit into Bits Stored is read with those, since the sign bit is theirs.
    """
    stored = layout.bits_stored
    signed = layout.signed or values.dtype.kind == "i"
    if signed != layout.signed:
        header.note("the compressed stream has signed values, Pixel Representation (0028,0103) says unsigned")
    low, high = int(values.min()), int(values.max())
    bits = min(stream_bits, stored)
    if stream_bits > stored and not _fits(low, high, stored):
        bits = stream_bits
        if not (layout.signed and _fits(*_extended_range(values, stream_bits), stored)):
            header.note(
                f"the compressed stream has {stream_bits} bits, Bits Stored (0028,0101) says {stored}; the stream was followed"
            )
    if layout.signed and values.dtype.kind == "u":
        values = _sign_extended(values, bits)
    return Stored(values=values, bits=bits, signed=signed, flags=flags)


def _fits(low: int, high: int, bits: int) -> bool:
    """Whether values fit into `bits` bits, unsigned or, where there are negative ones, signed."""
    return -(1 << (bits - 1)) <= low and high < 1 << (bits - 1 if low < 0 else bits)


def _extended_range(values: npt.NDArray[Any], bits: int) -> tuple[int, int]:
    extended = _sign_extended(values, bits)
    return int(extended.min()), int(extended.max())


def _sign_extended(values: npt.NDArray[Any], bits: int) -> npt.NDArray[Any]:
    """Unsigned codes of `bits` bits as signed integers of the same width."""
    width = 8 * values.dtype.itemsize
    signed = values.view(f"i{values.dtype.itemsize}")
    return signed if bits >= width else (signed << (width - bits)) >> (width - bits)
