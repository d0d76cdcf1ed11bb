"""A JPEG file in, its decoded picture out; also the frame header of any JPEG stream, for TIFF and DICOM.

It exists because decoders answer a cut-off JPEG with a half-gray picture: every segment up to the end marker is followed,
every scan must be there, and what libjpeg remarks on the coded data (simplejpeg passes that on, OpenCV does not) is
refused or flagged.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr_edge.decoding.gray import bands
from cxr_edge.decoding.limits import Limits
from cxr_edge.decoding.metadata import aspect_flag, exif_orientation, first_orientation, xmp_orientation
from cxr_edge.decoding.picture import CUT, DAMAGED, HOW_TO_CONVERT, Picture
from cxr_edge.errors import InputError
from cxr_edge.records import Flag

__all__ = ["JpegFrame", "decode", "decoded_8_bit", "read_frame"]

# After a scan's header come entropy-coded bytes, where FF is followed by 00 or a restart marker; anything else ends it.
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_PROCESSES = {0xC0: "baseline", 0xC1: "extended", 0xC2: "progressive", 0xC9: "arithmetic", 0xCA: "arithmetic"}
_PROGRESSIVE = (0xC2, 0xCA)
_LOSSLESS = 0xC3
_ALL_COEFFICIENTS = (1 << 64) - 1
# Encoders write at most a dozen scans; each costs a pass over the whole picture.
_MAX_SCANS, _MAX_SEGMENTS = 64, 20_000
# libjpeg's words (jerror.h) for what does not touch the pixels, and for bytes left over where the coded data end.
_HARMLESS = re.compile(
    r"unknown JFIF revision|Unknown Adobe color transform|Invalid SOS parameters|bad ICC marker", re.IGNORECASE
)
_LEFT_OVER = re.compile(r"(\d+) extraneous bytes before marker")
_FEW_BYTES = 16


@dataclass(frozen=True, kw_only=True)
class JpegFrame:
    """The frame header of a JPEG stream and its metadata.

    process: the number of its SOF marker, 0 baseline, 3 lossless. samples: per pixel. density: horizontal and vertical
    pixels per unit of length by JFIF, 0 where it does not say.
    """

    process: int
    width_px: int
    height_px: int
    bits: int
    samples: int
    orientation: int = 1
    density: tuple[int, int] = (0, 0)


def decode(data: bytes, limits: Limits) -> Picture:
    """Decode an 8-bit JPEG file. Raises InputError."""
    frame = read_frame(data)
    if frame.process + 0xC0 not in _PROCESSES or frame.bits != 8:
        kind = "lossless" if frame.process == 3 else f"{frame.bits}-bit (process SOF{frame.process})"
        raise InputError(f"a {kind} JPEG is read only inside DICOM: export it as 8-bit JPEG, 16-bit PNG or DICOM")
    limits.check_size(frame.width_px, frame.height_px)
    # Samples and gray; a progressive picture keeps its coefficients, two bytes each, until the last scan.
    coefficients = 2 * frame.samples if frame.process in (2, 10) else 0
    converted = 3 if frame.samples == 4 else 1
    limits.check_memory(frame.width_px, frame.height_px, coefficients + frame.samples + converted)
    samples, flags = decoded_8_bit(data, frame)
    return Picture(
        format="jpeg",
        samples=samples,
        bits=8,
        orientation=frame.orientation,
        flags=flags + aspect_flag(*frame.density),
    )


def read_frame(data: bytes) -> JpegFrame:
    """The frame header of a JPEG stream, also lossless, also one inside DICOM or TIFF.

    Raises InputError for a stream that ends before its end marker or lacks scans.
    """
    try:
        return _read_frame(data)
    except (struct.error, IndexError):
        raise InputError(CUT) from None


def _read_frame(data: bytes) -> JpegFrame:
    sof, frame, density = 0, b"", (0, 0)
    exif: int | None = None
    xmp: int | None = None
    done: dict[int, int] = {}
    scans = 0
    for marker, start, end in _segments(data):
        body = data[start + 4 : end]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if sof:
                raise InputError(f"it holds more than one JPEG frame: {HOW_TO_CONVERT}")
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
                    f"it holds more than {_MAX_SCANS} scans, an ordinary JPEG has a dozen: export it again"
                )
            _note_scan(done, body, progressive=sof in _PROGRESSIVE)
    if not sof:
        raise InputError(f"there is no picture in this JPEG file: {DAMAGED}")
    bits, height, width, samples = struct.unpack_from(">BHHB", frame)
    if any(done.get(frame[6 + 3 * i]) != _ALL_COEFFICIENTS for i in range(samples)):
        raise InputError("scans of this JPEG are missing, the picture would be incomplete: copy or export it again")
    return JpegFrame(
        process=sof - 0xC0,
        width_px=width,
        height_px=height,
        bits=bits,
        samples=samples,
        orientation=first_orientation((exif, xmp)),
        density=density,
    )


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end) of each segment up to and with EOI. Raises InputError when the data end before EOI."""
    at = 2
    for _ in range(_MAX_SEGMENTS):
        at = _marker_at(data, at)
        marker = data[at + 1]
        if marker == 0xD9:
            yield marker, at, at + 2
            return
        end = at + 2 + int(struct.unpack_from(">H", data, at + 2)[0])
        if end > len(data):
            raise InputError(CUT)
        yield marker, at, end
        at = _after_scan(data, end) if marker == 0xDA else end
    raise InputError(f"it holds more than {_MAX_SEGMENTS:,} segments, an ordinary JPEG has dozens: {DAMAGED}")


# Up to the next marker that has a length or ends the stream: not TEM, SOI, a restart, a stuffed or a fill byte.
_MARKER_WITH_MEANING = re.compile(rb"\xff[^\x00\x01\xff\xd0-\xd8]")


def _marker_at(data: bytes, at: int) -> int:
    found = _MARKER_WITH_MEANING.search(data, at)
    if found is None:
        raise InputError(CUT)
    return found.start()


def _after_scan(data: bytes, at: int) -> int:
    found = _NEXT_MARKER.search(data, at)
    if found is None:
        raise InputError(CUT)
    return found.start()


def _note_scan(done: dict[int, int], body: bytes, *, progressive: bool) -> None:
    """Mark in `done` which coefficients of which components this scan brings to full precision."""
    count = body[0]
    first, last, low_bit = body[1 + 2 * count], body[2 + 2 * count], body[3 + 2 * count] & 15
    for i in range(count):
        component = body[1 + 2 * i]
        if not progressive:
            done[component] = _ALL_COEFFICIENTS
        elif low_bit == 0:
            done[component] = done.get(component, 0) | (
                ((1 << (last + 1)) - 1) & ~((1 << first) - 1) & _ALL_COEFFICIENTS
            )


def decoded_8_bit(data: bytes, frame: JpegFrame) -> tuple[npt.NDArray[Any], tuple[Flag, ...]]:
    """Samples (height, width), or (height, width, 3) red first, of an 8-bit JPEG stream; a flag on stray bytes.

    frame: from `read_frame`. Raises InputError for coded data that are damaged or end too early.
    """
    colorspace = {1: "GRAY", 3: "RGB", 4: "CMYK"}.get(frame.samples)
    if colorspace is None:
        raise InputError(f"a JPEG with {frame.samples} samples per pixel is not read here: {HOW_TO_CONVERT}")
    flags: tuple[Flag, ...] = ()
    samples, remark = _decoded(data, colorspace, strict=True)
    if remark:
        data, stray = _for_decoder(data)
        flags = _stray_flag(stray, "between its header segments") if stray else ()
        samples, remark = _decoded(data, colorspace, strict=True)
    if remark:
        flags += _remark_flags(remark)
        samples, remark = _decoded(data, colorspace, strict=False)
    if samples is None:
        raise _damaged(remark)
    if frame.samples == 4:
        samples = _rgb_of_cmyk(samples)
    if samples.shape[:2] != (frame.height_px, frame.width_px):
        raise InputError(f"the decoded size is not that of the header: {DAMAGED}")
    return samples[..., 0] if frame.samples == 1 else samples, flags


def _decoded(data: bytes, colorspace: str, *, strict: bool) -> tuple[npt.NDArray[Any] | None, str]:
    """(samples, ""), or (None, what libjpeg remarks). strict: also what it only warns of counts as a remark."""
    import simplejpeg

    try:
        return simplejpeg.decode_jpeg(data, colorspace=colorspace, strict=strict), ""
    except ValueError as remark:
        return None, str(remark)


def _for_decoder(data: bytes) -> tuple[bytes, int]:
    """(the stream without metadata and stray bytes before its first scan, how many stray bytes there were)."""
    parts, stray, at = [data[:2]], 0, 2
    for marker, start, end in _segments(data):
        stray += len(data[at:start].strip(b"\xff"))
        at = end
        if marker == 0xDA:
            return b"".join([*parts, data[start:]]), stray
        is_jfif = marker == 0xE0 and data[start + 4 : start + 9] == b"JFIF\0" and data[start + 9] == 1
        is_adobe = marker == 0xEE and data[start + 4 : start + 9] == b"Adobe" and end - start >= 16
        if 0xC0 <= marker <= 0xDF or is_jfif or is_adobe:
            parts.append(data[start:end])
    return data, 0


def _remark_flags(remark: str) -> tuple[Flag, ...]:
    """What follows from libjpeg's remark on the coded data: nothing, a flag, or an InputError."""
    if _HARMLESS.search(remark):
        return ()
    left_over = _LEFT_OVER.search(remark)
    if left_over is None or int(left_over[1]) > _FEW_BYTES:
        raise _damaged(remark)
    return _stray_flag(int(left_over[1]), "behind its coded data")


def _stray_flag(count: int, where: str) -> tuple[Flag, ...]:
    message = f"the JPEG holds {count} stray bytes {where}; the picture may be damaged"
    return (Flag(code="jpeg_stray_bytes", message=message),)


def _damaged(remark: str) -> InputError:
    return InputError(
        f"the JPEG data are damaged or cut, the decoder reports: {_ascii(remark)}. Copy or export the file again"
    )


def _ascii(text: str) -> str:
    return "".join(c if " " <= c <= "~" else "?" for c in text)[:120]


def _rgb_of_cmyk(cmyk: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Four samples as Adobe stores them, inverted, to RGB, in OpenCV's integer arithmetic."""
    rgb = np.empty((*cmyk.shape[:2], 3), np.uint8)
    for rows in bands(cmyk):
        black = cmyk[rows, :, 3:].astype(np.int32)
        rgb[rows] = black - ((255 - cmyk[rows, :, :3].astype(np.int32)) * black >> 8)
    return rgb
