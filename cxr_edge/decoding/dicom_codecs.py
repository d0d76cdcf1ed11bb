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
from cxr_edge.decoding.dicom_syntaxes import JPEG_2000, JPEG_LOSSLESS, JPEG_LS
from cxr_edge.errors import InputError
from cxr_edge.records import Flag

__all__ = ["decoded", "decoded_rle"]

# APP14 that says "not transformed", for RGB streams that DICOM's header alone tells from YBR.
_ADOBE_RGB = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\0"
_TAIL_PX = 16


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
    if syntax in JPEG_LOSSLESS:
        _refuse_unfinished(stream, values)
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


def _refuse_unfinished(stream: bytes, values: npt.NDArray[Any]) -> None:
    """Refuse a lossless JPEG whose coded data end before its last pixel does.

    libjpeg-turbo then gives rows of one value, and imagecodecs does not pass its warning on. So where the picture ends in one
    value, it is decoded again with other bits behind the data, which do not change a whole picture.
    """
    if np.any(values[-1, -_TAIL_PX:] != values[-1, -1]):
        return
    end = stream.rindex(b"\xff\xd9")
    for fill in (b"\x55", b"\xaa"):
        longer = stream[:end] + fill * 64 + stream[end:]
        if not np.array_equal(_by_imagecodecs(longer, JPEG_LOSSLESS[0]), values):
            raise InputError(f"the coded data of the lossless JPEG end before its picture does: {CUT}")


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
