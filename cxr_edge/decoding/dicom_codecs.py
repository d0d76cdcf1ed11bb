"""A compressed frame whose header was checked in, its values out.

8-bit JPEG goes through simplejpeg, the rest through imagecodecs: lossless and 12-bit JPEG (libjpeg-turbo), JPEG-LS (CharLS),
JPEG 2000 (OpenJPEG) and RLE. Its codecs report damage as exceptions; GDCM, used before, ended the process on some streams.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from cxr_edge.decoding import jpeg
from cxr_edge.decoding.dicom_frame import CUT, DAMAGED
from cxr_edge.decoding.dicom_streams import StreamSize, codestream
from cxr_edge.decoding.dicom_syntaxes import JPEG_2000, JPEG_LOSSLESS, JPEG_LOSSY, JPEG_LS
from cxr_edge.errors import InputError
from cxr_edge.records import Flag

__all__ = ["decoded", "decoded_rle"]

# APP14 that says "not transformed", for RGB streams that DICOM's header alone tells from YBR.
_ADOBE_RGB = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\0"
# How many pixels at the end must be equal to look like a fill: of the last block not more may be inside the picture.
_LOSSLESS_TAIL_PX, _BLOCK_TAIL_PX = 16, 2


def decoded(stream: bytes, size: StreamSize, syntax: str, *, rgb: bool) -> tuple[npt.NDArray[Any], tuple[Flag, ...]]:
    """Values (rows, columns) or (rows, columns, 3) of a stream whose size was checked; a flag on what its decoder noticed.

    rgb: the DICOM header says RGB, which a JPEG stream alone need not. Raises InputError for damaged data.
    """
    if size.jpeg is not None and size.bits == 8:
        if rgb and b"Adobe\0" not in stream[:4096]:
            stream = stream[:2] + _ADOBE_RGB + stream[2:]
        try:
            values, flags = jpeg.decoded_8_bit(stream, size.jpeg)
        except InputError as error:
            raise InputError(f"the compressed picture: {error}") from None
        return values, flags
    values = _by_imagecodecs(stream, syntax)
    if syntax in (*JPEG_LOSSLESS, *JPEG_LOSSY):
        _refuse_unfinished(stream, values, syntax)
    return values, ()


def _imagecodecs() -> Any:
    """The package, imported where it is used: uncompressed files need none."""
    try:
        import imagecodecs
    except ImportError:
        raise InputError(
            "compressed DICOM needs imagecodecs, which cannot be imported: install the package imagecodecs, or export "
            "uncompressed"
        ) from None
    return imagecodecs


def _by_imagecodecs(stream: bytes, syntax: str) -> npt.NDArray[Any]:
    imagecodecs = _imagecodecs()
    try:
        if syntax in JPEG_LS:
            values = imagecodecs.jpegls_decode(stream[: stream.index(b"\xff\xd9", stream.index(b"\xff\xda")) + 2])
        elif syntax in JPEG_2000:
            values = imagecodecs.jpeg2k_decode(codestream(stream))
        else:
            values = imagecodecs.jpeg8_decode(stream)
    except Exception:  # each codec's own type, ValueError, RuntimeError, MemoryError
        raise InputError(f"the compressed pixel data cannot be decoded: {DAMAGED}") from None
    return np.asarray(values)


def _refuse_unfinished(stream: bytes, values: npt.NDArray[Any], syntax: str) -> None:
    """Refuse a lossless or 12-bit JPEG whose coded data end before its last pixel does, or are zeros behind it.

    libjpeg-turbo fills up with one value, and imagecodecs does not pass its warnings on. So where the picture ends in one
    value, it is decoded again: with other bits behind the data, which do not change a complete picture, and, where the data end
    in zeros, without the last of them, which a complete picture needs.
    """
    tail = values[-1, -(_LOSSLESS_TAIL_PX if syntax in JPEG_LOSSLESS else _BLOCK_TAIL_PX) :]
    if np.any(tail != tail[-1]):
        return
    end = stream.rindex(b"\xff\xd9")
    longer = (stream[:end] + fill * 64 + stream[end:] for fill in (b"\x55", b"\xaa"))
    if not all(np.array_equal(_by_imagecodecs(other, syntax), values) for other in longer):
        raise InputError(f"the coded data of the JPEG end before its picture does: {CUT}")
    if stream[end - 8 : end] == bytes(8):
        shorter = stream[: end - 4] + b"\x55" * 4 + stream[end:]
        if np.array_equal(_by_imagecodecs(shorter, syntax), values):
            raise InputError(f"the coded data of the JPEG end in zeros that are no part of its picture: {CUT}")


def decoded_rle(stream: bytes, *, rows: int, columns: int, samples: int, bytes_per_sample: int) -> npt.NDArray[Any]:
    """Words (rows, columns) or (rows, columns, samples) of a run-length coded frame (PS3.5 annex G). Raises InputError."""
    imagecodecs = _imagecodecs()
    size = rows * columns * samples * bytes_per_sample
    planes = int.from_bytes(stream[:4], "little")
    if planes != samples * bytes_per_sample:
        raise InputError(
            f"the run-length coded picture has {planes} byte planes, {samples} samples of {8 * bytes_per_sample} bits have "
            f"{samples * bytes_per_sample}: {DAMAGED}"
        )
    try:
        data = imagecodecs.dicomrle_decode(stream, f"<u{bytes_per_sample}", out=size)
    except Exception:  # more data than the picture has, offsets that lead nowhere
        raise InputError(f"the run-length coded pixel data cannot be decoded: {DAMAGED}") from None
    if len(data) != size:
        raise InputError(f"the run-length coded pixel data give {len(data):,} of {size:,} bytes: {CUT}")
    values = np.frombuffer(data, f"<u{bytes_per_sample}")
    return values.reshape(rows, columns) if samples == 1 else np.moveaxis(values.reshape(samples, rows, columns), 0, -1)
