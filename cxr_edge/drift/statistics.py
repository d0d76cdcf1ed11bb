"""Statistics of one exam: a screening and its image come in, numbers by name come out.

All of them are there already, or cost microseconds: the gray values are read on a coarse grid. They are rounded, so that
differences that mean nothing (a probability of 0.001 or 0.002) are ties. docs/drift.md documents the names, which are stable.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import floor, isfinite, log10
from types import MappingProxyType

import numpy as np

from cxr_edge.records import GrayPixels, Image, Screening
from cxr_edge.specs.checks import CODES

__all__ = ["FORMATS", "GROUPS", "exam_statistics", "group_of", "output_statistics", "shown", "statistic_names"]

# First part of a name -> what the statistics of that kind tell.
GROUPS: Mapping[str, str] = MappingProxyType({
    "output": "the networks' outputs",
    "check": "the checker's scores",
    "box": "the lung box",
    "image": "how the images are made",
})  # fmt: skip

FORMATS = (
    "jpeg",
    "png",
    "dicom",
    "tiff",
    "webp",
    "bmp",
    "array",
)  # `image.format` is the position; others: the number of them

_GRID = 32  # rows and columns that gray values are read at
_DARK, _BRIGHT = 0.04, 0.96  # parts of the gray scale that borders, letters and saturated pixels are beyond
_DIGITS = 3  # significant ones


def statistic_names(labels: Iterable[str], scores: Iterable[str]) -> tuple[str, ...]:
    """Return the names of a bundle's statistics. scores: of its checker."""
    return (
        *(f"output.{label}" for label in labels),
        "output.top",
        *(f"check.{score}" for score in scores),
        "check.refused",
        *("box.share", "box.aspect", "box.x", "box.y"),
        *("image.width", "image.height", "image.aspect", "image.bits", "image.format"),
        *("image.mean", "image.contrast", "image.detail", "image.dark", "image.bright"),
    )


def exam_statistics(screening: Screening, image: Image) -> dict[str, float]:
    """Return the statistics by name. image: the one that was screened.

    A refused image counts as any other: `check.refused` is 1 for it, also where it was answered all the same.
    """
    found = output_statistics(screening.labels, screening.probabilities)
    found |= {f"check.{name}": _rounded(score) for name, score in screening.checks.items()}
    found["check.refused"] = float(any(flag.code in CODES for flag in (screening.reason, *screening.flags) if flag))
    return found | _box(screening) | _acquisition(image) | _grays(image.pixels)


def output_statistics(labels: Iterable[str], probabilities: Iterable[float]) -> dict[str, float]:
    """Return the statistics of the outputs: the probabilities of the labels, in their order."""
    found = {f"output.{label}": round(p, 2) for label, p in zip(labels, probabilities, strict=True)}
    return {**found, "output.top": max(found.values())}


def group_of(name: str) -> str:
    """Return the first part of a statistic's name, a key of GROUPS."""
    return name.partition(".")[0]


def shown(name: str, value: float) -> str:
    """Format a value for people: a file format by its name, numbers with three digits."""
    if name == "image.format":
        position = round(value)
        return FORMATS[position] if position < len(FORMATS) else "another format"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _box(screening: Screening) -> dict[str, float]:
    x0, y0, x1, y1 = screening.roi.as_tuple()
    width, height = screening.width_px, screening.height_px
    return {
        "box.share": round((x1 - x0) * (y1 - y0) / (width * height), 3),
        "box.aspect": round((x1 - x0) / (y1 - y0), 2),
        "box.x": round((x0 + x1) / (2 * width), 3),
        "box.y": round((y0 + y1) / (2 * height), 3),
    }


def _acquisition(image: Image) -> dict[str, float]:
    position = FORMATS.index(image.format) if image.format in FORMATS else len(FORMATS)
    return {
        "image.width": float(image.width_px),
        "image.height": float(image.height_px),
        "image.aspect": round(image.width_px / image.height_px, 2),
        "image.bits": float(image.stored_bits),
        "image.format": float(position),
    }


def _grays(pixels: GrayPixels) -> dict[str, float]:
    """Return statistics of the gray values on the grid, as parts of the full scale.

    detail: mean difference of a pixel to its right neighbour, as a part of the contrast: blur lowers it, noise raises it.
    """
    full = np.iinfo(pixels.dtype).max
    step_y, step_x = max(1, pixels.shape[0] // _GRID), max(1, pixels.shape[1] // _GRID)
    top, left = step_y // 2, step_x // 2
    grid = pixels[top::step_y, left::step_x]
    right = pixels[top::step_y, left + 1 :: step_x].astype(np.int32)
    differences = float(np.abs(right - grid[:, : right.shape[1]]).sum()) / max(1, right.size)
    ordered = np.sort(grid, axis=None)
    last = ordered.size - 1
    contrast = int(ordered[round(0.95 * last)]) - int(ordered[round(0.05 * last)])
    dark, not_bright = ordered.searchsorted(np.array((_DARK * full, _BRIGHT * full), dtype=ordered.dtype))
    return {
        "image.mean": round(int(ordered.sum()) / (full * ordered.size), 3),
        "image.contrast": round(contrast / full, 3),
        "image.detail": _rounded(differences / contrast) if contrast else 0.0,
        "image.dark": round(int(dark) / ordered.size, 3),
        "image.bright": round(1 - int(not_bright) / ordered.size, 3),
    }


def _rounded(value: float) -> float:
    """Round to three significant digits."""
    if value == 0 or not isfinite(value):
        return 0.0 if value == 0 else value
    return round(value, _DIGITS - 1 - floor(log10(abs(value))))
