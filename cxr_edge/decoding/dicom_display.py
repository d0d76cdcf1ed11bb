"""The display elements of a DICOM data set in, a `Display` out that turns stored values into gray pixels.

It holds the two steps that DICOM puts between stored values and the screen: the modality LUT or rescale (PS3.3 C.11.1)
and the VOI LUT or window (C.11.2), and the padding that takes no part (C.7.5.1.1.2). It exists as its own file so that
the arithmetic can be held against the standard line by line.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr_edge.decoding.dicom_header import Header
from cxr_edge.decoding.dicom_pixels import Layout
from cxr_edge.decoding.gray import bands, looked_up
from cxr_edge.errors import InputError
from cxr_edge.records import Flag, GrayPixels

__all__ = ["Display", "Lut", "Window", "read_display"]

Reals = npt.NDArray[np.float64]
_FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")


@dataclass(frozen=True, kw_only=True)
class Lut:
    """A lookup table: `entries[0]` for inputs up to `first`, the last entry for inputs beyond the table.

    top: the largest value that the entries' declared bits can hold.
    """

    first: int
    entries: Reals
    top: float

    def apply(self, values: Reals) -> Reals:
        found: Reals = self.entries[np.clip(np.rint(values) - self.first, 0, len(self.entries) - 1).astype(np.int64)]
        return found


@dataclass(frozen=True, kw_only=True)
class Window:
    """A window by PS3.3 C.11.2.1.2: values to 0..1."""

    center: float
    width: float
    function: str

    def apply(self, values: Reals) -> Reals:
        if self.function == "SIGMOID":
            return np.asarray(1 / (1 + np.exp(np.clip(-4 * (values - self.center) / self.width, -700, 700))))
        if self.function == "LINEAR":
            if self.width == 1:
                return np.where(values > self.center - 0.5, 1.0, 0.0)
            return np.clip((values - (self.center - 0.5)) / (self.width - 1) + 0.5, 0, 1)
        return np.clip((values - self.center) / self.width + 0.5, 0, 1)


@dataclass(frozen=True, kw_only=True)
class Display:
    """From stored values to gray.

    modality: a table, or (slope, intercept). voi: a table, a window, or None. padding: (lowest, highest) stored value
    that marks padding. window_ignored: the file has a window that cannot be used.
    """

    modality: Lut | tuple[float, float]
    voi: Lut | Window | None
    padding: tuple[int, int] | None
    window_ignored: bool = False

    def padding_mask(self, values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Which stored values are padding."""
        if self.padding is None:
            return np.zeros(values.shape, np.bool_)
        low, high = self.padding
        mask: npt.NDArray[np.bool_] = (values >= low) & (values <= high)
        return mask

    def stored_range(self, values: npt.NDArray[Any]) -> tuple[int, int] | None:
        """The lowest and highest stored value that is no padding; None where all are."""
        ends: list[int] = []
        for rows in bands(values):
            valid = values[rows] if self.padding is None else values[rows][~self.padding_mask(values[rows])]
            if valid.size:
                ends += [int(valid.min()), int(valid.max())]
        return (min(ends), max(ends)) if ends else None

    def apply(
        self, values: npt.NDArray[Any], *, low: int, high: int, bits: int, stored_bits: int
    ) -> tuple[GrayPixels, tuple[Flag, ...]]:
        """Stored values to gray of 8 or 16 bits; low, high: the stored range without padding. Flags what was assumed."""
        flags: tuple[Flag, ...] = ()
        if self.voi is None:
            if stored_bits == 8 and values.dtype == np.uint8 and self.modality == (1.0, 0.0):
                return np.array(values, np.uint8), (self._as_stored(),) if self.window_ignored else ()
            flags = (self._assumption(),)
        top = (1 << bits) - 1
        dtype = np.uint8 if bits == 8 else np.uint16
        if high - low >= 1 << 16:
            out = np.empty(values.shape, dtype)
            for rows in bands(values):
                clipped = np.clip(values[rows], low, high).astype(np.float64)
                out[rows] = np.rint(self._shown(clipped, low, high) * top)
            return out, flags
        table = np.rint(self._shown(np.arange(low, high + 1, dtype=np.float64), low, high) * top).astype(dtype)
        # Padding lies outside low..high; what it gets here is overwritten by the caller.
        return looked_up(table, values, low), flags

    def _shown(self, values: Reals, low: int, high: int) -> Reals:
        """Values on a scale of 0 (black) to 1 (white), MONOCHROME1 not yet inverted."""
        values = self._modality_values(values)
        if isinstance(self.voi, Lut):
            return self.voi.apply(values) / self.voi.top
        if self.voi is not None:
            return self.voi.apply(values)
        ends = values if isinstance(self.modality, Lut) else self._modality_values(np.array([low, high], np.float64))
        span = float(ends.max() - ends.min())
        return (values - ends.min()) / span if span > 0 else np.zeros_like(values)

    def _modality_values(self, values: Reals) -> Reals:
        if isinstance(self.modality, Lut):
            return self.modality.apply(values)
        slope, intercept = self.modality
        return values * slope + intercept

    def _assumption(self) -> Flag:
        if self.window_ignored:
            return Flag(
                code="window_ignored", message="the file's window cannot be used; the range of its values was taken"
            )
        return Flag(code="no_window", message="the file has no window; the range of its values was taken")

    def _as_stored(self) -> Flag:
        return Flag(
            code="window_ignored", message="the file's window cannot be used; its 8-bit values were taken as they are"
        )


def read_display(header: Header, layout: Layout) -> Display:
    """Read the display elements; raises InputError where they contradict themselves."""
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
    """(whether the file has a window, the first of its windows or None when that cannot be used)."""
    center, width = header.number("WindowCenter", math.nan), header.number("WindowWidth", math.nan)
    function = header.code("VOILUTFunction") or "LINEAR"
    if math.isnan(center) and math.isnan(width):
        return False, None
    if function not in _FUNCTIONS:
        raise InputError(f"the VOI LUT function is none of {', '.join(_FUNCTIONS)}: export the file again")
    narrowest = 1 if function == "LINEAR" else 0
    if not (math.isfinite(center) and math.isfinite(width)) or width < narrowest or width == 0:
        return True, None
    return True, Window(center=center, width=width, function=function)


def _first_table(header: Header, keyword: str, *, signed_input: bool) -> Lut | None:
    """The first lookup table of a sequence; items without one are passed over and noted."""
    for item in header.items(keyword):
        descriptor, data = header.value_of(item, keyword, "LUTDescriptor"), header.value_of(item, keyword, "LUTData")
        if descriptor is not None and data is not None:
            return _lut(keyword, descriptor, data, little=header.elements.little_endian, signed_input=signed_input)
        header.note(f"an item of {header.name(keyword)} holds no lookup table")
    return None


def _lut(keyword: str, descriptor: Any, data: Any, *, little: bool, signed_input: bool) -> Lut:
    count, first, bits = _descriptor(keyword, descriptor, little=little)
    count = count or 1 << 16
    if signed_input and first >= 1 << 15:
        first -= 1 << 16
    entries = _entries(keyword, data, count, packed=bits <= 8, little=little)
    if len(entries) < count or not 1 <= bits <= 16:
        raise InputError(
            f"a lookup table of {keyword} holds {len(entries)} of {count} entries with {bits} bits: export the file again"
        )
    values = entries[:count].astype(np.float64)
    return Lut(first=first, entries=values, top=max(float((1 << bits) - 1), float(values.max())))


def _entries(keyword: str, data: Any, count: int, *, packed: bool, little: bool) -> npt.NDArray[Any]:
    """LUT Data as words. packed: tables of 8 bits come one entry to a byte or one to a word."""
    if isinstance(data, bytes):
        kind = "u1" if packed and len(data) < 2 * count else "<u2" if little else ">u2"
        return np.frombuffer(data[: len(data) // np.dtype(kind).itemsize * np.dtype(kind).itemsize], kind)
    try:
        return np.atleast_1d(np.asarray(data)).astype(np.int64) & 0xFFFF
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"LUT Data (0028,3006) of {keyword} holds no numbers: export the file again") from None


def _descriptor(keyword: str, value: Any, *, little: bool) -> tuple[int, int, int]:
    """Number of entries, first value mapped, bits per entry (PS3.3 C.11.1.1), each 0..65535."""
    try:
        words = np.frombuffer(value, "<u2" if little else ">u2") if isinstance(value, bytes) else list(value)
        count, first, bits = (int(v) & 0xFFFF for v in words)
    except (TypeError, ValueError):
        raise InputError(
            f"LUT Descriptor (0028,3002) of {keyword} is invalid, expected three numbers: export the file again"
        ) from None
    return count, first, bits


def _read_padding(header: Header, layout: Layout) -> tuple[int, int] | None:
    if "PixelPaddingValue" not in header:
        return None
    value = header.word("PixelPaddingValue")
    limit = header.word("PixelPaddingRangeLimit")
    if value is None:
        return None
    ends = sorted(_stored(v, layout) for v in (value, value if limit is None else limit))
    return ends[0], ends[1]


def _stored(value: int, layout: Layout) -> int:
    """A padding value as a stored value: written with the other signedness by some makers."""
    value &= (1 << layout.bits_stored) - 1
    return value - (1 << layout.bits_stored) if layout.signed and value >> (layout.bits_stored - 1) else value
