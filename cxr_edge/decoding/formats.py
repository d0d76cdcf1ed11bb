"""Registry of file formats: one row per format with its magic bytes, its decoder and its name in messages and help.

Input: the bytes of a file. Output: the row of `FORMATS` that matches, or an InputError that names the actual format if it is
a common one. The content decides, never the file name. To add a format, add a row here, a module of the same name with
`decode(data, limits)`, and a test.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from cxr_edge.decoding.limits import Limits
from cxr_edge.errors import InputError

if TYPE_CHECKING:
    from cxr_edge.decoding.decoded_image import DecodedImage, GrayImage

__all__ = ["FORMATS", "FORMAT_LIST", "HOW_TO_CONVERT", "FileFormat", "identify_format"]


@dataclass(frozen=True, kw_only=True)
class FileFormat:
    """One supported file format."""

    name: str  # `Image.format`; also the module of cxr_edge.decoding that has `decode(data, limits)`
    label: str  # name in messages, help and documentation
    magic: re.Pattern[bytes]  # matched at the start of the file
    packages: tuple[str, ...]  # that decode it, by their names in package indexes

    @property
    def decode(self) -> Callable[[bytes, Limits], DecodedImage | GrayImage]:
        """Decoder of the format, imported on first use, since pydicom alone takes a fifth of a second to import."""
        decoder: Callable[[bytes, Limits], DecodedImage | GrayImage]
        decoder = import_module(f"cxr_edge.decoding.{self.name}").decode
        return decoder


def _magic(pattern: bytes) -> re.Pattern[bytes]:
    return re.compile(pattern, re.DOTALL | re.VERBOSE)


FORMATS = (
    # First: the 128 bytes before DICM may be anything, a TIFF header too (PS3.10 7.1). Without a preamble: a plausible
    # first element of group 2 or 8, explicit or implicit.
    FileFormat(
        name="dicom",
        label="DICOM",
        magic=_magic(rb".{128}DICM | [\x02\x08]\0.\0 (?: (?:UL|CS|UI|DA|TM|SH|LO|OB).{10} | .[\0-\3]\0\0.{8} )"),
        packages=("pydicom", "imagecodecs", "simplejpeg"),
    ),
    FileFormat(name="jpeg", label="JPEG", magic=_magic(rb"\xff\xd8"), packages=("simplejpeg",)),
    FileFormat(name="png", label="PNG", magic=_magic(rb"\x89PNG\r\n\x1a\n"), packages=("imagecodecs",)),
    FileFormat(
        name="tiff",
        label="TIFF",
        magic=_magic(rb"II[*+]\0 | MM\0[*+]"),
        packages=("tifffile", "imagecodecs", "simplejpeg"),
    ),
    FileFormat(name="webp", label="WEBP", magic=_magic(rb"RIFF....WEBP"), packages=("opencv-python-headless",)),
    # The header sizes 40, 108 and 124 of versions 3, 4 and 5.
    FileFormat(
        name="bmp", label="BMP", magic=_magic(rb"BM.{12}[\x28\x6c\x7c]\0\0\0"), packages=("opencv-python-headless",)
    ),
)

_LABELS = [row.label for row in FORMATS]
FORMAT_LIST = ", ".join(_LABELS)
"""Supported formats, for help and messages."""

HOW_TO_CONVERT = f"export the image as {', '.join(_LABELS[:-1])} or {_LABELS[-1]}"
"""Advice at the end of error messages."""

_UNSUPPORTED = (
    (re.compile(rb"GIF8[79]a"), "a GIF"),
    (re.compile(rb"%PDF-"), "a PDF document"),
    (re.compile(rb"PK\x03\x04"), "a ZIP archive"),
    (re.compile(rb"\x1f\x8b"), "a gzip archive"),
    (re.compile(rb"....ftyp(avif|avis)", re.DOTALL), "an AVIF image"),
    (re.compile(rb"....ftyp(hei|hev|mif)", re.DOTALL), "a HEIC photograph"),
    (re.compile(rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51"), "a bare JPEG 2000"),
    (re.compile(rb"\xff\x0a|\0\0\0\x0cJXL "), "a JPEG XL image"),
    (re.compile(rb"<\?xml|<svg|<!DOCTYPE|<html|\{", re.IGNORECASE), "text (XML, HTML or JSON)"),
)


def identify_format(data: bytes) -> FileFormat:
    """Return the format of a file's bytes. Raises InputError for anything that is not supported."""
    if not data:
        raise InputError("the file is empty (0 bytes): copy or export it again")
    for row in FORMATS:
        if row.magic.match(data):
            return row
    for pattern, name in _UNSUPPORTED:
        if pattern.match(data):
            raise InputError(f"{name} file is not supported: {HOW_TO_CONVERT}")
    if not data.strip(b"\0"):
        raise InputError("the file contains only zero bytes: copy or export it again")
    raise InputError(f"the content is not an image in a supported format (expected {FORMAT_LIST}): {HOW_TO_CONVERT}")
