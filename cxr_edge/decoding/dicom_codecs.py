"""DICOM frame decoders: a compressed frame with a checked header in, its values out.

simplejpeg decodes 8-bit JPEG; imagecodecs decodes lossless and 12-bit JPEG (libjpeg-turbo), JPEG-LS (CharLS), JPEG 2000
(OpenJPEG) and RLE. Its codecs report damage as exceptions; GDCM, used before, ended the process on some streams.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from cxr_edge.decoding import jpeg
from cxr_edge.decoding.dicom_frame import PIXELS_DAMAGED, PIXELS_TRUNCATED
from cxr_edge.decoding.dicom_streams import StreamHeader, extract_codestream
from cxr_edge.decoding.dicom_syntaxes import JPEG_2000, JPEG_LOSSLESS, JPEG_LOSSY, JPEG_LS
from cxr_edge.errors import InputError
from cxr_edge.records import Flag

__all__ = ["decode_frame", "decode_rle"]

# APP14 with transform 0, for RGB streams that are distinguished from YBR only by the DICOM header.
_ADOBE_RGB = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\0"
# Number of equal pixels at the end that may be a fill: the last block may have no more of them inside the image.
_LOSSLESS_TAIL_PX, _BLOCK_TAIL_PX = 16, 2


def decode_frame(
    stream: bytes, header: StreamHeader, syntax: str, *, rgb: bool
) -> tuple[npt.NDArray[Any], tuple[Flag, ...]]:
    """Decode a stream with a checked header to values (rows, columns) or (rows, columns, 3), and the decoder's flags.

    rgb: the image is RGB by the DICOM header; a JPEG stream need not declare it. Raises InputError for damaged data.
    """
    if header.jpeg is not None and header.bits == 8:
        if rgb and b"Adobe\0" not in stream[:4096]:
            stream = stream[:2] + _ADOBE_RGB + stream[2:]
        try:
            values, flags = jpeg.decode_8_bit(stream, header.jpeg)
        except InputError as error:
            raise InputError(f"the compressed image: {error}") from None
        return values, flags
    values = _run_imagecodecs(stream, syntax)
    if syntax in (*JPEG_LOSSLESS, *JPEG_LOSSY):
        _reject_unfinished(stream, values, syntax)
    return values, ()


def _imagecodecs() -> Any:
    """Import the package on first use: uncompressed files do not need it."""
    try:
        import imagecodecs
    except ImportError:
        raise InputError(
            "compressed DICOM needs imagecodecs, which cannot be imported: install the package imagecodecs, or export "
            "uncompressed"
        ) from None
    return imagecodecs


def _run_imagecodecs(stream: bytes, syntax: str) -> npt.NDArray[Any]:
    imagecodecs = _imagecodecs()
    try:
        if syntax in JPEG_LS:
            values = imagecodecs.jpegls_decode(stream[: stream.index(b"\xff\xd9", stream.index(b"\xff\xda")) + 2])
        elif syntax in JPEG_2000:
            values = imagecodecs.jpeg2k_decode(extract_codestream(stream))
        else:
            values = imagecodecs.jpeg8_decode(stream)
    except Exception:  # types of the codecs, ValueError, RuntimeError, MemoryError
        raise InputError(f"the compressed pixel data cannot be decoded: {PIXELS_DAMAGED}") from None
    return np.asarray(values)


def _reject_unfinished(stream: bytes, values: npt.NDArray[Any], syntax: str) -> None:
    """Reject a lossless or 12-bit JPEG with coded data that end before its last pixel, or in zeros that are not image data.

    libjpeg-turbo fills the rest with one value, and imagecodecs does not report its warnings. So if the last pixels are
    equal, the stream is decoded again: with other bits after the data, which do not change a complete image, and, if the
    data end in zeros, without the last of them, which a complete image needs.
    """
    tail = values[-1, -(_LOSSLESS_TAIL_PX if syntax in JPEG_LOSSLESS else _BLOCK_TAIL_PX) :]
    if np.any(tail != tail[-1]):
        return
    end = stream.rindex(b"\xff\xd9")
    longer = (stream[:end] + fill * 64 + stream[end:] for fill in (b"\x55", b"\xaa"))
    if not all(np.array_equal(_run_imagecodecs(other, syntax), values) for other in longer):
        raise InputError(f"the coded data of the JPEG end before the image is complete: {PIXELS_TRUNCATED}")
    if stream[end - 8 : end] == bytes(8):
        shorter = stream[: end - 4] + b"\x55" * 4 + stream[end:]
        if np.array_equal(_run_imagecodecs(shorter, syntax), values):
            raise InputError(f"the coded data of the JPEG end in zeros that are not image data: {PIXELS_TRUNCATED}")


def decode_rle(stream: bytes, *, rows: int, columns: int, samples: int, bytes_per_sample: int) -> npt.NDArray[Any]:
    """Decode RLE (PS3.5 annex G) to words (rows, columns) or (rows, columns, samples). Raises InputError."""
    imagecodecs = _imagecodecs()
    size = rows * columns * samples * bytes_per_sample
    planes = int.from_bytes(stream[:4], "little")
    if planes != samples * bytes_per_sample:
        raise InputError(
            f"the run-length coded image has {planes} byte planes, {samples} samples of {8 * bytes_per_sample} bits have "
            f"{samples * bytes_per_sample}: {PIXELS_DAMAGED}"
        )
    try:
        data = imagecodecs.dicomrle_decode(stream, f"<u{bytes_per_sample}", out=size)
    except Exception:  # more data than pixels, offsets outside the data
        raise InputError(f"the run-length coded pixel data cannot be decoded: {PIXELS_DAMAGED}") from None
    if len(data) != size:
        raise InputError(f"the run-length coded pixel data have {len(data):,} of {size:,} bytes: {PIXELS_TRUNCATED}")
    values = np.frombuffer(data, f"<u{bytes_per_sample}")
    return values.reshape(rows, columns) if samples == 1 else np.moveaxis(values.reshape(samples, rows, columns), 0, -1)
