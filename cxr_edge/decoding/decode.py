"""Public interface of decoding: a file or its bytes in, an upright gray `Image` out; InputError for everything else.

It exists so that training and the device see the same pixels. The format is identified by content, not by name. 8-bit files
give uint8, deeper ones uint16 over the full range of the type. docs/images.md and docs/dicom.md list what is supported,
flagged and rejected, with the code of every flag.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from cxr_edge.decoding.decoded_image import DecodedImage, GrayImage
from cxr_edge.decoding.formats import identify_format
from cxr_edge.decoding.gray import blend_on_black, reject_constant, scale_bits, stretch_to_uint16, to_gray
from cxr_edge.decoding.limits import DEFAULT_LIMITS, Limits
from cxr_edge.errors import InputError
from cxr_edge.names import printable
from cxr_edge.records import Flag, GrayPixels, Image

__all__ = ["decode", "decode_bytes"]


def decode(
    source: str | Path,
    *,
    max_pixels: int | None = None,
    min_side_px: int | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Image:
    """Read and decode one X-ray file in any of the supported formats (`decoding.formats`).

    max_pixels: most pixels (width times height) to accept. min_side_px: shortest side to accept. limits: both in one value;
    what is given by name replaces its part. Checked before decoding. Raises InputError.
    """
    limits = limits.replaced(max_pixels=max_pixels, min_side_px=min_side_px)
    try:
        data = _read(Path(source), limits)
    except InputError as error:
        raise InputError(f"{printable(source)}: {error}") from None
    return decode_bytes(data, source=str(source), limits=limits)


def decode_bytes(
    data: bytes,
    *,
    source: str,
    max_pixels: int | None = None,
    min_side_px: int | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Image:
    """Decode one X-ray from a file's bytes. source: the name for results and messages. Else as `decode`."""
    limits = limits.replaced(max_pixels=max_pixels, min_side_px=min_side_px)
    try:
        file_format = identify_format(data)
        decoded = file_format.decode(data, limits)
        gray = decoded if isinstance(decoded, GrayImage) else _to_gray_image(decoded)
    except InputError as error:
        raise InputError(f"{printable(source)}: {error}") from error.__cause__
    return Image(
        pixels=gray.pixels,
        source=source,
        format=file_format.name,
        stored_bits=gray.stored_bits,
        sha256=hashlib.sha256(data).hexdigest(),
        flags=gray.flags,
    )


def _read(path: Path, limits: Limits) -> bytes:
    try:
        if path.is_dir():
            raise InputError("this is a folder, expected one image file: name the files in it")
        if path.exists() and not path.is_file():
            raise InputError("this is not a regular file: copy the image to a file and use that")
        if path.stat().st_size > limits.max_file_bytes:
            raise InputError(
                f"the file is too large for an image of at most {limits.max_pixels:,} pixels: check what it is"
            )
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError("there is no such file: check the path") from None
    except PermissionError:
        raise InputError("no permission to read the file: change its permissions or copy it") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "the path is not valid"
        raise InputError(f"the file cannot be read ({reason}): check the path and the disk") from None


def _to_gray_image(decoded: DecodedImage) -> GrayImage:
    pixels, flags = _one_channel(decoded)
    flags = decoded.flags + flags
    if pixels.dtype.kind == "f":
        flags += (Flag(code="float_range", message="floating-point samples were stretched from their range"),)
        pixels, bits = stretch_to_uint16(pixels), decoded.bits
    else:
        used_bits = decoded.used_bits or 8 * pixels.dtype.itemsize
        pixels, bits, more = scale_bits(pixels, bits=used_bits, declared_bits=decoded.significant_bits)
        flags, bits = flags + more, min(bits, decoded.bits)
    reject_constant(pixels)
    if decoded.white_is_zero:
        np.invert(pixels, out=pixels)
        flags += (Flag(code="inverted", message="white was stored as zero; the image was inverted"),)
    pixels, more = _rotate_upright(pixels, decoded.orientation)
    return GrayImage(pixels=pixels, stored_bits=bits, flags=flags + more)


def _one_channel(decoded: DecodedImage) -> tuple[Any, tuple[Flag, ...]]:
    """Return (height, width) gray with alpha applied."""
    samples = decoded.samples
    if samples.ndim == 2:
        return samples, ()
    gray, flags = to_gray(samples) if samples.shape[2] >= 3 else (samples[..., 0].copy(), ())
    if samples.shape[2] == 3 or decoded.alpha == "ignored":
        return gray, flags
    gray, more = blend_on_black(gray, samples[..., -1], premultiplied=decoded.alpha == "premultiplied")
    return gray, flags + more


def _rotate_upright(pixels: Any, orientation: int) -> tuple[GrayPixels, tuple[Flag, ...]]:
    """Apply the EXIF orientation (EXIF 2.32, tag 274): mirror, transpose, rotate."""
    if orientation == 1:
        return np.ascontiguousarray(pixels), ()
    if orientation >= 5:
        pixels = pixels.T
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    flag = Flag(code="exif_rotated", message=f"rotated or mirrored by the file's orientation ({orientation})")
    return np.ascontiguousarray(pixels), (flag,)
