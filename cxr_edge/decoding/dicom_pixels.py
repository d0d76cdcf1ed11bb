"""DICOM pixel data: a header in, the stored values of its image as integers out, decompressed, masked and sign extended.

It exists because the header must be checked against the limits and against the compressed stream before a decoder runs, and
because streams and headers contradict each other in real files.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr_edge.decoding import dicom_syntaxes as syntaxes
from cxr_edge.decoding.dicom_codecs import decode_frame, decode_rle
from cxr_edge.decoding.dicom_elements import HEADER_TRUNCATED, Elements, PixelElement
from cxr_edge.decoding.dicom_frame import PIXELS_DAMAGED, PIXELS_TRUNCATED, join_fragments
from cxr_edge.decoding.dicom_header import Header
from cxr_edge.decoding.dicom_streams import read_stream_header
from cxr_edge.decoding.gray import row_bands
from cxr_edge.decoding.limits import Limits
from cxr_edge.errors import InputError
from cxr_edge.records import Flag

__all__ = ["PixelLayout", "StoredValues", "read_pixel_layout", "read_stored_values"]

_GRAY = ("MONOCHROME1", "MONOCHROME2")
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_YBR_AS_STORED = ("YBR_FULL", "YBR_FULL_422")
_MAX_SHARE_BEYOND_STORED = 0.01  # of values with bits beyond Bits Stored; above, the header must be wrong


@dataclass(frozen=True, kw_only=True)
class PixelLayout:
    """Storage of the pixels of a file, checked."""

    rows: int
    columns: int
    samples: int
    photometric: str
    planar: bool
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    syntax: str  # transfer syntax UID

    def with_values(self, *, bits: int, signed: bool) -> PixelLayout:
        """Return a copy with the actual significant bits and sign of the values."""
        return replace(self, bits_stored=bits, signed=signed)

    @property
    def native(self) -> bool:
        """True if the pixel data are not compressed."""
        return self.syntax in syntaxes.NATIVE

    @property
    def native_bytes(self) -> int:
        """Size of uncompressed pixel data."""
        return self.rows * self.columns * self.samples * self.bits_allocated // 8


@dataclass(frozen=True, kw_only=True)
class StoredValues:
    """Stored values of the image."""

    values: npt.NDArray[Any]  # integers, (rows, columns) or (rows, columns, 3), red or Y first
    bits: int  # significant ones
    signed: bool
    ybr: bool = False  # the three samples are Y, Cb, Cr (PS3.3 C.7.6.3.1.2)
    flags: tuple[Flag, ...] = ()


def read_pixel_layout(header: Header, limits: Limits) -> PixelLayout:
    """Return the layout of the pixel data. Raises InputError if it exceeds the limits or is not supported."""
    allocated = header.integer("BitsAllocated")
    stored = header.integer("BitsStored", allocated) or allocated
    layout = PixelLayout(
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
    """Return the UID in the file, or, if there is none, that of the encoding of its elements."""
    if not elements.syntax:
        if elements.pixels is not None and elements.pixels.length is None:
            raise InputError(
                f"compressed pixel data without a transfer syntax, expected {syntaxes.SUPPORTED}: export the file again"
            )
        if elements.implicit:
            return syntaxes.IMPLICIT
        return syntaxes.EXPLICIT if elements.little_endian else syntaxes.BIG_ENDIAN
    if elements.syntax not in (*syntaxes.NATIVE, *syntaxes.COMPRESSED):
        from pydicom.uid import UID

        uid = UID("".join(c for c in elements.syntax if c in "0123456789.")[:64])
        name = "unknown or private" if uid.is_private or uid.name == uid else uid.name
        raise InputError(
            f"the transfer syntax {name} ({uid}) is not supported, expected {syntaxes.SUPPORTED}: export the file in one of these"
        )
    return elements.syntax


def _check_layout(layout: PixelLayout, limits: Limits) -> None:
    limits.check_size(layout.columns, layout.rows)
    known = layout.photometric if layout.photometric in (*_GRAY, *_COLOUR, "PALETTE COLOR", "ARGB") else "unknown"
    if not layout.photometric:
        raise InputError(
            "the photometric interpretation is missing, expected MONOCHROME1 or MONOCHROME2: export the file again"
        )
    if layout.photometric not in {1: _GRAY, 3: _COLOUR}.get(layout.samples, ()):
        raise InputError(
            f"the photometric interpretation is {known} with samples per pixel {layout.samples}, expected MONOCHROME1 "
            "or MONOCHROME2 with 1, RGB or YBR with 3: export the X-ray as gray"
        )
    if layout.bits_allocated not in ((8, 16, 32) if layout.samples == 1 else (8, 16)):
        raise InputError(
            f"{layout.bits_allocated} bits allocated per sample are not supported: export with 8 or 16 bits"
        )
    if not 2 <= layout.bits_stored <= layout.high_bit + 1 <= layout.bits_allocated:
        raise InputError(
            f"bits stored {layout.bits_stored}, high bit {layout.high_bit} and bits allocated {layout.bits_allocated} "
            "contradict each other: export the file again"
        )
    allocated = layout.bits_allocated // 8 * layout.samples
    # The values, and the gray of at most two bytes.
    per_pixel = syntaxes.decoder_bytes_per_pixel(layout.syntax, layout.samples, allocated) + 2
    limits.check_memory(layout.columns, layout.rows, per_pixel)


def read_stored_values(header: Header, layout: PixelLayout) -> StoredValues:
    """Return the stored values of the one frame; note deviations from the standard in the header. Raises InputError."""
    elements = header.elements
    if elements.pixels is None:
        raise InputError(f"there are no pixel data: {HEADER_TRUNCATED}")
    return (
        _read_native(header, layout, elements.pixels)
        if layout.native
        else _read_compressed(header, layout, elements.pixels)
    )


def _read_native(header: Header, layout: PixelLayout, pixels: PixelElement) -> StoredValues:
    elements = header.elements
    if pixels.length is None:
        raise InputError(
            "by the transfer syntax the pixel data are uncompressed, but they are encapsulated like compressed ones: export the "
            "file again"
        )
    halved = layout.photometric == "YBR_FULL_422" and not _is_full_length(layout, pixels)
    samples = layout.native_bytes * 2 // 3 if halved else layout.native_bytes
    # PS3.5 7.3: bytes in big-endian words are swapped, so an odd number of them ends in the second half of the last word.
    in_words = not elements.little_endian and layout.bits_allocated == 8 and pixels.vr == b"OW"
    needed = samples + samples % 2 if in_words else samples
    data = elements.data_up_to(pixels.start + needed)
    available = min(len(data) - pixels.start, pixels.length)
    if available < needed:
        raise InputError(
            f"the pixel data have {available:,} bytes, {layout.columns}x{layout.rows} px need {needed:,}: {PIXELS_TRUNCATED}"
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
        return StoredValues(
            values=values, bits=layout.bits_stored, signed=False, ybr=layout.photometric in _YBR_AS_STORED
        )
    return _extract_stored_bits(header, words.reshape(layout.rows, layout.columns), layout)


def _is_full_length(layout: PixelLayout, pixels: PixelElement) -> bool:
    return pixels.length is not None and pixels.length >= layout.native_bytes


def _note_lengths(header: Header, layout: PixelLayout, length: int, needed: int) -> None:
    if layout.photometric == "YBR_FULL_422" and needed == layout.native_bytes:
        header.note("the pixel data are labelled YBR_FULL_422 and have the length of YBR_FULL")
    if length > needed + needed % 2:
        header.note(f"the pixel data have {length:,} bytes and {needed:,} are needed; the rest was ignored")


def _colour_values(words: npt.NDArray[Any], layout: PixelLayout, *, halved: bool) -> npt.NDArray[Any]:
    shape = (layout.rows, layout.columns)
    if halved:  # two Y, one Cb, one Cr per two pixels (PS3.3 C.7.6.3.1.2)
        pairs = words.reshape(layout.rows, -1, 4)
        chroma = np.repeat(pairs[..., 2:], 2, axis=1)
        return np.dstack([pairs[..., :2].reshape(*shape), chroma])
    if layout.planar:
        return np.moveaxis(words.reshape(3, *shape), 0, -1)
    return words.reshape(*shape, 3)


def _extract_stored_bits(header: Header, words: npt.NDArray[Any], layout: PixelLayout) -> StoredValues:
    """Extract the stored bits, shifted down and sign extended: high bits may contain overlays (retired, still in use)."""
    bits, width = layout.bits_stored, layout.bits_allocated
    native = words.dtype.newbyteorder("=")
    if bits == width:
        values = words.astype(native, copy=False)
        return StoredValues(
            values=values.view(f"i{native.itemsize}") if layout.signed else values, bits=bits, signed=layout.signed
        )
    spare = layout.high_bit + 1 - bits
    up = width - bits - spare
    values = words.astype(native, copy=True)
    if layout.signed:
        values = values.view(f"i{native.itemsize}")
    padding = header.word("PixelPaddingValue")
    beyond = 0
    for rows in row_bands(values):
        original = values[rows].copy()
        values[rows] <<= up
        values[rows] >>= up + spare
        changed = (values[rows] << spare) != original
        if padding is not None and changed.any():
            # Padding may use bits beyond the stored ones.
            changed &= original != np.array(padding).astype(original.dtype)
        beyond += int(np.count_nonzero(changed))
    flags = _overlay_flags(header, beyond / values.size, layout) if beyond else ()
    return StoredValues(values=values, bits=bits, signed=layout.signed, flags=flags)


def _overlay_flags(header: Header, share: float, layout: PixelLayout) -> tuple[Flag, ...]:
    """Return a flag for values with bits outside Bits Stored; raise InputError if the header must be wrong."""
    if (
        share > _MAX_SHARE_BEYOND_STORED
        and not header.elements.overlay_bits
        and layout.high_bit == layout.bits_stored - 1
    ):
        raise InputError(
            f"{share:.0%} of the pixel values do not fit into Bits Stored (0028,0101) = {layout.bits_stored}: the header is "
            "wrong and the image would be garbled; export the file again"
        )
    message = (
        f"{share:.2%} of the pixel values have bits set beyond Bits Stored ({layout.bits_stored}), like overlays; those bits "
        "were removed"
    )
    return (Flag(code="bits_beyond_stored", message=message),)


def _read_compressed(header: Header, layout: PixelLayout, pixels: PixelElement) -> StoredValues:
    stream = join_fragments(header, pixels, layout.syntax)
    if layout.syntax == syntaxes.RLE:
        return _rle_values(header, stream, layout)
    actual = read_stream_header(stream, layout.syntax)
    if (actual.width_px, actual.height_px, actual.samples) != (layout.columns, layout.rows, layout.samples):
        raise InputError(
            f"the compressed image is {actual.width_px}x{actual.height_px} px with {actual.samples} samples of {actual.bits} "
            f"bits, the DICOM header gives {layout.columns}x{layout.rows} with {layout.samples} of {layout.bits_allocated}: "
            f"{PIXELS_DAMAGED}"
        )
    values, flags = decode_frame(stream, actual, layout.syntax, rgb=layout.photometric == "RGB")
    expected = (layout.rows, layout.columns) + ((3,) if layout.samples == 3 else ())
    if values.shape != expected or values.dtype.kind not in "iu":
        raise InputError(f"the pixel data have shape {values.shape}, by the header {expected}: {PIXELS_DAMAGED}")
    if layout.samples == 1:
        return _gray_values(header, values, actual.bits, layout, flags)
    ybr = layout.photometric in _YBR_AS_STORED and actual.jpeg is None
    return StoredValues(values=values, bits=actual.bits, signed=False, ybr=ybr, flags=flags)


def _rle_values(header: Header, stream: bytes, layout: PixelLayout) -> StoredValues:
    words = decode_rle(
        stream,
        rows=layout.rows,
        columns=layout.columns,
        samples=layout.samples,
        bytes_per_sample=layout.bits_allocated // 8,
    )
    if layout.samples == 1:
        return _extract_stored_bits(header, words, layout)
    return StoredValues(values=words, bits=layout.bits_stored, signed=False, ybr=layout.photometric in _YBR_AS_STORED)


def _gray_values(
    header: Header, values: npt.NDArray[Any], stream_bits: int, layout: PixelLayout, flags: tuple[Flag, ...]
) -> StoredValues:
    """Return the gray values of a compressed stream, with its own precision if the header's is smaller (PS3.5 8.2).

    A stream of more bits with values that fit into Bits Stored is read with Bits Stored, since those contain the sign bit.
    """
    stored = layout.bits_stored
    signed = layout.signed or values.dtype.kind == "i"
    if signed != layout.signed:
        header.note("the compressed stream has signed values, by Pixel Representation (0028,0103) they are unsigned")
    low, high = int(values.min()), int(values.max())
    bits = min(stream_bits, stored)
    if stream_bits > stored and not _fits(low, high, stored):
        bits = stream_bits
        if not (layout.signed and _fits(*_sign_extended_range(values, stream_bits), stored)):
            header.note(
                f"the compressed stream has {stream_bits} bits, Bits Stored (0028,0101) is {stored}; the stream was used"
            )
    if layout.signed and values.dtype.kind == "u":
        values = _sign_extend(values, bits)
    return StoredValues(values=values, bits=bits, signed=signed, flags=flags)


def _fits(low: int, high: int, bits: int) -> bool:
    """Return whether values fit into `bits` bits, signed if `low` is negative."""
    return -(1 << (bits - 1)) <= low and high < 1 << (bits - 1 if low < 0 else bits)


def _sign_extended_range(values: npt.NDArray[Any], bits: int) -> tuple[int, int]:
    extended = _sign_extend(values, bits)
    return int(extended.min()), int(extended.max())


def _sign_extend(values: npt.NDArray[Any], bits: int) -> npt.NDArray[Any]:
    """Convert unsigned codes of `bits` bits to signed integers of the same width."""
    width = 8 * values.dtype.itemsize
    signed = values.view(f"i{values.dtype.itemsize}")
    return signed if bits >= width else (signed << (width - bits)) >> (width - bits)
