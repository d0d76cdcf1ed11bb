"""A file or its bytes in, an upright gray `Image` out; anything that cannot be answered for is an InputError.

It exists so that training and the device see the same pixels. The format is told by content, not by name. 8-bit files
give uint8, deeper ones uint16 over the full range of the type. DICOM is handed to `decoding.dicom`, loaded only then.
docs/images.md and docs/dicom.md list what is read, flagged and refused, and every flag's code.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from cxr_edge.decoding import bmp, jpeg, png, tiff, webp
from cxr_edge.decoding.gray import on_black, refuse_constant, scale_bits, to_gray, to_uint16
from cxr_edge.decoding.limits import Limits
from cxr_edge.decoding.picture import Picture
from cxr_edge.decoding.sniff import sniff
from cxr_edge.errors import InputError
from cxr_edge.names import printable
from cxr_edge.records import Flag, GrayPixels, Image

__all__ = ["MAX_PIXELS", "MIN_SIDE_PX", "decode", "decode_bytes"]

MAX_PIXELS = Limits().max_pixels
MIN_SIDE_PX = Limits().min_side_px

_DECODERS = {"jpeg": jpeg.decode, "png": png.decode, "tiff": tiff.decode, "webp": webp.decode, "bmp": bmp.decode}


def decode(source: str | Path, *, max_pixels: int = MAX_PIXELS, min_side_px: int = MIN_SIDE_PX) -> Image:
    """Read and decode one X-ray file: JPEG, PNG, TIFF, WEBP, BMP or DICOM.

    max_pixels: the most pixels (width times height) to accept; min_side_px: the shortest side. Both are checked before
    decoding. Raises InputError.
    """
    try:
        data = _read(Path(source), Limits(max_pixels=max_pixels, min_side_px=min_side_px))
    except InputError as error:
        raise InputError(f"{printable(source)}: {error}") from None
    return decode_bytes(data, source=str(source), max_pixels=max_pixels, min_side_px=min_side_px)


def decode_bytes(data: bytes, *, source: str, max_pixels: int = MAX_PIXELS, min_side_px: int = MIN_SIDE_PX) -> Image:
    """Decode one X-ray from a file's bytes. source: the name for results and messages. Raises InputError."""
    limits = Limits(max_pixels=max_pixels, min_side_px=min_side_px)
    try:
        name = sniff(data)
        if name == "dicom":
            from cxr_edge.decoding import dicom  # pydicom takes a fifth of a second to import

            return dicom.decode_dicom(data, source=source, limits=limits)
        return _image(_DECODERS[name](data, limits), source, data)
    except InputError as error:
        raise InputError(f"{printable(source)}: {error}") from error.__cause__


def _read(path: Path, limits: Limits) -> bytes:
    try:
        if path.is_dir():
            raise InputError("this is a folder, expected one picture file: name the files in it")
        if path.exists() and not path.is_file():
            raise InputError("this is not a regular file: copy the picture to a file and give that")
        if path.stat().st_size > limits.max_file_bytes:
            raise InputError(
                f"the file is too large for a picture of at most {limits.max_pixels:,} pixels: check what it is"
            )
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError("there is no such file: check the path") from None
    except PermissionError:
        raise InputError("no permission to read the file: change its permissions or copy it") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "the path is not valid"
        raise InputError(f"the file cannot be read ({reason}): check the path and the disk") from None


def _image(picture: Picture, source: str, data: bytes) -> Image:
    pixels, flags = _one_channel(picture)
    flags = picture.flags + flags
    if pixels.dtype.kind == "f":
        flags += (Flag(code="float_range", message="floating-point samples were stretched from their range"),)
        pixels, bits = to_uint16(pixels), picture.bits
    else:
        pixels, bits, more = scale_bits(pixels, bits=_sample_bits(picture), declared_bits=picture.significant_bits)
        flags, bits = flags + more, min(bits, picture.bits)
    refuse_constant(pixels)
    if picture.white_is_zero:
        np.invert(pixels, out=pixels)
        flags += (Flag(code="inverted", message="white was stored as zero; the picture was inverted"),)
    pixels, more = _upright(pixels, picture.orientation)
    return Image(
        pixels=pixels,
        source=source,
        format=picture.format,
        stored_bits=bits,
        sha256=hashlib.sha256(data).hexdigest(),
        flags=flags + more,
    )


def _sample_bits(picture: Picture) -> int:
    """Bits per sample as decoded: OpenCV widens a PNG's or BMP's fewer than eight bits to eight, tifffile does not."""
    return picture.bits if picture.format == "tiff" and picture.samples.ndim == 2 else 8 * picture.samples.itemsize


def _one_channel(picture: Picture) -> tuple[Any, tuple[Flag, ...]]:
    """(height, width) gray, alpha applied."""
    samples = picture.samples
    if samples.ndim == 2:
        return samples, ()
    gray, flags = to_gray(samples) if samples.shape[2] >= 3 else (samples[..., 0].copy(), ())
    if samples.shape[2] == 3 or picture.alpha == "ignored":
        return gray, flags
    gray, more = on_black(gray, samples[..., -1], premultiplied=picture.alpha == "premultiplied")
    return gray, flags + more


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
