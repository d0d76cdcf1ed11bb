"""The size limits of decoding, checked on the header's word before any decoder allocates memory.

In: width, height and what a decoder needs per pixel; out: nothing, or an InputError that names the limit.
"""

from __future__ import annotations

from dataclasses import dataclass

from cxr_edge.errors import InputError

__all__ = ["BYTES_PER_PIXEL", "FILE_OVERHEAD_BYTES", "Limits"]

BYTES_PER_PIXEL = 10
"""Decoding needs at most this much memory for each pixel of `max_pixels`, besides the file's own bytes."""

FILE_OVERHEAD_BYTES = 64 << 20
"""What a file may hold besides its pixels: headers, metadata, previews."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Which pictures are accepted.

    max_pixels: the most pixels (width times height). min_side_px: the shortest side accepted. Both are positive.
    """

    max_pixels: int = 100_000_000
    min_side_px: int = 32

    def __post_init__(self) -> None:
        if self.max_pixels < 1 or self.min_side_px < 1:
            raise ValueError(f"max_pixels and min_side_px are at least 1, got {self.max_pixels} and {self.min_side_px}")

    @property
    def max_file_bytes(self) -> int:
        """No file of an accepted picture is larger: no format here stores more than 8 bytes per pixel."""
        return 8 * self.max_pixels + FILE_OVERHEAD_BYTES

    def check_size(self, width_px: int, height_px: int) -> None:
        """Raise InputError for a picture of more than `max_pixels`, or with a side shorter than `min_side_px`."""
        if width_px < 1 or height_px < 1:
            raise InputError(
                f"the header gives a size of {width_px}x{height_px} px: the file is damaged, copy or export it again"
            )
        if width_px * height_px > self.max_pixels:
            raise InputError(
                f"{width_px}x{height_px} px are more than the limit of {self.max_pixels:,} pixels: "
                "check that this is one X-ray, shrink it, or raise the limit (--max-pixels)"
            )
        if min(width_px, height_px) < self.min_side_px:
            raise InputError(
                f"{width_px}x{height_px} px are too small: each side must be at least {self.min_side_px} px, since a "
                "picture with fewer shows no lungs. Give the X-ray itself, not a preview, or lower the limit (--min-side)"
            )

    def check_memory(self, width_px: int, height_px: int, bytes_per_pixel: float) -> None:
        """Raise InputError where decoding would need more memory than BYTES_PER_PIXEL for each of `max_pixels`."""
        budget = BYTES_PER_PIXEL * self.max_pixels
        if width_px * height_px * bytes_per_pixel > budget:
            fitting = int(budget / bytes_per_pixel)
            raise InputError(
                f"{width_px}x{height_px} px need {bytes_per_pixel:g} bytes per pixel to decode in this layout, for which the "
                f"limit is {fitting:,} pixels: export it as 8 or 16-bit gray, shrink it, or raise the limit (--max-pixels)"
            )
