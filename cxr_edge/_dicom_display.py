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

from cxr_edge._dicom_pixels import Layout
from cxr_edge.errors import InputError
from cxr_edge.records import Flag, GrayPixels

__all__ = ["Display", "Lut", "Window", "read_display"]

Reals = npt.NDArray[np.float64]
_ROWS_AT_A_TIME = 32
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

    def padding_mask(self, values: npt.NDArray[Any]) -> npt.NDArray[np.bool_] | None:
        """Which stored values are padding, or None when the file names none."""
        if self.padding is None:
            return None
        low, high = self.padding
        mask: npt.NDArray[np.bool_] = (values >= low) & (values <= high)
        return mask

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
            clipped = np.clip(values, low, high).astype(np.float64)
            return np.rint(self._shown(clipped, low, high) * top).astype(dtype), flags
        table = np.rint(self._shown(np.arange(low, high + 1, dtype=np.float64), low, high) * top).astype(dtype)
        # Padding lies outside low..high; what it gets here is overwritten by the caller.
        return _looked_up(table, values, low), flags

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


def _looked_up(table: GrayPixels, values: npt.NDArray[Any], low: int) -> GrayPixels:
    """table[values - low], the table's ends for values beyond it; few rows at a time, so that the indices stay in cache."""
    out = np.empty(values.shape, table.dtype)
    for start in range(0, len(values), _ROWS_AT_A_TIME):
        rows = slice(start, start + _ROWS_AT_A_TIME)
        np.take(table, values[rows].astype(np.intp) - low, out=out[rows], mode="clip")
    return out


def read_display(dataset: Any, layout: Layout) -> Display:
    """Read the display elements; raises InputError where they contradict themselves."""
    tables = dataset.get("ModalityLUTSequence")
    modality = _read_lut(dataset, tables[0], signed_input=layout.signed) if tables else _rescale(dataset)
    lowest = -(1 << (layout.bits_stored - 1)) if layout.signed else 0
    signed_voi = not isinstance(modality, Lut) and lowest * modality[0] + modality[1] < 0
    tables = dataset.get("VOILUTSequence")
    if tables:
        voi: Lut | Window | None = _read_lut(dataset, tables[0], signed_input=signed_voi)
        present = True
    else:
        present, voi = _read_window(dataset)
    return Display(
        modality=modality,
        voi=voi,
        padding=_read_padding(dataset, layout),
        window_ignored=present and voi is None,
    )


def _rescale(dataset: Any) -> tuple[float, float]:
    slope, intercept = _first(dataset, "RescaleSlope", 1.0), _first(dataset, "RescaleIntercept", 0.0)
    if not (math.isfinite(slope) and math.isfinite(intercept)) or slope == 0:
        raise InputError(
            f"the rescale slope {slope:g} and intercept {intercept:g} cannot be used: export the file again"
        )
    return slope, intercept


def _read_window(dataset: Any) -> tuple[bool, Window | None]:
    """(whether the file has a window, the first of its windows or None when that cannot be used)."""
    center, width = (_first(dataset, keyword, math.nan) for keyword in ("WindowCenter", "WindowWidth"))
    function = str(dataset.get("VOILUTFunction") or "LINEAR").strip().upper()
    if math.isnan(center) and math.isnan(width):
        return False, None
    if function not in _FUNCTIONS:
        raise InputError(f"the VOI LUT function is none of {', '.join(_FUNCTIONS)}: export the file again")
    narrowest = 1 if function == "LINEAR" else 0
    if not (math.isfinite(center) and math.isfinite(width)) or width < narrowest or width == 0:
        return True, None
    return True, Window(center=center, width=width, function=function)


def _first(dataset: Any, keyword: str, default: float) -> float:
    """The first value of a numeric element, or the default when it is missing or empty."""
    value = dataset.get(keyword)
    if value is None or value == "":
        return default
    if hasattr(value, "__len__") and not isinstance(value, str):
        return float(value[0]) if len(value) else default
    return float(value)


def _read_lut(dataset: Any, item: Any, *, signed_input: bool) -> Lut:
    count, first, bits = (int(v) for v in item.LUTDescriptor)
    count = (count & 0xFFFF) or 1 << 16
    first &= 0xFFFF
    if signed_input and first >= 1 << 15:
        first -= 1 << 16
    data = item.LUTData
    if isinstance(data, bytes):
        little = dataset.original_encoding[1] is not False
        # Tables of 8 bits come packed or one entry to a word.
        kind = "u1" if bits <= 8 and len(data) < 2 * count else "<u2" if little else ">u2"
        entries = np.frombuffer(data[: len(data) // np.dtype(kind).itemsize * np.dtype(kind).itemsize], kind)
    else:
        entries = np.atleast_1d(np.asarray(data)).astype(np.int64) & 0xFFFF
    if len(entries) < count or not 1 <= bits <= 16:
        raise InputError(
            f"a lookup table holds {len(entries)} of {count} entries with {bits} bits: export the file again"
        )
    values = entries[:count].astype(np.float64)
    return Lut(first=first, entries=values, top=max(float((1 << bits) - 1), float(values.max())))


def _read_padding(dataset: Any, layout: Layout) -> tuple[int, int] | None:
    value = dataset.get("PixelPaddingValue")
    if value is None or value == "":
        return None
    limit = dataset.get("PixelPaddingRangeLimit")
    ends = sorted(_stored(int(v), layout) for v in (value, value if limit is None or limit == "" else limit))
    return ends[0], ends[1]


def _stored(value: int, layout: Layout) -> int:
    """A padding value as a stored value: written with the other signedness by some makers."""
    value &= (1 << layout.bits_stored) - 1
    return value - (1 << layout.bits_stored) if layout.signed and value >> (layout.bits_stored - 1) else value
