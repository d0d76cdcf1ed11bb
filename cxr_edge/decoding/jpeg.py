"""JPEG decoder: an 8-bit file in, decoded image out; also header parser and decoder of JPEG streams in TIFF and DICOM.

It exists because decoders return a half-gray image for a truncated JPEG: here every segment up to the end marker is parsed,
every scan must be present, and a warning of libjpeg about the coded data (simplejpeg reports them, OpenCV does not) becomes an
error or a flag.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr_edge.decoding.decoded_image import DAMAGED, TRUNCATED, DecodedImage
from cxr_edge.decoding.formats import HOW_TO_CONVERT
from cxr_edge.decoding.gray import row_bands
from cxr_edge.decoding.limits import Limits
from cxr_edge.decoding.metadata import aspect_flag, exif_orientation, first_orientation, xmp_orientation
from cxr_edge.errors import InputError
from cxr_edge.records import Flag

__all__ = ["FrameHeader", "decode", "decode_8_bit", "read_frame_header"]

# A scan header is followed by entropy-coded bytes, in which FF is followed by 00 or a restart marker; others end the scan.
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
# A marker that has a length or ends the stream: not TEM, SOI, a restart, a stuffed or a fill byte.
_SEGMENT_MARKER = re.compile(rb"\xff[^\x00\x01\xff\xd0-\xd8]")
_PROCESSES = {0xC0: "baseline", 0xC1: "extended", 0xC2: "progressive", 0xC9: "arithmetic", 0xCA: "arithmetic"}
_PROGRESSIVE = (0xC2, 0xCA)
_ALL_COEFFICIENTS = (1 << 64) - 1
# Encoders write at most a dozen scans; each costs a pass over the full image.
_MAX_SCANS, _MAX_SEGMENTS = 64, 20_000
# Warnings of libjpeg (jerror.h) that do not affect the pixels, and the warning about bytes after the end of the coded data.
_HARMLESS = re.compile(
    r"unknown JFIF revision|Unknown Adobe color transform|Invalid SOS parameters|bad ICC marker", re.IGNORECASE
)
_STRAY_BYTES = re.compile(r"(\d+) extraneous bytes before marker")
_MAX_STRAY_BYTES = 16


@dataclass(frozen=True, kw_only=True)
class FrameHeader:
    """Frame header and metadata of a JPEG stream."""

    process: int  # number of the SOF marker: 0 baseline, 3 lossless
    width_px: int
    height_px: int
    bits: int
    samples: int  # per pixel
    orientation: int = 1
    density: tuple[int, int] = (0, 0)  # JFIF, horizontal and vertical pixels per unit of length; 0: not known


def decode(data: bytes, limits: Limits) -> DecodedImage:
    """Decode an 8-bit JPEG file. Raises InputError."""
    frame = read_frame_header(data)
    if frame.process + 0xC0 not in _PROCESSES or frame.bits != 8:
        kind = "lossless" if frame.process == 3 else f"{frame.bits}-bit (process SOF{frame.process})"
        raise InputError(f"a {kind} JPEG is supported only inside DICOM: export it as 8-bit JPEG, 16-bit PNG or DICOM")
    limits.check_size(frame.width_px, frame.height_px)
    # Samples and gray; a progressive image needs its coefficients, two bytes each, until the last scan.
    coefficients = 2 * frame.samples if frame.process in (2, 10) else 0
    converted = 3 if frame.samples == 4 else 1
    limits.check_memory(frame.width_px, frame.height_px, coefficients + frame.samples + converted)
    samples, flags = decode_8_bit(data, frame)
    return DecodedImage(
        samples=samples,
        bits=8,
        orientation=frame.orientation,
        flags=flags + aspect_flag(*frame.density),
    )


def read_frame_header(data: bytes) -> FrameHeader:
    """Parse the frame header of a JPEG stream, lossless too, in a file or inside DICOM or TIFF.

    Raises InputError for a stream that ends before its end marker or has missing scans.
    """
    try:
        return _parse_frame_header(data)
    except (struct.error, IndexError):
        raise InputError(TRUNCATED) from None


def _parse_frame_header(data: bytes) -> FrameHeader:
    sof, frame, density = 0, b"", (0, 0)
    exif: int | None = None
    xmp: int | None = None
    coefficients: dict[int, int] = {}
    scans = 0
    for marker, start, end in _segments(data):
        body = data[start + 4 : end]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if sof:
                raise InputError(f"it contains more than one JPEG frame: {HOW_TO_CONVERT}")
            sof, frame = marker, body
        elif marker == 0xE0 and body.startswith(b"JFIF\0"):
            density = struct.unpack_from(">HH", body, 8)
        elif marker == 0xE1 and exif is None and body.startswith(b"Exif\0\0"):
            exif = exif_orientation(body)
        elif marker == 0xE1 and xmp is None and body.startswith(b"http://ns.adobe.com/xap/1.0/"):
            xmp = xmp_orientation(body)
        elif marker == 0xDA:
            scans += 1
            if scans > _MAX_SCANS:
                raise InputError(
                    f"it contains more than {_MAX_SCANS} scans, an ordinary JPEG has a dozen: export it again"
                )
            _mark_scan(coefficients, body, progressive=sof in _PROGRESSIVE)
    if not sof:
        raise InputError(f"this JPEG file contains no image: {DAMAGED}")
    bits, height, width, samples = struct.unpack_from(">BHHB", frame)
    if any(coefficients.get(frame[6 + 3 * i]) != _ALL_COEFFICIENTS for i in range(samples)):
        raise InputError("scans of this JPEG are missing, the image would be incomplete: copy or export it again")
    return FrameHeader(
        process=sof - 0xC0,
        width_px=width,
        height_px=height,
        bits=bits,
        samples=samples,
        orientation=first_orientation((exif, xmp)),
        density=density,
    )


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (marker, start, end) of each segment up to EOI. Raises InputError if the data end before EOI."""
    offset = 2
    for _ in range(_MAX_SEGMENTS):
        start = _find_marker(_SEGMENT_MARKER, data, offset)
        marker = data[start + 1]
        if marker == 0xD9:
            yield marker, start, start + 2
            return
        end = start + 2 + int(struct.unpack_from(">H", data, start + 2)[0])
        if end > len(data):
            raise InputError(TRUNCATED)
        yield marker, start, end
        offset = _find_marker(_NEXT_MARKER, data, end) if marker == 0xDA else end
    raise InputError(f"it contains more than {_MAX_SEGMENTS:,} segments, an ordinary JPEG has dozens: {DAMAGED}")


def _find_marker(pattern: re.Pattern[bytes], data: bytes, offset: int) -> int:
    found = pattern.search(data, offset)
    if found is None:
        raise InputError(TRUNCATED)
    return found.start()


def _mark_scan(coefficients: dict[int, int], body: bytes, *, progressive: bool) -> None:
    """Add the coefficients that this scan completes to `coefficients`, a bit mask per component."""
    count = body[0]
    first, last, low_bit = body[1 + 2 * count], body[2 + 2 * count], body[3 + 2 * count] & 15
    for i in range(count):
        component = body[1 + 2 * i]
        if not progressive:
            coefficients[component] = _ALL_COEFFICIENTS
        elif low_bit == 0:
            coefficients[component] = coefficients.get(component, 0) | (
                ((1 << (last + 1)) - 1) & ~((1 << first) - 1) & _ALL_COEFFICIENTS
            )


def decode_8_bit(data: bytes, frame: FrameHeader) -> tuple[npt.NDArray[Any], tuple[Flag, ...]]:
    """Decode an 8-bit JPEG stream to samples (height, width) or (height, width, 3), red first; flag stray bytes.

    frame: from `read_frame_header`. Raises InputError for coded data that are damaged or end too early.
    """
    colorspace = {1: "GRAY", 3: "RGB", 4: "CMYK"}.get(frame.samples)
    if colorspace is None:
        raise InputError(f"a JPEG with {frame.samples} samples per pixel is not supported: {HOW_TO_CONVERT}")
    flags: tuple[Flag, ...] = ()
    samples, message = _run_libjpeg(data, colorspace, strict=True)
    if message:
        data, stray = _without_metadata(data)
        flags = _stray_flag(stray, "between its header segments") if stray else ()
        samples, message = _run_libjpeg(data, colorspace, strict=True)
    if message:
        flags += _warning_flags(message)
        samples, message = _run_libjpeg(data, colorspace, strict=False)
    if samples is None:
        raise _damage_error(message)
    if frame.samples == 4:
        samples = _cmyk_to_rgb(samples)
    if samples.shape[:2] != (frame.height_px, frame.width_px):
        raise InputError(f"the decoded size differs from the header: {DAMAGED}")
    return samples[..., 0] if frame.samples == 1 else samples, flags


def _run_libjpeg(data: bytes, colorspace: str, *, strict: bool) -> tuple[npt.NDArray[Any] | None, str]:
    """Return (samples, "") or (None, message of libjpeg). strict: treat warnings as errors."""
    import simplejpeg

    try:
        return simplejpeg.decode_jpeg(data, colorspace=colorspace, strict=strict), ""
    except ValueError as error:
        return None, str(error)


def _without_metadata(data: bytes) -> tuple[bytes, int]:
    """Return (stream without metadata and stray bytes before its first scan, number of stray bytes)."""
    parts, stray, offset = [data[:2]], 0, 2
    for marker, start, end in _segments(data):
        stray += len(data[offset:start].strip(b"\xff"))
        offset = end
        if marker == 0xDA:
            return b"".join([*parts, data[start:]]), stray
        is_jfif = marker == 0xE0 and data[start + 4 : start + 9] == b"JFIF\0" and data[start + 9] == 1
        is_adobe = marker == 0xEE and data[start + 4 : start + 9] == b"Adobe" and end - start >= 16
        if 0xC0 <= marker <= 0xDF or is_jfif or is_adobe:
            parts.append(data[start:end])
    return data, 0


def _warning_flags(warning: str) -> tuple[Flag, ...]:
    """Return the flags for a warning of libjpeg about the coded data; raise InputError if it means damage."""
    if _HARMLESS.search(warning):
        return ()
    stray = _STRAY_BYTES.search(warning)
    if stray is None or int(stray[1]) > _MAX_STRAY_BYTES:
        raise _damage_error(warning)
    return _stray_flag(int(stray[1]), "after its coded data")


def _stray_flag(count: int, where: str) -> tuple[Flag, ...]:
    message = f"the JPEG contains {count} stray bytes {where}; the image may be damaged"
    return (Flag(code="jpeg_stray_bytes", message=message),)


def _damage_error(message: str) -> InputError:
    return InputError(
        f"the JPEG data are damaged or truncated, the decoder reports: {_ascii(message)}. Copy or export the file again"
    )


def _ascii(text: str) -> str:
    return "".join(c if " " <= c <= "~" else "?" for c in text)[:120]


def _cmyk_to_rgb(cmyk: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Convert CMYK as Adobe stores it, inverted, to RGB, in OpenCV's integer arithmetic."""
    rgb = np.empty((*cmyk.shape[:2], 3), np.uint8)
    for rows in row_bands(cmyk):
        black = cmyk[rows, :, 3:].astype(np.int32)
        rgb[rows] = black - ((255 - cmyk[rows, :, :3].astype(np.int32)) * black >> 8)
    return rgb
