"""Size limits of decoding, checked against the file header before a decoder allocates memory.

Input: width, height and the memory that the decoder needs per pixel. Output: nothing, or an InputError that names the limit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from numbers import Real

from cxr_edge.errors import InputError

__all__ = ["DEFAULT_LIMITS", "FILE_OVERHEAD_BYTES", "MAX_BYTES_PER_PIXEL", "MAX_PIXELS", "MIN_SIDE_PX", "Limits"]

MAX_PIXELS = 100_000_000
MIN_SIDE_PX = 32

MAX_BYTES_PER_PIXEL = 10
"""Upper bound of decoding memory per pixel of `Limits.max_pixels`, not counting the file's own bytes."""

FILE_OVERHEAD_BYTES = 64 << 20
"""Allowance for everything in a file that is not pixels: headers, metadata, previews."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Size limits of accepted images, both at least 1."""

    max_pixels: int = MAX_PIXELS  # width times height
    min_side_px: int = MIN_SIDE_PX  # shortest accepted side

    def __post_init__(self) -> None:
        if not all(isinstance(limit, Real) and limit >= 1 for limit in (self.max_pixels, self.min_side_px)):
            raise InputError(
                f"max_pixels and min_side_px are numbers of 1 or more, got {self.max_pixels!r} and {self.min_side_px!r}"
            )

    def replaced(self, *, max_pixels: int | None, min_side_px: int | None) -> Limits:
        """Return these limits with those that are not None in place of its own."""
        given = {"max_pixels": max_pixels, "min_side_px": min_side_px}
        return replace(self, **{name: value for name, value in given.items() if value is not None})

    @property
    def max_file_bytes(self) -> int:
        """Largest accepted file: no supported format stores more than 8 bytes per pixel."""
        return 8 * self.max_pixels + FILE_OVERHEAD_BYTES

    def check_size(self, width_px: int, height_px: int) -> None:
        """Raise InputError for an image of more than `max_pixels`, or with a side shorter than `min_side_px`."""
        if width_px < 1 or height_px < 1:
            raise InputError(
                f"the header gives a size of {width_px}x{height_px} px: the file is damaged, copy or export it again"
            )
        if width_px * height_px > self.max_pixels:
            raise InputError(
                f"{width_px}x{height_px} px exceed the limit of {self.max_pixels:,} pixels: "
                "check that this is one X-ray, shrink it, or raise the limit (--max-pixels, in Python max_pixels)"
            )
        if min(width_px, height_px) < self.min_side_px:
            raise InputError(
                f"{width_px}x{height_px} px are too small: each side must have at least {self.min_side_px} px to show the "
                "lungs. Use the X-ray itself, not a preview, or lower the limit (--min-side, in Python min_side_px)"
            )

    def check_memory(self, width_px: int, height_px: int, bytes_per_pixel: float) -> None:
        """Raise InputError if decoding needs more memory than MAX_BYTES_PER_PIXEL times `max_pixels`."""
        budget = MAX_BYTES_PER_PIXEL * self.max_pixels
        if width_px * height_px * bytes_per_pixel > budget:
            fitting = int(budget / bytes_per_pixel)
            raise InputError(
                f"{width_px}x{height_px} px need {bytes_per_pixel:g} bytes per pixel to decode in this layout, for which the "
                f"limit is {fitting:,} pixels: export it as 8 or 16-bit gray, shrink it, or raise the limit (--max-pixels, in "
                "Python max_pixels)"
            )


DEFAULT_LIMITS = Limits()
