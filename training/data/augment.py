"""Augmentation that simulates acquisition differences: a gray image and a lung box in, an augmented canvas out.

The aim is to remove the cues that identify a collection: sharpness, contrast curve, compression, framing, burnt-in letters.
All changes act on 8-bit canvases, before the deployed `normalize`, so that the standardisation is implemented only once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["Augmentation", "Warp", "histogram_cdf", "pa_as_ap"]

Gray = npt.NDArray[np.uint8]
Cdf = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Warp:
    """One drawn geometric transform."""

    matrix: npt.NDArray[np.float64]  # (2, 3), maps output pixels to source pixels, as cv2.WARP_INVERSE_MAP expects
    out_px: int  # side of the output

    def apply(self, image: Gray, *, interpolation: int = cv2.INTER_LINEAR, border: int = cv2.BORDER_CONSTANT) -> Gray:
        """Return the warped image (out_px, out_px)."""
        flags = interpolation | cv2.WARP_INVERSE_MAP
        size = (self.out_px, self.out_px)
        warped: Gray = cv2.warpAffine(image, self.matrix, size, flags=flags, borderMode=border)
        return warped


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Ranges of the geometry, and the probability of each change of the gray values; defaults are for classifiers."""

    shift: float = 0.08  # of the box centre, up to this share of the box side
    zoom: float = 0.15  # of the box side, log-uniform around 1
    stretch: float = 0.10  # of the box's aspect ratio, log-uniform around 1
    rotation_deg: float = 10.0  # in both directions
    # Probabilities from here on.
    flip: float = 0.5
    histogram_swap: float = 0.4  # take over another image's gray-value distribution
    curve: float = 1.0
    shading: float = 0.3
    equalize: float = 0.1
    resample: float = 0.3
    blur: float = 0.2
    sharpen: float = 0.2
    noise: float = 0.3
    jpeg: float = 0.25
    letters: float = 0.15
    erase: float = 0.25

    def warp(self, box: tuple[float, float, float, float], out_px: int, rng: np.random.Generator) -> Warp:
        """Draw a geometry that takes `box` (x0, y0, x1, y1, in source pixels), jittered, to (out_px, out_px)."""
        x0, y0, x1, y1 = box
        zoom, stretch = np.exp(rng.uniform(-1, 1, 2) * np.log1p([self.zoom, self.stretch]))
        width, height = (x1 - x0) * zoom * stretch, (y1 - y0) * zoom / stretch
        dx, dy = rng.uniform(-self.shift, self.shift, 2)
        centre = np.array([(x0 + x1) / 2 + dx * (x1 - x0), (y0 + y1) / 2 + dy * (y1 - y0)])
        a = np.deg2rad(rng.uniform(-self.rotation_deg, self.rotation_deg))
        mirror = -1.0 if rng.random() < self.flip else 1.0
        turn = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
        linear = turn @ np.diag([mirror * width / out_px, height / out_px])
        # Pixel centres are at half-integers of the box's continuous coordinates.
        offset = centre - 0.5 - linear @ np.full(2, (out_px - 1) / 2)
        return Warp(matrix=np.column_stack([linear, offset]), out_px=out_px)

    def gray(self, canvas: Gray, rng: np.random.Generator, *, other: Cdf | None = None) -> Gray:
        """Change the gray values. other: the CDF to take over in a histogram swap (see `histogram_cdf`)."""
        if other is not None and rng.random() < self.histogram_swap:
            canvas = _swap_histogram(canvas, other)
        if rng.random() < self.equalize:
            canvas = cv2.createCLAHE(rng.uniform(1, 4), (4, 4)).apply(canvas)
        for probability, change in (
            (self.curve, _curve),
            (self.shading, _shade),
            (self.resample, _resample),
            (self.blur, _blur),
            (self.sharpen, _sharpen),
            (self.noise, _noise),
            (self.letters, _letters),
            (self.jpeg, _jpeg),
            (self.erase, _erase),
        ):
            if rng.random() < probability:
                canvas = change(canvas, rng)
        return canvas


def pa_as_ap(canvas: Gray, rng: np.random.Generator) -> Gray:
    """Make a PA image look like an AP one, as FLANNEL's text describes: mirror it and add random noise."""
    return _noise(np.ascontiguousarray(canvas[:, ::-1]), rng)


def histogram_cdf(canvas: Gray) -> Cdf:
    """Return the cumulative share of pixels at or below each of the 256 gray values."""
    counts = np.bincount(canvas.ravel(), minlength=256)
    return (np.cumsum(counts) / canvas.size).astype(np.float32)


def _swap_histogram(canvas: Gray, other: Cdf) -> Gray:
    table = np.searchsorted(other, histogram_cdf(canvas)).clip(0, 255).astype(np.uint8)
    return table[canvas]


def _curve(canvas: Gray, rng: np.random.Generator) -> Gray:
    gamma, gain, shift = np.exp(rng.uniform(-0.4, 0.4)), rng.uniform(0.75, 1.25), rng.uniform(-0.1, 0.1)
    ramp = np.linspace(0, 1, 256) ** gamma
    curved: Gray = ((ramp - 0.5) * gain + 0.5 + shift).clip(0, 1).__mul__(255).astype(np.uint8)[canvas]
    return curved


def _shade(canvas: Gray, rng: np.random.Generator) -> Gray:
    field = cv2.resize(
        rng.uniform(0.75, 1.25, (3, 3)).astype(np.float32), canvas.shape[::-1], interpolation=cv2.INTER_CUBIC
    )
    shaded: Gray = cv2.multiply(canvas, field, dtype=cv2.CV_8U)
    return shaded


def _resample(canvas: Gray, rng: np.random.Generator) -> Gray:
    side = int(canvas.shape[0] * rng.uniform(0.45, 0.9))
    small = cv2.resize(canvas, (side, side), interpolation=cv2.INTER_AREA)
    back = cv2.INTER_CUBIC if rng.random() < 0.5 else cv2.INTER_LINEAR
    resampled: Gray = cv2.resize(small, canvas.shape[::-1], interpolation=back)
    return resampled


def _blur(canvas: Gray, rng: np.random.Generator) -> Gray:
    blurred: Gray = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.4, 1.2))
    return blurred


def _sharpen(canvas: Gray, rng: np.random.Generator) -> Gray:
    amount = rng.uniform(0.3, 1.5)
    blurred = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.7, 2.0))
    sharpened: Gray = cv2.addWeighted(canvas, 1 + amount, blurred, -amount, 0)
    return sharpened


def _noise(canvas: Gray, rng: np.random.Generator) -> Gray:
    noise = rng.standard_normal(canvas.shape, dtype=np.float32) * np.float32(rng.uniform(1, 10))
    noisy: Gray = (canvas + noise).clip(0, 255).astype(np.uint8)
    return noisy


def _letters(canvas: Gray, rng: np.random.Generator) -> Gray:
    side = canvas.shape[0]
    text = ("L", "R", "AP", "PA", "SUPINE", "PORTABLE", "ERECT", "10:42")[rng.integers(8)]
    position = (
        int(rng.uniform(-0.02, 0.85) * side),
        int(rng.choice([rng.uniform(0.04, 0.2), rng.uniform(0.85, 1.0)]) * side),
    )
    value, size = int(rng.choice([0, 255, 200])), rng.uniform(0.3, 0.8) * side / 160
    written: Gray = cv2.putText(canvas.copy(), text, position, cv2.FONT_HERSHEY_SIMPLEX, size, value, 1, cv2.LINE_AA)
    return written


def _jpeg(canvas: Gray, rng: np.random.Generator) -> Gray:
    _, coded = cv2.imencode(".jpg", canvas, [cv2.IMWRITE_JPEG_QUALITY, int(rng.uniform(25, 90))])
    return cast(Gray, cv2.imdecode(coded, cv2.IMREAD_GRAYSCALE))  # None only for bytes that are no image


def _erase(canvas: Gray, rng: np.random.Generator) -> Gray:
    side = canvas.shape[0]
    canvas = canvas.copy()
    for _ in range(rng.integers(1, 3)):
        w, h = (rng.uniform(0.08, 0.35, 2) * side).astype(int)
        x, y = int(rng.uniform(-0.1, 0.95) * side), int(rng.uniform(-0.1, 0.95) * side)
        patch = canvas[max(y, 0) : y + h, max(x, 0) : x + w]
        patch[:] = int(rng.choice([canvas.mean(), 0, 255, rng.uniform(0, 255)]))
    return canvas
