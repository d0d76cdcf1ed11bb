"""A parsed DICOM data set in, its stored values as integers out: decompressed, unused bits removed, sign extended.

It exists because the header must be checked against the pixel limit and against the compressed stream before a decoder
sees either: decoders take sizes on trust, and some answer a cut-off stream with half a picture. JPEG of 8 bits goes
through OpenCV, lossless JPEG, JPEG-LS and JPEG 2000 through GDCM, RLE through pydicom.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from cxr_edge._dicom_streams import read_jpeg, read_jpeg_2000, read_jpeg_lossless, read_jpeg_ls
from cxr_edge._headers import check_pixel_count
from cxr_edge.errors import InputError

__all__ = ["Layout", "read_layout", "stored_values"]

_CUT = "the pixel data end too early (truncated copy or transfer): copy or export the file again"
_DAMAGED = "the compressed pixel data are damaged: copy or export the file again"

_NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
_JPEG_8 = tuple(f"1.2.840.10008.1.2.4.{n}" for n in (50, 51))
_JPEG_LOSSLESS = tuple(f"1.2.840.10008.1.2.4.{n}" for n in (57, 70))
_JPEG_LS = tuple(f"1.2.840.10008.1.2.4.{n}" for n in (80, 81))
_JPEG_2000 = tuple(f"1.2.840.10008.1.2.4.{n}" for n in (90, 91))
_RLE = "1.2.840.10008.1.2.5"
_EXTENDED = "1.2.840.10008.1.2.4.51"
_READ = "uncompressed, deflated, RLE, JPEG baseline, JPEG lossless, JPEG-LS and JPEG 2000 are"
# APP14 that says "not transformed", for RGB streams that DICOM's header alone tells from YBR.
_ADOBE_RGB = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\0"

_GRAY = ("MONOCHROME1", "MONOCHROME2")
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How the pixels of a file are stored, checked. syntax: the transfer syntax UID."""

    rows: int
    columns: int
    samples: int
    photometric: str
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    syntax: str


def read_layout(dataset: Any, *, max_pixels: int) -> Layout:
    """The layout of the pixel data, checked against `max_pixels` and for being readable. Raises InputError."""
    syntax = _transfer_syntax(dataset)
    try:
        bits = int(dataset.BitsAllocated)
        stored = int(dataset.get("BitsStored") or bits)
        high = dataset.get("HighBit")
        layout = Layout(
            rows=int(dataset.Rows),
            columns=int(dataset.Columns),
            samples=int(dataset.get("SamplesPerPixel") or 1),
            photometric=str(dataset.PhotometricInterpretation).strip().upper(),
            bits_allocated=bits,
            bits_stored=stored,
            high_bit=stored - 1 if high is None else int(high),
            signed=int(dataset.get("PixelRepresentation") or 0) == 1,
            syntax=syntax,
        )
    except Exception:  # AttributeError, TypeError, ValueError and what pydicom's lazy conversion raises
        raise InputError(
            "size, depth or photometric interpretation are missing or invalid: export the file again"
        ) from None
    _check_layout(layout, max_pixels)
    return layout


def _transfer_syntax(dataset: Any) -> str:
    """The UID, from the file meta group or, without one, from how the elements are encoded."""
    from pydicom._uid_dict import UID_dictionary
    from pydicom.uid import UID

    try:
        uid = UID(str(dataset.file_meta.TransferSyntaxUID).strip())
    except Exception:  # none, or one that cannot be converted
        implicit, little = dataset.original_encoding
        if getattr(dataset.get_item("PixelData"), "is_undefined_length", False):
            raise InputError(
                f"compressed pixel data and no transfer syntax: {_READ} read when named in the file"
            ) from None
        return _NATIVE[0] if implicit else _NATIVE[1 if little else 2]
    if uid not in (*_NATIVE, *_JPEG_8, *_JPEG_LOSSLESS, *_JPEG_LS, *_JPEG_2000, _RLE):
        known = UID_dictionary[uid][0] if uid in UID_dictionary else "unknown or private"
        number = "".join(c for c in uid if c in "0123456789.")[:64]
        raise InputError(
            f"the transfer syntax {known} ({number}) is not read here, {_READ}: export the file in one of these"
        )
    return str(uid)


def _check_layout(layout: Layout, max_pixels: int) -> None:
    if layout.rows < 1 or layout.columns < 1:
        raise InputError(f"the header gives a size of {layout.columns}x{layout.rows} px: export the file again")
    check_pixel_count(layout.columns, layout.rows, max_pixels)
    photometric = layout.photometric if layout.photometric in (*_GRAY, *_COLOUR, "PALETTE COLOR", "ARGB") else "unknown"
    wanted = {1: _GRAY, 3: _COLOUR}.get(layout.samples, ())
    if layout.photometric not in wanted:
        raise InputError(
            f"the photometric interpretation is {photometric} with samples per pixel {layout.samples}, expected MONOCHROME1 "
            "or MONOCHROME2 with 1, RGB or YBR with 3: export the X-ray as gray"
        )
    if layout.bits_allocated not in ((8, 16, 32) if layout.samples == 1 else (8, 16)):
        raise InputError(f"{layout.bits_allocated} bits allocated a sample are not read here: export with 8 or 16 bits")
    if not 2 <= layout.bits_stored <= layout.high_bit + 1 <= layout.bits_allocated:
        raise InputError(
            f"bits stored {layout.bits_stored}, high bit {layout.high_bit} and bits allocated {layout.bits_allocated} "
            "do not fit together: export the file again"
        )


def stored_values(dataset: Any, layout: Layout) -> npt.NDArray[Any]:
    """The stored values: (rows, columns), or (rows, columns, 3) with red first. Raises InputError."""
    if layout.syntax in _NATIVE:
        _check_native(dataset, layout)
        values = _decompressed(dataset, layout)
    else:
        stream = _stream(dataset)
        _check_stream(stream, layout)
        values = _sequential_jpeg(stream, layout) if layout.syntax in _JPEG_8 else _decompressed(dataset, layout)
    expected = (layout.rows, layout.columns) + ((3,) if layout.samples == 3 else ())
    if values.shape != expected or values.dtype.kind not in "iu":
        raise InputError(f"the pixel data hold {values.shape}, the header promises {expected}: {_DAMAGED}")
    return values if layout.samples == 3 else _significant(values, layout)


def _check_native(dataset: Any, layout: Layout) -> None:
    held = len(dataset.get_item("PixelData").value)
    per_pixel = 2 if layout.photometric == "YBR_FULL_422" else layout.samples
    needed = layout.rows * layout.columns * per_pixel * layout.bits_allocated // 8
    if held < needed:
        raise InputError(
            f"the pixel data hold {held:,} bytes, {layout.columns}x{layout.rows} px need {needed:,}: {_CUT}"
        )


def _decompressed(dataset: Any, layout: Layout) -> npt.NDArray[Any]:
    from pydicom.pixels import get_decoder

    plugin = "pydicom" if layout.syntax == _RLE else "" if layout.syntax in _NATIVE else "gdcm"
    if plugin == "gdcm":
        _silence_gdcm()
    try:
        decoder = get_decoder(layout.syntax)
        # pydicom takes the bits to be the lowest ones; uncompressed, all are asked for and shifted here.
        whole = layout.syntax in (*_NATIVE, _RLE)
        dataset.BitsStored = layout.bits_allocated if whole else layout.bits_stored
        dataset.HighBit = int(dataset.BitsStored) - 1
        dataset.SamplesPerPixel, dataset.PixelRepresentation = layout.samples, int(layout.signed)
        dataset.ensure_file_meta()
        dataset.file_meta.TransferSyntaxUID = layout.syntax
        values, _ = decoder.as_array(dataset, decoding_plugin=plugin, raw=layout.samples == 1)
    except Exception:  # the decoders' own types, RuntimeError most of all; their messages may quote values
        raise InputError(f"the {decoder_name(layout.syntax)} pixel data cannot be decoded: {_DAMAGED}") from None
    array: npt.NDArray[Any] = values
    return array


def _sequential_jpeg(stream: bytes, layout: Layout) -> npt.NDArray[Any]:
    """An 8-bit JPEG by OpenCV, like the ordinary files: GDCM aborts the process on some damaged ones."""
    if layout.photometric == "RGB" and b"Adobe\0" not in stream[:4096]:
        stream = stream[:2] + _ADOBE_RGB + stream[2:]
    try:
        decoded: npt.NDArray[Any] | None = cv2.imdecode(np.frombuffer(stream, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        decoded = None
    if decoded is None or layout.bits_allocated != 8:
        raise InputError(f"the {decoder_name(layout.syntax)} pixel data cannot be decoded: {_DAMAGED}")
    return decoded if layout.samples == 1 else decoded[..., ::-1]


def decoder_name(syntax: str) -> str:
    """The transfer syntax in words."""
    from pydicom.uid import UID

    return str(UID(syntax).name)


def _silence_gdcm() -> None:
    """GDCM says on stderr what is raised here anyway."""
    try:
        import gdcm  # type: ignore[import-untyped]  # it has no stubs
    except ImportError:
        raise InputError(
            "compressed DICOM needs GDCM, which is not installed: install the package python-gdcm, or export uncompressed"
        ) from None
    for switch in (gdcm.Trace.WarningOff, gdcm.Trace.ErrorOff, gdcm.Trace.DebugOff):
        switch()


def _significant(values: npt.NDArray[Any], layout: Layout) -> npt.NDArray[Any]:
    """Only the stored bits, moved down and sign extended: high bits may hold overlays (retired, still met)."""
    width = values.dtype.itemsize * 8
    if layout.bits_stored >= width:
        return values.astype(values.dtype.newbyteorder("="), copy=False)
    # The codecs give the samples of the stream, already in the low bits.
    spare = layout.high_bit + 1 - layout.bits_stored if layout.syntax in (*_NATIVE, _RLE) else 0
    up = width - layout.bits_stored - spare
    whole = values.astype(f"{'i' if layout.signed else 'u'}{values.dtype.itemsize}", copy=False)
    shifted: npt.NDArray[Any] = (whole << up) >> (up + spare)
    return shifted


def _stream(dataset: Any) -> bytes:
    """The compressed frame, all fragments joined."""
    from pydicom.encaps import get_frame

    try:
        return bytes(get_frame(dataset.PixelData, 0, number_of_frames=1))
    except Exception:  # struct.error, ValueError, EOFError of pydicom's fragment reader
        raise InputError(f"the compressed pixel data have no valid frame: {_CUT}") from None


def _check_stream(stream: bytes, layout: Layout) -> None:
    """Refuse a compressed stream that is cut off or of another size than the header says."""
    if layout.syntax == _RLE:
        return  # pydicom counts what each segment gives
    readers = (
        (_JPEG_8, read_jpeg),
        (_JPEG_LOSSLESS, read_jpeg_lossless),
        (_JPEG_LS, read_jpeg_ls),
        (_JPEG_2000, read_jpeg_2000),
    )
    found = next(read for syntaxes, read in readers if layout.syntax in syntaxes)(stream)
    if layout.syntax == _EXTENDED and found.bits != 8:
        raise InputError("JPEG Extended (1.2.840.10008.1.2.4.51) is read with 8 bits only: export as JPEG lossless")
    size = (found.width_px, found.height_px, found.samples)
    if size != (layout.columns, layout.rows, layout.samples) or found.bits > layout.bits_allocated:
        raise InputError(
            f"the compressed picture is {found.width_px}x{found.height_px} px with {found.samples} samples of {found.bits} "
            f"bits, the header says {layout.columns}x{layout.rows} with {layout.samples} of {layout.bits_allocated}: {_DAMAGED}"
        )
