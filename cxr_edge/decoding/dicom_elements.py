"""DICOM element parser: the bytes of a file in, the few elements that decoding needs and the location of the pixel data out.

It exists because the lengths in a DICOM file cannot be trusted: elements are skipped one by one (PS3.5 section 7), sequences
of undefined length without recursion, and pydicom gets only the elements in `KEYWORDS`, each once and of bounded size. Time
and memory are linear in the file's length; of what identifies a patient or an exam only age, or birth date, is parsed, for the
age in years, and the SOP Instance UID, for the keyed hash of the evidence log.
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

__all__ = [
    "DIRECTORY_CLASS", "DIRECTORY_RECORDS", "HEADER_TRUNCATED", "KEYWORDS", "OVERLAY_BIT_POSITION", "PIXELS", "TAGS",
    "Elements", "PixelElement", "directory_error", "element_name", "inflate", "read_elements",
]  # fmt: skip

HEADER_TRUNCATED = (
    "the file ends before the end of its pixel data (truncated copy or transfer), or is damaged: "
    "copy or export it again"
)

DIRECTORY_CLASS = "1.2.840.10008.1.3.10"
_LONG_VRS = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))
_UNDEFINED = 0xFFFFFFFF
PIXELS = (0x7FE00008, 0x7FE00009, 0x7FE00010)  # float, double, integers
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
OVERLAY_BIT_POSITION, DIRECTORY_RECORDS = 0x60000102, 0x00041220
_MAX_ELEMENTS, _MAX_DEPTH = 500_000, 64
_MAX_VALUE_BYTES = 1 << 20  # a lookup table of 65,536 entries takes an eighth of it
_INFLATED_STARTS = (1 << 20, FILE_OVERHEAD_BYTES)

KEYWORDS = (
    *("SOPClassUID", "SOPInstanceUID"),
    *("Modality", "PresentationIntentType", "BodyPartExamined", "ViewPosition", "ViewCodeSequence"),
    *("PatientOrientation", "PixelAspectRatio", "PixelSpacing", "ImagerPixelSpacing", "PresentationLUTShape"),
    *("SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("RescaleIntercept", "RescaleSlope", "ModalityLUTSequence", "VOILUTSequence", "VOILUTFunction"),
    *("WindowCenter", "WindowWidth", "PatientAge", "PatientBirthDate", "StudyDate"),
)
TAGS = frozenset(int(tag_for_keyword(k) or 0) for k in KEYWORDS)


@dataclass(frozen=True, kw_only=True)
class PixelElement:
    """Location of the pixel data."""

    tag: int
    vr: bytes  # value representation
    start: int  # offset of the value in `Elements.data`
    length: int | None  # as declared, None if undefined


@dataclass(frozen=True, kw_only=True)
class Elements:
    """Elements of a DICOM file."""

    file: bytes  # its bytes; of a data set in memory: those of its pixel data
    data: bytes  # bytes that `pixels` refers to: the file, or the inflated start of a deflated data set
    dataset: Dataset  # the elements of `KEYWORDS`, not yet converted
    syntax: str  # transfer syntax UID, "" if the file has none
    implicit: bool
    little_endian: bool
    pixels: PixelElement | None
    overlay_bits: bool  # an overlay is stored in the unused bits of the pixels
    deflated_from: int | None = None  # offset of a deflated data set in the file

    def data_up_to(self, end: int) -> bytes | bytearray:
        """Return `data` up to a byte offset or its end, inflated that far if the data set is deflated."""
        if self.deflated_from is None or end <= len(self.data):
            return self.data
        return inflate(self.file, self.deflated_from, end)


@dataclass(frozen=True, kw_only=True)
class _Encoding:
    implicit: bool
    order: str


def element_name(tag: int) -> str:
    """Return keyword and tag for messages, as in `Rows (0028,0010)`."""
    return f"{keyword_for_tag(tag)} ({tag >> 16:04X},{tag & 0xFFFF:04X})"


def read_elements(data: bytes) -> Elements:
    """Read the elements up to the pixel data. Raises InputError for elements that cannot be parsed."""
    try:
        offset = 132 if data[128:132] == b"DICM" else 0
        syntax, sop_class, offset = _read_meta(data, offset)
        if sop_class == DIRECTORY_CLASS:
            raise directory_error()
        if syntax == DEFLATED:
            return _read_deflated(data, offset)
        return _Parser(data, _encoding(data, offset, syntax)).elements(offset, syntax)
    except struct.error:
        raise InputError(f"the DICOM elements cannot be read: {HEADER_TRUNCATED}") from None


def directory_error() -> InputError:
    """Return the error for a DICOMDIR."""
    return InputError(
        "this is a DICOMDIR, the table of contents of a disc, without images: screen the files that it lists, or their folder"
    )


def _read_meta(data: bytes, offset: int) -> tuple[str, str, int]:
    """Return (transfer syntax, SOP class, offset of the data set) from the file meta group, explicit little endian."""
    parser = _Parser(data, _Encoding(implicit=False, order="<"))
    values: dict[int, str] = {}
    while data[offset : offset + 2] == b"\2\0":
        tag, _, start, length = parser.head(offset, implicit=False)
        if length == _UNDEFINED or start + length > len(data):
            raise InputError(f"the DICOM elements cannot be read: {HEADER_TRUNCATED}")
        if tag in (0x00020002, 0x00020010):
            values[tag] = data[start : start + min(length, 64)].decode("latin-1").strip(" \0")
        offset = start + length
    return values.get(0x00020010, ""), values.get(0x00020002, ""), offset


def _encoding(data: bytes, offset: int, syntax: str) -> _Encoding:
    """Return the encoding of the data set: that of its first element, if it contradicts the transfer syntax."""
    order = "<"
    if syntax == BIG_ENDIAN or not syntax:
        # A data set starts with a low group number: read in the wrong order it would be 0x0800 or more.
        order = ">" if struct.unpack_from(">H", data, offset)[0] < struct.unpack_from("<H", data, offset)[0] else "<"
    return _Encoding(implicit=not _is_vr(data[offset + 4 : offset + 6]), order=order)


def _is_vr(code: bytes) -> bool:
    return len(code) == 2 and code.isalpha() and code.isupper()


def _read_deflated(data: bytes, start: int) -> Elements:
    """Read the elements of a deflated data set; inflate only as much as needed to reach the pixel data."""
    for limit in _INFLATED_STARTS:
        plain = bytes(inflate(data, start, limit))
        elements = _Parser(plain, _encoding(plain, 0, DEFLATED)).elements(0, DEFLATED)
        if elements.pixels is not None or len(plain) < limit:
            return replace(elements, file=data, deflated_from=start)
    raise InputError(f"the deflated header is larger than {FILE_OVERHEAD_BYTES:,} bytes: {HEADER_TRUNCATED}")


def inflate(data: bytes, start: int, limit: int) -> bytearray:
    """Return at most the first `limit` bytes of a raw deflate stream. Raises InputError if it is damaged."""
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    plain, view, step = bytearray(), memoryview(data), 1 << 18
    try:
        for offset in range(start, len(data), step):
            chunk: bytes | memoryview = view[offset : offset + step]
            while len(chunk) and len(plain) < limit and not unpacker.eof:
                plain += unpacker.decompress(chunk, min(limit - len(plain), 1 << 22))
                chunk = unpacker.unconsumed_tail
            if len(plain) >= limit or unpacker.eof:
                break
    except zlib.error:
        raise InputError(f"the deflated data set is damaged: {HEADER_TRUNCATED}") from None
    return plain


class _Parser:
    """Parser of a data set; counts the elements."""

    def __init__(self, data: bytes, encoding: _Encoding) -> None:
        self._data = data
        self._implicit = encoding.implicit
        self._order = encoding.order
        self._count = 0

    def elements(self, offset: int, syntax: str) -> Elements:
        """Return the elements of `KEYWORDS` in the data set at `offset`."""
        selected: list[bytes] = []
        seen: set[int] = set()
        pixels, overlay_bits = None, False
        while offset + 8 <= len(self._data):
            tag, vr, start, length = self.head(offset, implicit=self._implicit)
            if tag in PIXELS:
                pixels = PixelElement(tag=tag, vr=vr, start=start, length=None if length == _UNDEFINED else length)
                break
            end = self._sequence_end(start, vr) if length == _UNDEFINED else start + length
            if end > len(self._data):
                break  # the file is truncated here; a missing element is an error when it is used
            if tag == DIRECTORY_RECORDS:
                raise directory_error()
            overlay_bits |= tag & 0xFF00FFFF == OVERLAY_BIT_POSITION
            if tag in TAGS:
                _check_element(tag, end - offset, seen)
                selected.append(self._data[offset:end])
            offset = end
        return Elements(
            file=self._data,
            data=self._data,
            dataset=self._dataset(b"".join(selected)),
            syntax=syntax,
            implicit=self._implicit,
            little_endian=self._order == "<",
            pixels=pixels,
            overlay_bits=overlay_bits,
        )

    def head(self, offset: int, *, implicit: bool) -> tuple[int, bytes, int, int]:
        """Return (tag, value representation, offset of the value, its length) of an element (PS3.5 7.1.2, 7.1.3)."""
        self._count += 1
        if self._count > _MAX_ELEMENTS:
            raise InputError(f"the DICOM header contains more than {_MAX_ELEMENTS:,} elements: export the X-ray again")
        tag = self._tag(offset)
        vr = b"" if implicit else self._data[offset + 4 : offset + 6]
        if vr in _LONG_VRS:
            return tag, vr, offset + 12, struct.unpack_from(self._order + "I", self._data, offset + 8)[0]
        if _is_vr(vr):
            return tag, vr, offset + 8, struct.unpack_from(self._order + "H", self._data, offset + 6)[0]
        return tag, b"", offset + 8, struct.unpack_from(self._order + "I", self._data, offset + 4)[0]

    def _sequence_end(self, offset: int, vr: bytes) -> int:
        """Return the end of a sequence of undefined length with items at `offset`. Elements of VR UN are implicit inside."""
        stack = [(True, self._implicit or vr == b"UN")]  # (in a sequence and not in an item, implicit)
        while stack:
            in_sequence, implicit = stack[-1]
            if len(stack) > _MAX_DEPTH:
                raise InputError(
                    f"the DICOM header nests sequences more than {_MAX_DEPTH} deep: export the X-ray again"
                )
            tag = self._tag(offset)
            if tag in (_ITEM, _ITEM_END, _SEQUENCE_END):
                offset = self._skip_delimiter(offset, tag, stack)
            elif in_sequence:
                raise InputError(f"a sequence of the DICOM header is invalid: {HEADER_TRUNCATED}")
            else:
                _, inner_vr, start, length = self.head(offset, implicit=implicit)
                if length == _UNDEFINED:
                    stack.append((True, implicit or inner_vr == b"UN"))
                offset = start if length == _UNDEFINED else start + length
        return offset

    def _skip_delimiter(self, offset: int, tag: int, stack: list[tuple[bool, bool]]) -> int:
        """Return the offset after the tag of an item or a delimiter, and update the stack."""
        _, _, start, length = self.head(offset, implicit=True)
        in_sequence, implicit = stack[-1]
        if tag == _ITEM and in_sequence:
            if length != _UNDEFINED:
                return start + length
            stack.append((False, implicit))
        elif tag == (_SEQUENCE_END if in_sequence else _ITEM_END):
            stack.pop()
        else:
            raise InputError(f"a sequence of the DICOM header is invalid: {HEADER_TRUNCATED}")
        return start

    def _tag(self, offset: int) -> int:
        group, element = struct.unpack_from(self._order + "HH", self._data, offset)
        return int(group << 16 | element)

    def _dataset(self, elements: bytes) -> Dataset:
        try:
            return read_dataset(io.BytesIO(elements), self._implicit, self._order == "<")
        except Exception:  # pydicom raises a dozen types on damaged elements, and its messages quote values
            raise InputError(f"the DICOM elements cannot be read: {HEADER_TRUNCATED}") from None


def _check_element(tag: int, size: int, seen: set[int]) -> None:
    """Add a tag to `seen`; raise InputError if it occurs twice or is too large."""
    if tag in seen:
        raise InputError(f"{element_name(tag)} occurs twice in the DICOM header: export the X-ray again")
    if size > _MAX_VALUE_BYTES:
        raise InputError(
            f"{element_name(tag)} has {size:,} bytes, expected at most {_MAX_VALUE_BYTES:,}: export the X-ray again"
        )
    seen.add(tag)
