"""A file or its bytes in, an upright gray `Image` out; anything that cannot be answered for is an InputError.

It exists so that training and the device see the same pixels. The format is told by content, not by name. 8-bit files
give uint8, deeper ones uint16 over the full range of the type. DICOM is handed to `dicom`, loaded only then.

Flags that an image may carry (stable codes):
    exif_rotated        turned or mirrored as the EXIF or TIFF orientation says
    tinted              many pixels are slightly coloured; brightness was taken
    coloured_marks      a few pixels are coloured: letters, arrows
    alpha_composited    partly transparent pixels were laid on black
    assumed_bits        16-bit samples were scaled up from fewer bits
    inverted            white was stored as zero (TIFF)
    float_range         floating-point samples were stretched from their range
and those that only DICOM gives, listed in `dicom`.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from cxr_edge._gray import refuse_constant, scale_bits, to_gray, to_uint16
from cxr_edge._headers import Header, read_header, sniff
from cxr_edge.errors import InputError
from cxr_edge.records import Flag, GrayPixels, Image

__all__ = ["MAX_PIXELS", "decode", "decode_bytes"]

MAX_PIXELS = 100_000_000

# Refusals are InputErrors here; OpenCV's own lines on stderr would say the same again, without the file's name. Its
# environment variable still turns them on.
if "OPENCV_LOG_LEVEL" not in os.environ:
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def decode(source: str | Path, *, max_pixels: int = MAX_PIXELS) -> Image:
    """Read and decode one X-ray file: JPEG, PNG, TIFF, WEBP, BMP or DICOM.

    max_pixels: the most pixels (width times height) to accept, checked before decoding. Raises InputError.
    """
    try:
        data = _read(Path(source), max_pixels)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    return decode_bytes(data, source=str(source), max_pixels=max_pixels)


def decode_bytes(data: bytes, *, source: str, max_pixels: int = MAX_PIXELS) -> Image:
    """Decode one X-ray from a file's bytes. source: the name for results and messages. Raises InputError."""
    try:
        if sniff(data) == "dicom":
            from cxr_edge import dicom  # pydicom takes a third of a second to import

            return dicom.decode_dicom(data, source=source, max_pixels=max_pixels)
        return _decode_picture(data, source, max_pixels)
    except InputError as error:
        raise InputError(f"{source}: {error}") from error.__cause__


def _read(path: Path, max_pixels: int) -> bytes:
    try:
        if path.is_dir():
            raise InputError("this is a folder, expected one picture file: name the files in it")
        if path.exists() and not path.is_file():
            raise InputError("this is not a regular file: copy the picture to a file and give that")
        # No format read here spends more than 8 bytes a pixel; the rest is room for headers and metadata.
        if path.stat().st_size > 8 * max_pixels + (64 << 20):
            raise InputError(f"the file is too large for a picture of at most {max_pixels:,} pixels: check what it is")
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError("there is no such file: check the path") from None
    except PermissionError:
        raise InputError("no permission to read the file: change its permissions or copy it") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "the path is not valid"
        raise InputError(f"the file cannot be read ({reason}): check the path and the disk") from None


def _decode_picture(data: bytes, source: str, max_pixels: int) -> Image:
    header = read_header(data, max_pixels=max_pixels)
    samples = _samples(header)
    pixels, flags = _one_channel(samples)
    if pixels.dtype.kind == "f":
        flags += (Flag(code="float_range", message="floating-point samples were stretched from their range"),)
        pixels, bits = to_uint16(pixels), header.bits
    else:
        pixels, bits, more = scale_bits(pixels, declared_bits=header.significant_bits)
        flags, bits = flags + more, min(bits, header.bits)
    refuse_constant(pixels)
    _refuse_filled(pixels, header)
    if header.white_is_zero:
        pixels = np.invert(pixels)
        flags += (Flag(code="inverted", message="white was stored as zero; the picture was inverted"),)
    pixels, more = _upright(pixels, header.orientation)
    return Image(
        pixels=pixels,
        source=source,
        format=header.format,
        stored_bits=bits,
        sha256=hashlib.sha256(data).hexdigest(),
        flags=flags + more,
    )


def _samples(header: Header) -> npt.NDArray[Any]:
    """Decoded samples (height, width) or (height, width, 3 or 4), blue first, orientation not applied."""
    try:
        samples: npt.NDArray[Any] | None = cv2.imdecode(np.frombuffer(header.data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        samples = None
    if samples is None:
        raise InputError(
            f"the {header.format.upper()} data cannot be decoded, the file is damaged: copy or export it again"
        )
    if samples.shape[:2] != (header.height_px, header.width_px):
        raise InputError(
            f"the header promises {header.width_px}x{header.height_px} px, the data hold "
            f"{samples.shape[1]}x{samples.shape[0]}: the file is damaged, copy or export it again"
        )
    return samples


def _one_channel(samples: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], tuple[Flag, ...]]:
    if samples.ndim == 2:
        return samples, ()
    if samples.dtype not in (np.uint8, np.uint16):
        raise InputError("floating-point colour is not read here: save the picture as gray with 8 or 16 bits")
    gray, flags = to_gray(samples[..., :3])
    if samples.shape[2] < 4:
        return gray, flags
    alpha = np.ascontiguousarray(samples[..., 3])
    full = np.iinfo(alpha.dtype).max
    if cv2.minMaxLoc(alpha)[0] == full:
        return gray, flags
    share = np.count_nonzero(alpha < full) / alpha.size
    laid = np.rint(gray.astype(np.float64) * alpha / full).astype(gray.dtype)
    message = f"{share:.2%} of the pixels are partly transparent and were laid on black"
    return laid, (*flags, Flag(code="alpha_composited", message=message))


def _refuse_filled(pixels: GrayPixels, header: Header) -> None:
    """Refuse a JPEG whose last rows are the exact middle gray that decoders put where data are missing.

    The marker walk catches files that end early; this catches those that were closed with an end marker afterwards.
    """
    if header.format == "jpeg" and header.height_px > 16 and bool((pixels[-8:] == 128).all()):
        raise InputError(
            "the last rows are the flat gray that stands for missing JPEG data, the file was cut: copy or export it again"
        )


def _upright(pixels: Any, orientation: int) -> tuple[GrayPixels, tuple[Flag, ...]]:
    """Apply the EXIF orientation (EXIF 2.32, tag 274): mirror, transpose, turn."""
    if orientation == 1:
        return np.ascontiguousarray(pixels), ()
    if orientation >= 5:
        pixels = pixels.T
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    flag = Flag(code="exif_rotated", message=f"turned or mirrored as the file's orientation ({orientation}) says")
    return np.ascontiguousarray(pixels), (flag,)
