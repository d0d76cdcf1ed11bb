"""DICOM display pipeline: the display elements of a data set in, a `Display` out that converts stored values to gray pixels.

It contains the two steps of DICOM between stored values and the screen, the modality LUT or rescale (PS3.3 C.11.1) and the
VOI LUT or window (C.11.2), and the padding that is excluded from them (C.7.5.1.1.2). It is a file of its own so that the
arithmetic can be compared with the standard line by line.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr_edge.decoding.dicom_header import Header
from cxr_edge.decoding.dicom_pixels import PixelLayout
from cxr_edge.decoding.gray import apply_table, row_bands
from cxr_edge.errors import InputError
from cxr_edge.records import Flag, GrayPixels

__all__ = ["Display", "Lut", "Window", "read_display"]

_Reals = npt.NDArray[np.float64]
_FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")
_NO_WINDOW_FLAG = Flag(code="no_window", message="the file has no window; the range of its values was used")
_WINDOW_IGNORED_FLAG = Flag(
    code="window_ignored", message="the file's window is not valid; the range of its values was used"
)
_AS_STORED_FLAG = Flag(
    code="window_ignored", message="the file's window is not valid; its 8-bit values were used unchanged"
)


@dataclass(frozen=True, kw_only=True)
class Lut:
    """A lookup table, clamped: `entries[0]` for inputs up to `first`, the last entry for inputs beyond the table."""

    first: int
    entries: _Reals
    top: float  # largest value that the declared bits of an entry can hold

    def apply(self, values: _Reals) -> _Reals:
        index = np.clip(np.rint(values) - self.first, 0, len(self.entries) - 1).astype(np.int64)
        result: _Reals = self.entries[index]
        return result


@dataclass(frozen=True, kw_only=True)
class Window:
    """A window that maps values to 0..1 (PS3.3 C.11.2.1.2)."""

    center: float
    width: float
    function: str

    def apply(self, values: _Reals) -> _Reals:
        if self.function == "SIGMOID":
            return np.asarray(1 / (1 + np.exp(np.clip(-4 * (values - self.center) / self.width, -700, 700))))
        if self.function == "LINEAR":
            if self.width == 1:
                return np.where(values > self.center - 0.5, 1.0, 0.0)
            return np.clip((values - (self.center - 0.5)) / (self.width - 1) + 0.5, 0, 1)
        return np.clip((values - self.center) / self.width + 0.5, 0, 1)


@dataclass(frozen=True, kw_only=True)
class Display:
    """Conversion of stored values to gray."""

    modality: Lut | tuple[float, float]  # a table, or (slope, intercept)
    voi: Lut | Window | None
    padding: tuple[int, int] | None  # (lowest, highest) stored value that marks padding
    window_ignored: bool = False  # the file has a window that cannot be used

    def padding_mask(self, values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Return a mask of the stored values that are padding."""
        if self.padding is None:
            return np.zeros(values.shape, np.bool_)
        low, high = self.padding
        mask: npt.NDArray[np.bool_] = (values >= low) & (values <= high)
        return mask

    def stored_range(self, values: npt.NDArray[Any]) -> tuple[int, int] | None:
        """Return the lowest and highest stored value that is not padding; None if all are padding."""
        ends: list[int] = []
        for rows in row_bands(values):
            valid = values[rows] if self.padding is None else values[rows][~self.padding_mask(values[rows])]
            if valid.size:
                ends += [int(valid.min()), int(valid.max())]
        return (min(ends), max(ends)) if ends else None

    def apply(
        self, values: npt.NDArray[Any], *, low: int, high: int, bits: int, stored_bits: int
    ) -> tuple[GrayPixels, tuple[Flag, ...]]:
        """Convert stored values to gray of 8 or 16 bits, with flags for assumptions.

        low, high: the stored range without padding.
        """
        flags: tuple[Flag, ...] = ()
        if self.voi is None:
            if stored_bits == 8 and values.dtype == np.uint8 and self.modality == (1.0, 0.0):
                return np.array(values, np.uint8), (_AS_STORED_FLAG,) if self.window_ignored else ()
            flags = (_WINDOW_IGNORED_FLAG if self.window_ignored else _NO_WINDOW_FLAG,)
        top = (1 << bits) - 1
        dtype = np.uint8 if bits == 8 else np.uint16
        if high - low >= 1 << 16:
            out = np.empty(values.shape, dtype)
            for rows in row_bands(values):
                clipped = np.clip(values[rows], low, high).astype(np.float64)
                out[rows] = np.rint(self._to_unit(clipped, low, high) * top)
            return out, flags
        table = np.rint(self._to_unit(np.arange(low, high + 1, dtype=np.float64), low, high) * top).astype(dtype)
        # Padding is outside low..high; its values are overwritten by the caller.
        return apply_table(table, values, low), flags

    def _to_unit(self, values: _Reals, low: int, high: int) -> _Reals:
        """Convert stored values to 0 (black) to 1 (white), MONOCHROME1 not yet inverted."""
        values = self._modality_values(values)
        if isinstance(self.voi, Lut):
            return self.voi.apply(values) / self.voi.top
        if self.voi is not None:
            return self.voi.apply(values)
        ends = values if isinstance(self.modality, Lut) else self._modality_values(np.array([low, high], np.float64))
        span = float(ends.max() - ends.min())
        return (values - ends.min()) / span if span > 0 else np.zeros_like(values)

    def _modality_values(self, values: _Reals) -> _Reals:
        if isinstance(self.modality, Lut):
            return self.modality.apply(values)
        slope, intercept = self.modality
        return values * slope + intercept


def read_display(header: Header, layout: PixelLayout) -> Display:
    """Read the display elements. Raises InputError if they are not valid."""
    table = _first_table(header, "ModalityLUTSequence", signed_input=layout.signed)
    modality = table or _rescale(header)
    lowest = -(1 << (layout.bits_stored - 1)) if layout.signed else 0
    signed_voi = not isinstance(modality, Lut) and lowest * modality[0] + modality[1] < 0
    voi: Lut | Window | None = _first_table(header, "VOILUTSequence", signed_input=signed_voi)
    present = voi is not None
    if voi is None:
        present, voi = _read_window(header)
    return Display(
        modality=modality,
        voi=voi,
        padding=_read_padding(header, layout),
        window_ignored=present and voi is None,
    )


def _rescale(header: Header) -> tuple[float, float]:
    slope, intercept = header.number("RescaleSlope", 1.0), header.number("RescaleIntercept", 0.0)
    if not (math.isfinite(slope) and math.isfinite(intercept)) or slope == 0:
        raise InputError(
            f"the rescale slope {slope:g} and intercept {intercept:g} cannot be used: export the file again"
        )
    return slope, intercept


def _read_window(header: Header) -> tuple[bool, Window | None]:
    """Return (True if the file has a window, its first window or None if that is not valid)."""
    center, width = header.number("WindowCenter", math.nan), header.number("WindowWidth", math.nan)
    function = header.code("VOILUTFunction") or "LINEAR"
    if math.isnan(center) and math.isnan(width):
        return False, None
    if function not in _FUNCTIONS:
        raise InputError(f"the VOI LUT function is not one of {', '.join(_FUNCTIONS)}: export the file again")
    narrowest = 1 if function == "LINEAR" else 0
    if not (math.isfinite(center) and math.isfinite(width)) or width < narrowest or width == 0:
        return True, None
    return True, Window(center=center, width=width, function=function)


def _first_table(header: Header, keyword: str, *, signed_input: bool) -> Lut | None:
    """Return the first lookup table of a sequence; skip and note items without one."""
    for item in header.items(keyword):
        descriptor, data = header.value_of(item, keyword, "LUTDescriptor"), header.value_of(item, keyword, "LUTData")
        if descriptor is not None and data is not None:
            return _lut(keyword, descriptor, data, little=header.elements.little_endian, signed_input=signed_input)
        header.note(f"an item of {header.name(keyword)} has no lookup table")
    return None


def _lut(keyword: str, descriptor: Any, data: Any, *, little: bool, signed_input: bool) -> Lut:
    count, first, bits = _descriptor(keyword, descriptor, little=little)
    count = count or 1 << 16
    if signed_input and first >= 1 << 15:
        first -= 1 << 16
    entries = _entries(keyword, data, count, packed=bits <= 8, little=little)
    if len(entries) < count or not 1 <= bits <= 16:
        raise InputError(
            f"a lookup table of {keyword} has {len(entries)} of {count} entries with {bits} bits: export the file again"
        )
    values = entries[:count].astype(np.float64)
    return Lut(first=first, entries=values, top=max(float((1 << bits) - 1), float(values.max())))


def _entries(keyword: str, data: Any, count: int, *, packed: bool, little: bool) -> npt.NDArray[Any]:
    """Return LUT Data as words. packed: a table of 8 bits, stored with one entry per byte or per word."""
    if isinstance(data, bytes):
        kind = "u1" if packed and len(data) < 2 * count else "<u2" if little else ">u2"
        return np.frombuffer(data[: len(data) // np.dtype(kind).itemsize * np.dtype(kind).itemsize], kind)
    try:
        return np.atleast_1d(np.asarray(data)).astype(np.int64) & 0xFFFF
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"LUT Data (0028,3006) of {keyword} is not numeric: export the file again") from None


def _descriptor(keyword: str, value: Any, *, little: bool) -> tuple[int, int, int]:
    """Return number of entries, first value mapped, bits per entry (PS3.3 C.11.1.1), each 0..65535."""
    try:
        words = np.frombuffer(value, "<u2" if little else ">u2") if isinstance(value, bytes) else list(value)
        count, first, bits = (int(v) & 0xFFFF for v in words)
    except (TypeError, ValueError):
        raise InputError(
            f"LUT Descriptor (0028,3002) of {keyword} is invalid, expected three numbers: export the file again"
        ) from None
    return count, first, bits


def _read_padding(header: Header, layout: PixelLayout) -> tuple[int, int] | None:
    if "PixelPaddingValue" not in header:
        return None
    value = header.word("PixelPaddingValue")
    limit = header.word("PixelPaddingRangeLimit")
    if value is None:
        return None
    ends = sorted(_padding_value(v, layout) for v in (value, value if limit is None else limit))
    return ends[0], ends[1]


def _padding_value(value: int, layout: PixelLayout) -> int:
    """Convert a padding value to a stored value: some vendors write it with the wrong signedness."""
    value &= (1 << layout.bits_stored) - 1
    return value - (1 << layout.bits_stored) if layout.signed and value >> (layout.bits_stored - 1) else value
