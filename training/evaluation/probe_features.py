"""Cheap features of images for the shortcut probe: files, views and gray pixels in, rows of numbers by family out.

No feature describes the lungs: what predicts a label from these alone is a shortcut that a network can take as well. The
families of `PIXELS` are computed on any gray image, published or canvas; the others describe the file and what is stated of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt
from scipy.fft import rfft2

from cxr_edge.decoding.formats import FORMATS, identify_format
from cxr_edge.records import GrayPixels
from training.data.augment import Gray
from training.data.canvases import as_8_bit
from training.data.dataset import Sample, read_all
from training.data.findings import FRONTAL_VIEWS, projection
from training.data.records import Record

__all__ = [
    "FAMILIES",
    "PIXELS",
    "Families",
    "at_common_size",
    "canvas_features",
    "file_features",
    "jpeg_quality",
    "pixel_features",
    "published_features",
    "view_features",
]

Floats = npt.NDArray[np.float64]
Families = Mapping[str, Floats]  # family -> (F,) of an image, or (N, F) of N images

# Family -> its features, for the page.
FAMILIES: Mapping[str, str] = {
    "size": "width, height, aspect ratio and logarithm of the area, in pixels",
    "compression": "JPEG quality estimated from the quantization table (0 without one), file format, suffix, bits per pixel",
    "view": "AP, PA or unknown, as the collection states it; canvases do not change it",
    "sharpness": "shares of the spectral energy above 1/8, 1/4, 1/2 and 3/4 of half the sampling rate, and the variance of the "
    "Laplacian as a share of the image's, both less towards the border; of published images at a long side of 256 px",
    "border": "mean and deviation of the outer 1/32 of each side; shares of black and of white pixels in it",
    "corners": "share of white pixels and of edges in each corner, a sixth of the sides: burnt-in letters",
    "histogram": "16 quantiles of the gray values",
    "histogram, standardised": "the same, less the image's mean and divided by its deviation, as members see it",
}
PIXELS = ("sharpness", "border", "corners", "histogram", "histogram, standardised")

_COMMON_PX = 256  # long side at which sharpness and edges of published images are measured
_RADII = (1 / 8, 1 / 4, 1 / 2, 3 / 4)  # of the highest frequency of a row or column
_BORDER, _CORNER = 32, 6  # parts of a side
_BLACK, _WHITE = 5, 250  # gray values from which on a pixel counts as black or white: JPEG moves them by a few
_EDGE = 16  # gray values per pixel
_QUANTILES = (np.arange(16) + 0.5) / 16
_LUMINANCE_SUM = 3688  # of libjpeg's luminance table at quality 50 (ITU T.81, table K.1)


def published_features(samples: Sequence[Sample], *, threads: int) -> dict[str, Floats]:
    """Return the features (N, F) of images as published, by family. Raises InputError that names all unreadable images."""

    def one(record: Record, image: GrayPixels) -> dict[str, Floats]:
        height, width = image.shape
        gray = as_8_bit(image)
        of_file = file_features(record.path.read_bytes(), record.path.suffix, width_px=width, height_px=height)
        return {**of_file, **view_features(record.view), **pixel_features(gray, at_common_size(gray))}

    return _stacked(read_all([s.record for s in samples], threads, one, title="published images"))


def canvas_features(canvases: Iterable[Gray], views: Iterable[str]) -> dict[str, Floats]:
    """Return the features (N, F) of canvases (S, S), by family. views: of the images, as stated."""

    def one(canvas: Gray, view: str) -> dict[str, Floats]:
        height, width = canvas.shape
        of_file = file_features(b"", "", width_px=width, height_px=height)
        return {**of_file, **view_features(view), **pixel_features(canvas, canvas)}

    return _stacked(one(canvas, view) for canvas, view in zip(canvases, views, strict=True))


def _stacked(rows: Iterable[Mapping[str, Floats]]) -> dict[str, Floats]:
    rows = list(rows)
    return {family: np.stack([row[family] for row in rows]) for family in FAMILIES}


def file_features(data: bytes, suffix: str, *, width_px: int, height_px: int) -> dict[str, Floats]:
    """Return size and compression of a file. data: its content, empty for an image that is no file."""
    area = width_px * height_px
    names = [row.name for row in FORMATS]
    code = 1 + names.index(identify_format(data).name) if data else 0
    ending = int.from_bytes(suffix.lower().encode()[:6], "big")  # a number that no other suffix has
    return {
        "size": np.array([width_px, height_px, width_px / height_px, np.log(area)]),
        "compression": np.array([jpeg_quality(data), code, ending, 8 * len(data) / area]),
    }


def view_features(view: str) -> dict[str, Floats]:
    """Return the number of the projection; -1 for an unknown one."""
    name = projection(view)
    return {"view": np.array([float(FRONTAL_VIEWS.index(name)) if name in FRONTAL_VIEWS else -1.0])}


def jpeg_quality(data: bytes) -> float:
    """Estimate the quality, 1 to 100 on libjpeg's scale, of a JPEG file; 0 for data without a luminance table.

    It is the quality at which libjpeg's own table has the same sum: other encoders' tables differ in shape. Too high below 24,
    where entries end at 255.
    """
    table = _luminance_table(data)
    if table is None:
        return 0.0
    percent = max(100 * float(table.sum()) / _LUMINANCE_SUM, 1.0)
    return 100 - percent / 2 if percent <= 100 else 5000 / percent


def _luminance_table(data: bytes) -> npt.NDArray[np.integer] | None:
    """Return quantization table 0 (64,) from the segments before the first scan (ITU T.81, B.2.4.1)."""
    at = 2 if data.startswith(b"\xff\xd8") else len(data)
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        if data[at + 1] == 0xFF:  # a fill byte
            at += 1
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at + 1] == 0xDB and (table := _table_0(data[at + 4 : at + 2 + length])) is not None:
            return table
        at += 2 + max(length, 2)
    return None


def _table_0(body: bytes) -> npt.NDArray[np.integer] | None:
    """Return table 0 of a DQT segment, or None if it has other tables only, or is cut."""
    while body:
        wide, number = divmod(body[0], 16)
        size = 128 if wide else 64
        if number == 0 and len(body) > size:
            return np.frombuffer(body[1 : 1 + size], ">u2" if wide else "u1")
        body = body[1 + size :]
    return None


def at_common_size(image: Gray) -> Gray:
    """Return an image with a long side of 256 px, at least 8 px wide and high."""
    scale = _COMMON_PX / max(image.shape)
    height, width = (max(8, round(side * scale)) for side in image.shape)
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cast(Gray, cv2.resize(image, (width, height), interpolation=method))


def pixel_features(image: Gray, small: Gray) -> dict[str, Floats]:
    """Return the families of `PIXELS` of one image. small: the image at the size at which frequencies are compared."""
    return {
        "sharpness": _sharpness(small),
        "border": _border(image),
        "corners": np.concatenate([_shares(image >= _WHITE), _shares(_edges(small))]),
        **_histograms(image),
    }


def _sharpness(image: Gray) -> Floats:
    window, bands = _spectrum_bands(*image.shape)
    centred = (image - image.mean(dtype=np.float32)).astype(np.float32)
    spectrum = rfft2(centred * window)
    power = spectrum.real**2 + spectrum.imag**2
    energy = np.bincount(bands.ravel(), power.ravel(), len(_RADII) + 1)
    above = np.cumsum(energy[::-1])[-2::-1] / max(float(energy.sum()), 1e-9)
    laplacian = (cv2.Laplacian(image, cv2.CV_32F) * window).var() / max(float(centred.var()), 1.0)
    return np.append(above, laplacian)


@lru_cache(maxsize=512)
def _spectrum_bands(height: int, width: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return Hann's window (height, width), by which borders and corners hardly count, and the band of each frequency."""
    window = np.outer(np.hanning(height), np.hanning(width)).astype(np.float32)
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]) / 0.5
    return window, np.digitize(radius, _RADII)


def _border(image: Gray) -> Floats:
    dy, dx = (max(1, side // _BORDER) for side in image.shape)
    strips = (image[:dy], image[-dy:], image[:, :dx], image[:, -dx:])
    every = np.concatenate([strip.ravel() for strip in strips])
    values = [value for strip in strips for value in (strip.mean(), strip.std())]
    return np.array([*values, (every <= _BLACK).mean(), (every >= _WHITE).mean()])


def _shares(mask: npt.NDArray[np.bool_]) -> Floats:
    """Return the share of a mask in each corner (4,)."""
    dy, dx = (max(1, side // _CORNER) for side in mask.shape)
    return np.array([mask[rows, columns].mean() for rows in _ends(dy) for columns in _ends(dx)])


def _ends(length: int) -> tuple[slice, slice]:
    return slice(length), slice(-length, None)


def _edges(image: Gray) -> npt.NDArray[np.bool_]:
    dx, dy = (g.astype(np.float32) / 8 for g in cv2.spatialGradient(image))  # 8: the sum of Sobel's weights
    edges: npt.NDArray[np.bool_] = np.hypot(dx, dy) >= _EDGE
    return edges


def _histograms(image: Gray) -> dict[str, Floats]:
    counts = cv2.calcHist([image], [0], None, [256], [0, 256]).ravel().astype(np.float64)
    values = np.arange(256)
    mean = (counts @ values) / counts.sum()
    deviation = np.sqrt((counts @ (values - mean) ** 2) / counts.sum())
    quantiles = np.searchsorted(np.cumsum(counts) / counts.sum(), _QUANTILES).astype(np.float64)
    return {"histogram": quantiles, "histogram, standardised": (quantiles - mean) / max(deviation, 1.0)}
