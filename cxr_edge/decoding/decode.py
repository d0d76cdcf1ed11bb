"""Public interface of decoding: one X-ray in, as a file or in memory; an upright gray `Image` out; InputError otherwise.

It exists so that training and the device see the same pixels, and a program the same as the command line. The format is
identified by content, not by name. 8-bit files give uint8, deeper ones uint16 over the full range of the type. docs/images.md
and docs/dicom.md list what is supported, flagged and rejected, with the code of every flag.
"""

from __future__ import annotations

import hashlib
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cxr_edge.decoding.arrays import Scale, as_array, decode_array, sha256_of
from cxr_edge.decoding.decoded_image import DecodedImage, GrayImage
from cxr_edge.decoding.formats import identify_format
from cxr_edge.decoding.gray import blend_on_black, reject_constant, scale_bits, stretch_to_uint16, to_gray
from cxr_edge.decoding.limits import DEFAULT_LIMITS, Limits
from cxr_edge.decoding.pillow import decode_pillow, is_pillow
from cxr_edge.decoding.reading import read_path, read_stream
from cxr_edge.errors import InputError
from cxr_edge.names import printable
from cxr_edge.records import Flag, GrayPixels, Image

__all__ = ["decode", "decode_bytes", "name_of"]

_EXPECTED = (
    "expected a path, a file's bytes, an open binary file, a NumPy array, a tensor on the CPU, a PIL image or a pydicom "
    "data set"
)


@dataclass(frozen=True, kw_only=True)
class _Read:
    """A decoded image with its origin."""

    format: str
    decoded: DecodedImage | GrayImage
    sha256: str


def decode(
    image: object,
    /,
    *,
    source: str | os.PathLike[str] | None = None,
    range: tuple[float, float] | None = None,
    inverted: bool = False,
    max_pixels: int | None = None,
    min_side_px: int | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Image:
    """Read one X-ray: a file in any of the supported formats (`decoding.formats`), or pixels in memory.

    image: the path of a file; its bytes; an open binary file, read from its position on; a pydicom data set; a PIL image; or
    an array: NumPy's, a torch tensor on the CPU, or any object that NumPy can view (`__array__`), of shape (height, width) or
    (height, width, 3 or 4) with red first and alpha last. An array is copied and stays as it is.

    source: name for results and messages; None: the path, or the file name that the object has, or its kind.
    range: lowest and highest possible value of an array; None: those of its type, uint8 or uint16. Other types need it. With
    uint16 and None, values that use only the lower 8, 10, 12 or 14 bits are scaled up and flagged, as in a file.
    inverted: the lowest value of an array is white.
    max_pixels: most pixels (width times height) to accept. min_side_px: shortest side to accept. limits: both in one value;
    what is given by name replaces its part. Checked before decoding.

    `Image.sha256` is that of the file's bytes; of a data set, of its pixel data; of an array, of `array.tobytes()`.
    Raises InputError for everything that cannot be used, with the reason and a remedy.
    """
    limits = limits.replaced(max_pixels=max_pixels, min_side_px=min_side_px)
    name = name_of(image) if source is None else str(source)
    try:
        scale = Scale(range=range, inverted=inverted)
        if isinstance(image, Image):
            return replace(_checked(image, scale, limits), source=name)
        read = _read(image, scale, limits)
        gray = read.decoded if isinstance(read.decoded, GrayImage) else _to_gray_image(read.decoded)
    except InputError as error:
        named = InputError(f"{printable(name)}: {error}")
        named.sha256 = error.sha256
        raise named from error.__cause__
    return Image(
        pixels=gray.pixels,
        source=name,
        format=read.format,
        stored_bits=gray.stored_bits,
        sha256=read.sha256,
        flags=gray.flags,
        facts=gray.facts,
    )


def decode_bytes(
    data: bytes,
    *,
    source: str,
    max_pixels: int | None = None,
    min_side_px: int | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Image:
    """Decode one X-ray from a file's bytes. source: the name for results and messages. Else as `decode`."""
    return decode(data, source=source, max_pixels=max_pixels, min_side_px=min_side_px, limits=limits)


def name_of(image: object) -> str:
    """Return a name for results: the path, the file name that the object has, or the kind of the object."""
    if isinstance(image, Image):
        return image.source
    if isinstance(image, str | os.PathLike):
        return os.fsdecode(image)
    for attribute in ("filename", "name"):
        name = getattr(image, attribute, None) if _is_named(image) else None
        if isinstance(name, str | os.PathLike) and os.fsdecode(name):
            return os.fsdecode(name)
    return type(image).__name__


def _is_named(image: object) -> bool:
    return _is_dataset(image) or is_pillow(image) or hasattr(image, "read")


def _read(image: Any, scale: Scale, limits: Limits) -> _Read:
    """Decode an object of any accepted kind. Raises InputError for others."""
    if is_pillow(image):
        decoded, samples = decode_pillow(image, scale, limits)
        return _Read(format="array", decoded=decoded, sha256=sha256_of(samples))
    if not _has_own_scale(image):
        array = as_array(image)
        return _Read(format="array", decoded=decode_array(array, scale, limits), sha256=sha256_of(array))
    if scale.stated:
        raise InputError("range and inverted are of arrays and PIL images; this states its own: leave them out")
    if _is_dataset(image):
        from cxr_edge.decoding.dicom import decode_dataset

        gray, pixel_data = decode_dataset(image, limits)
        return _Read(format="dicom", decoded=gray, sha256=hashlib.sha256(pixel_data).hexdigest())
    return _read_file(_file_bytes(image, limits), limits)


def _has_own_scale(image: Any) -> bool:
    """Return whether this is a file or a data set; an array otherwise. Raises InputError if it is neither."""
    if isinstance(image, str | os.PathLike | bytes | bytearray | memoryview) or _is_dataset(image):
        return True
    if not isinstance(image, type) and hasattr(image, "__array__"):
        return False
    if not isinstance(image, type) and callable(getattr(image, "read", None)):
        return True
    raise InputError(f"{_EXPECTED}; found {_described(image)}")


def _described(image: object) -> str:
    if image is None:
        return "None, which OpenCV returns for a file that it cannot read: pass the path"
    if isinstance(image, list | tuple):
        return f"a {type(image).__name__}: pass the images one by one, or pixels as numpy.asarray(pixels)"
    if isinstance(image, type):
        return f"the class {image.__qualname__}"
    return f"{type(image).__module__}.{type(image).__qualname__}".removeprefix("builtins.")


def _is_dataset(image: object) -> bool:
    pydicom = sys.modules.get("pydicom.dataset")  # nobody has a data set who has not imported it
    return pydicom is not None and isinstance(image, pydicom.Dataset)


def _file_bytes(image: Any, limits: Limits) -> bytes:
    if isinstance(image, str | os.PathLike):
        return read_path(Path(os.fsdecode(image)), limits)
    return bytes(image) if isinstance(image, bytes | bytearray | memoryview) else read_stream(image, limits)


def _read_file(data: bytes, limits: Limits) -> _Read:
    try:
        file_format = identify_format(data)
        decoded = file_format.decode(data, limits)
    except InputError as error:
        error.sha256 = hashlib.sha256(data).hexdigest()
        raise
    return _Read(format=file_format.name, decoded=decoded, sha256=hashlib.sha256(data).hexdigest())


def _checked(image: Image, scale: Scale, limits: Limits) -> Image:
    if scale.stated:
        raise InputError("range and inverted are of arrays; this Image is complete: leave them out")
    limits.check_size(image.width_px, image.height_px)
    return image


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
