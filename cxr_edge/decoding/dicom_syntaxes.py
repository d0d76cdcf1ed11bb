"""The transfer syntaxes that are read (PS3.5 annex A), by their UIDs, and what decoding them takes."""

from __future__ import annotations

__all__ = [
    "BIG_ENDIAN", "COMPRESSED", "DEFLATED", "EXPLICIT", "IMPLICIT", "JPEG_2000", "JPEG_LOSSLESS", "JPEG_LOSSY", "JPEG_LS",
    "NATIVE", "READ", "RLE", "decoder_bytes",
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

READ = "uncompressed, deflated, RLE, JPEG baseline, JPEG extended, JPEG lossless, JPEG-LS and JPEG 2000 are"
"""For refusals."""


def decoder_bytes(syntax: str, samples: int, allocated: int) -> float:
    """Bytes per pixel that the stored values take while they are decoded. allocated: bytes of a pixel in the header's words."""
    if syntax in JPEG_2000:
        return 8 * samples + 2 * samples  # 32-bit coefficients and 32-bit samples, then the values
    return 2 * allocated if syntax in NATIVE else allocated + 2 * samples
