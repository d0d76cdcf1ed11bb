"""Supported DICOM transfer syntaxes (PS3.5 annex A): their UIDs, and the memory that decoding them needs."""

from __future__ import annotations

__all__ = [
    "BIG_ENDIAN", "COMPRESSED", "DEFLATED", "EXPLICIT", "IMPLICIT", "JPEG_2000", "JPEG_LOSSLESS", "JPEG_LOSSY", "JPEG_LS",
    "NATIVE", "RLE", "SUPPORTED", "decoder_bytes_per_pixel",
]  # fmt: skip

IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
BIG_ENDIAN, DEFLATED = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
NATIVE = (IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED)

JPEG_LOSSY = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51")
JPEG_LOSSLESS = ("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")
JPEG_LS = ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81")
JPEG_2000 = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")
RLE = "1.2.840.10008.1.2.5"
COMPRESSED = (*JPEG_LOSSY, *JPEG_LOSSLESS, *JPEG_LS, *JPEG_2000, RLE)

SUPPORTED = "uncompressed, deflated, RLE, JPEG baseline, JPEG extended, JPEG lossless, JPEG-LS or JPEG 2000"
"""For error messages."""


def decoder_bytes_per_pixel(syntax: str, samples: int, allocated: int) -> float:
    """Return the memory of decoding in bytes per pixel. allocated: bytes of a pixel by the header."""
    if syntax in JPEG_2000:
        return 8 * samples + 2 * samples  # 32-bit coefficients and 32-bit samples, then the values
    return 2 * allocated if syntax in NATIVE else allocated + 2 * samples
