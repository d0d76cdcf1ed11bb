"""The first bytes of a file in, the name of its format out: content decides, never the file's name.

Formats that people hand in by mistake are named in the refusal.
"""

from __future__ import annotations

import re

from cxr_edge.decoding import bmp, png, tiff_directory
from cxr_edge.decoding.picture import HOW_TO_CONVERT
from cxr_edge.errors import InputError

__all__ = ["sniff"]

_REFUSED = (
    (re.compile(rb"GIF8[79]a"), "a GIF"),
    (re.compile(rb"%PDF-"), "a PDF document"),
    (re.compile(rb"PK\x03\x04"), "a ZIP archive"),
    (re.compile(rb"\x1f\x8b"), "a gzip archive"),
    (re.compile(rb"....ftyp(avif|avis)", re.DOTALL), "an AVIF"),
    (re.compile(rb"....ftyp(hei|hev|mif)", re.DOTALL), "a HEIC photograph"),
    (re.compile(rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51"), "a bare JPEG 2000"),
    (re.compile(rb"\xff\x0a|\0\0\0\x0cJXL "), "a JPEG XL"),
    (re.compile(rb"<\?xml|<svg|<!DOCTYPE|<html|\{", re.IGNORECASE), "text (XML, HTML or JSON)"),
)


def sniff(data: bytes) -> str:
    """`dicom`, `jpeg`, `png`, `tiff`, `webp` or `bmp`. Raises InputError for anything else."""
    if not data:
        raise InputError("the file is empty (0 bytes): copy or export it again")
    if data[128:132] == b"DICM":  # first: the 128 bytes before may be anything, a TIFF header too (PS3.10 7.1)
        return "dicom"
    if data.startswith(b"\xff\xd8"):
        return "jpeg"
    if data.startswith(png.MAGIC):
        return "png"
    if data.startswith(tiff_directory.MAGICS):
        return "tiff"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "webp"
    if _is_dicom_without_preamble(data):
        return "dicom"
    if data.startswith(b"BM") and int.from_bytes(data[14:18], "little") in bmp.HEADER_SIZES:
        return "bmp"
    for pattern, name in _REFUSED:
        if pattern.match(data):
            raise InputError(f"{name} file is not read here: {HOW_TO_CONVERT}")
    if not data.strip(b"\0"):
        raise InputError("the file holds nothing but zero bytes: copy or export it again")
    raise InputError(
        f"the content is not a picture that is read here (JPEG, PNG, TIFF, WEBP, BMP, DICOM): {HOW_TO_CONVERT}"
    )


def _is_dicom_without_preamble(data: bytes) -> bool:
    """A first element of group 2 or 8 that makes sense."""
    if len(data) < 16 or data[:2] not in (b"\x02\0", b"\x08\0") or data[3] != 0:
        return False
    explicit = data[4:6] in (b"UL", b"CS", b"UI", b"DA", b"TM", b"SH", b"LO", b"OB")
    return explicit or int.from_bytes(data[4:8], "little") < 1024
