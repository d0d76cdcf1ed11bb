"""The bytes of a DICOM file in, the few elements that decoding needs out, and where the pixel data are.

It exists because a DICOM file can claim anything: elements are stepped over one by one (PS3.5 section 7), sequences of
undefined length without recursion, and only what is listed in `KEYWORDS` is handed to pydicom, each element once and of
bounded size. Time and memory are linear in the file's length; nothing that identifies a patient is parsed at all.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass, replace

from pydicom.datadict import keyword_for_tag, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset

from cxr_edge.decoding.dicom_syntaxes import BIG_ENDIAN, DEFLATED
from cxr_edge.decoding.limits import FILE_OVERHEAD_BYTES
from cxr_edge.errors import InputError

__all__ = ["CUT", "Elements", "PixelElement", "element_name", "read_elements"]

CUT = "the file ends before its pixel data do (truncated copy or transfer), or is damaged: copy or export it again"

_DICOMDIR_CLASS = "1.2.840.10008.1.3.10"
_LONG_VRS = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))
_UNDEFINED = 0xFFFFFFFF
_PIXELS = (0x7FE00008, 0x7FE00009, 0x7FE00010)  # float, double, integers
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_OVERLAY_BIT_POSITION, _DIRECTORY_RECORDS = 0x60000102, 0x00041220
_MAX_ELEMENTS, _MAX_DEPTH = 500_000, 64
_MAX_VALUE_BYTES = 1 << 20  # a lookup table of 65,536 entries takes an eighth of it
_INFLATED_STARTS = (1 << 20, FILE_OVERHEAD_BYTES)

KEYWORDS = (
    *("SOPClassUID", "Modality", "PresentationIntentType", "BodyPartExamined", "ViewPosition", "ViewCodeSequence"),
    *("PatientOrientation", "PixelAspectRatio", "PixelSpacing", "ImagerPixelSpacing", "PresentationLUTShape"),
    *("SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("RescaleIntercept", "RescaleSlope", "ModalityLUTSequence", "VOILUTSequence", "VOILUTFunction"),
    *("WindowCenter", "WindowWidth"),
)
_WANTED = frozenset(int(tag_for_keyword(k) or 0) for k in KEYWORDS)


@dataclass(frozen=True, kw_only=True)
class PixelElement:
    """Where the pixel data are. start: of the value, in `Elements.data`. length: as declared, None where undefined."""

    tag: int
    vr: bytes
    start: int
    length: int | None


@dataclass(frozen=True, kw_only=True)
class Elements:
    """What was found. syntax: the transfer syntax UID, "" where the file names none.

    file: the file's bytes. data: the bytes that `pixels` refers to: the same, or the inflated start of a deflated data set,
    which begins at `deflated_from` in the file. dataset: the elements of `KEYWORDS`, not yet converted. overlay_bits: an
    overlay says that it is in the pixels' unused bits.
    """

    file: bytes
    data: bytes
    dataset: Dataset
    syntax: str
    implicit: bool
    little_endian: bool
    pixels: PixelElement | None
    overlay_bits: bool
    deflated_from: int | None = None

    def up_to(self, end: int) -> bytes | bytearray:
        """`data` up to a byte offset, inflated that far where the data set is deflated; less where it ends before."""
        if self.deflated_from is None or end <= len(self.data):
            return self.data
        return inflated(self.file, self.deflated_from, end)


@dataclass(frozen=True, kw_only=True)
class _Encoding:
    implicit: bool
    order: str


def element_name(tag: int) -> str:
    """`Rows (0028,0010)`: for messages."""
    return f"{keyword_for_tag(tag)} ({tag >> 16:04X},{tag & 0xFFFF:04X})"


def read_elements(data: bytes) -> Elements:
    """Step over the elements up to the pixel data. Raises InputError for what cannot be followed."""
    try:
        at = 132 if data[128:132] == b"DICM" else 0
        syntax, sop_class, at = _read_meta(data, at)
        if sop_class == _DICOMDIR_CLASS:
            raise _is_directory()
        if syntax == DEFLATED:
            return _read_deflated(data, at)
        return _Walk(data, _encoding(data, at, syntax)).elements(at, syntax)
    except struct.error:
        raise InputError(f"the DICOM elements cannot be read: {CUT}") from None


def _is_directory() -> InputError:
    return InputError(
        "this is a DICOMDIR, the table of contents of a disc, and holds no picture: give the images "
        "that it lists, or their folder"
    )


def _read_meta(data: bytes, at: int) -> tuple[str, str, int]:
    """(transfer syntax, SOP class, where the data set starts) from the file meta group, which is explicit little endian."""
    walk = _Walk(data, _Encoding(implicit=False, order="<"))
    values: dict[int, str] = {}
    while data[at : at + 2] == b"\2\0":
        tag, _, start, length = walk.head(at, implicit=False)
        if length == _UNDEFINED or start + length > len(data):
            raise InputError(f"the DICOM elements cannot be read: {CUT}")
        if tag in (0x00020002, 0x00020010):
            values[tag] = data[start : start + min(length, 64)].decode("latin-1").strip(" \0")
        at = start + length
    return values.get(0x00020010, ""), values.get(0x00020002, ""), at


def _encoding(data: bytes, at: int, syntax: str) -> _Encoding:
    """How the data set is written: as the transfer syntax says, unless its first element shows otherwise."""
    order = "<"
    if syntax == BIG_ENDIAN or not syntax:
        # A data set starts with a low group number: read in the wrong order it would be 0x0800 or more.
        order = ">" if struct.unpack_from(">H", data, at)[0] < struct.unpack_from("<H", data, at)[0] else "<"
    return _Encoding(implicit=not _is_vr(data[at + 4 : at + 6]), order=order)


def _is_vr(code: bytes) -> bool:
    return len(code) == 2 and code.isalpha() and code.isupper()


def _read_deflated(data: bytes, start: int) -> Elements:
    """Inflate only as much as it takes to reach the pixel data."""
    for most in _INFLATED_STARTS:
        plain = bytes(inflated(data, start, most))
        found = _Walk(plain, _encoding(plain, 0, DEFLATED)).elements(0, DEFLATED)
        found = replace(found, file=data, deflated_from=start)
        if found.pixels is not None or len(plain) < most:
            return found
    raise InputError(f"the deflated header is larger than {FILE_OVERHEAD_BYTES:,} bytes: {CUT}")


def inflated(data: bytes, start: int, most: int) -> bytearray:
    """The first `most` bytes of a raw deflate stream, fewer where it ends before. Raises InputError if it is damaged."""
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    plain, view, step = bytearray(), memoryview(data), 1 << 18
    try:
        for at in range(start, len(data), step):
            chunk: bytes | memoryview = view[at : at + step]
            while len(chunk) and len(plain) < most and not unpacker.eof:
                plain += unpacker.decompress(chunk, min(most - len(plain), 1 << 22))
                chunk = unpacker.unconsumed_tail
            if len(plain) >= most or unpacker.eof:
                break
    except zlib.error:
        raise InputError(f"the deflated data set is damaged: {CUT}") from None
    return plain


class _Walk:
    """Steps over elements, counting them."""

    def __init__(self, data: bytes, encoding: _Encoding) -> None:
        self._data = data
        self._implicit = encoding.implicit
        self._order = encoding.order
        self._count = 0

    def elements(self, at: int, syntax: str) -> Elements:
        """What is wanted of the data set at `at`."""
        wanted: list[bytes] = []
        seen: set[int] = set()
        pixels, overlay_bits = None, False
        while at + 8 <= len(self._data):
            tag, vr, start, length = self.head(at, implicit=self._implicit)
            if tag in _PIXELS:
                pixels = PixelElement(tag=tag, vr=vr, start=start, length=None if length == _UNDEFINED else length)
                break
            end = self._sequence_end(start, vr) if length == _UNDEFINED else start + length
            if end > len(self._data):
                break  # the file is cut here; what is missing is noticed by who needs it
            if tag == _DIRECTORY_RECORDS:
                raise _is_directory()
            overlay_bits |= tag & 0xFF00FFFF == _OVERLAY_BIT_POSITION
            if tag in _WANTED:
                self._check_wanted(tag, end - at, seen)
                wanted.append(self._data[at:end])
            at = end
        return Elements(
            file=self._data,
            data=self._data,
            dataset=self._parsed(b"".join(wanted)),
            syntax=syntax,
            implicit=self._implicit,
            little_endian=self._order == "<",
            pixels=pixels,
            overlay_bits=overlay_bits,
        )

    def head(self, at: int, *, implicit: bool) -> tuple[int, bytes, int, int]:
        """(tag, value representation, where the value starts, its length) of the element at `at` (PS3.5 7.1.2, 7.1.3)."""
        self._count += 1
        if self._count > _MAX_ELEMENTS:
            raise InputError(f"the DICOM header holds more than {_MAX_ELEMENTS:,} elements: export the X-ray again")
        group, element = struct.unpack_from(self._order + "HH", self._data, at)
        vr = b"" if implicit else self._data[at + 4 : at + 6]
        if vr in _LONG_VRS:
            return group << 16 | element, vr, at + 12, struct.unpack_from(self._order + "I", self._data, at + 8)[0]
        if _is_vr(vr):
            return group << 16 | element, vr, at + 8, struct.unpack_from(self._order + "H", self._data, at + 6)[0]
        return group << 16 | element, b"", at + 8, struct.unpack_from(self._order + "I", self._data, at + 4)[0]

    def _sequence_end(self, at: int, vr: bytes) -> int:
        """Where the sequence of undefined length whose items start at `at` ends. What is UN inside is implicit."""
        stack = [(True, self._implicit or vr == b"UN")]  # (whether in a sequence and not in an item, whether implicit)
        while stack:
            in_sequence, implicit = stack[-1]
            if len(stack) > _MAX_DEPTH:
                raise InputError(
                    f"the DICOM header nests sequences more than {_MAX_DEPTH} deep: export the X-ray again"
                )
            tag = self._tag(at)
            if tag in (_ITEM, _ITEM_END, _SEQUENCE_END):
                at = self._step(at, tag, stack)
            elif in_sequence:
                raise InputError(f"a sequence of the DICOM header is broken: {CUT}")
            else:
                _, inner, start, length = self.head(at, implicit=implicit)
                if length == _UNDEFINED:
                    stack.append((True, implicit or inner == b"UN"))
                at = start if length == _UNDEFINED else start + length
        return at

    def _step(self, at: int, tag: int, stack: list[tuple[bool, bool]]) -> int:
        """Go past an item's or a delimiter's tag, keeping the stack."""
        _, _, start, length = self.head(at, implicit=True)
        in_sequence, implicit = stack[-1]
        if tag == _ITEM and in_sequence:
            if length != _UNDEFINED:
                return start + length
            stack.append((False, implicit))
        elif tag == (_SEQUENCE_END if in_sequence else _ITEM_END):
            stack.pop()
        else:
            raise InputError(f"a sequence of the DICOM header is broken: {CUT}")
        return start

    def _tag(self, at: int) -> int:
        group, element = struct.unpack_from(self._order + "HH", self._data, at)
        return int(group << 16 | element)

    def _check_wanted(self, tag: int, size: int, seen: set[int]) -> None:
        if tag in seen:
            raise InputError(f"{element_name(tag)} stands twice in the DICOM header: export the X-ray again")
        if size > _MAX_VALUE_BYTES:
            raise InputError(
                f"{element_name(tag)} takes {size:,} bytes, expected at most {_MAX_VALUE_BYTES:,}: export the X-ray again"
            )
        seen.add(tag)

    def _parsed(self, elements: bytes) -> Dataset:
        try:
            return read_dataset(io.BytesIO(elements), self._implicit, self._order == "<")
        except Exception:  # pydicom raises a dozen types on damaged elements, and its messages quote values
            raise InputError(f"the DICOM elements cannot be read: {CUT}") from None
