"""Changed scanners: an image comes in, the same image as another machine or another export would give it comes out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import cv2
import numpy as np
import numpy.typing as npt

from cxr_edge.records import GrayPixels, Image

__all__ = ["CHANGES", "change"]

Floats = npt.NDArray[np.float32]

_BORDER = 0.05  # of the shorter side


def _gamma(power: float) -> Callable[[Floats], Floats]:
    return lambda gray: np.power(gray, np.float32(power))


def _blur(gray: Floats) -> Floats:
    return np.asarray(cv2.GaussianBlur(gray, (0, 0), 0.004 * min(gray.shape)), dtype=np.float32)


def _smaller(gray: Floats) -> Floats:
    return np.asarray(cv2.resize(gray, None, fx=0.75, fy=0.75, interpolation=cv2.INTER_AREA), dtype=np.float32)


def _noise(gray: Floats) -> Floats:
    draws = np.random.default_rng(gray.size)
    return np.asarray(gray + draws.normal(0, 0.02, gray.shape), dtype=np.float32)


def _jpeg(gray: Floats) -> Floats:
    _, data = cv2.imencode(".jpg", np.round(255 * gray).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 30])
    decoded = np.asarray(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE))
    return np.asarray(decoded / 255, dtype=np.float32)


def _white_border(gray: Floats) -> Floats:
    width = max(1, round(_BORDER * min(gray.shape)))
    inner = gray[width:-width, width:-width]
    bordered = cv2.copyMakeBorder(inner, width, width, width, width, cv2.BORDER_CONSTANT, value=1.0)
    return np.asarray(bordered, dtype=np.float32)


# Name in tables -> gray values 0..1 to gray values, which are cut to 0..1 afterwards.
CHANGES: Mapping[str, Callable[[Floats], Floats]] = {
    "gamma 0.8": _gamma(0.8),
    "gamma 1.25": _gamma(1.25),
    "gamma 1.6": _gamma(1.6),
    "blur, sigma 0.4 % of the side": _blur,
    "three quarters of the pixels a side": _smaller,
    "noise, 2 % of the scale": _noise,
    "JPEG of quality 30": _jpeg,
    "white borders, 5 % of the side": _white_border,
}


def change(image: Image, name: str) -> Image:
    """Return the image as the changed scanner gives it. name: one of CHANGES."""
    full = float(np.iinfo(image.pixels.dtype).max)
    changed = np.clip(CHANGES[name](image.pixels.astype(np.float32) / np.float32(full)), 0, 1)
    pixels: GrayPixels = np.ascontiguousarray(np.round(full * changed).astype(image.pixels.dtype))
    return replace(image, pixels=pixels)
