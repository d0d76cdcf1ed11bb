"""Search for cropped copies: thumbnails of all images in, pairs of the same X-ray out, though cut, framed or changed in tone.

Pictures of COVID-19 are posted, printed and gathered again and again: cut to the lungs, with a margin, an arrow or a letter,
in another contrast. A hash of the whole image does not find them. Here windows of each image are compared with all images at
8 px, and the most similar few are aligned at 32, 64 and 128 px (Evangelidis and Psarakis 2008, OpenCV's findTransformECC). The
same X-ray agrees nearly everywhere down to the finest structures; two exposures of one patient do not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import cv2
import numpy as np
import numpy.typing as npt

from cxr_edge.records import GrayPixels

__all__ = ["Thumbnail", "cropped_pairs", "thumbnail"]

Thumbnail = npt.NDArray[np.uint8]  # (128, 128)
Field = npt.NDArray[np.float32]

_SIDE = 128
_COARSE = 8  # px of the first comparison
# Shares that a window leaves out at the two ends of an axis: a copy has 72 % of the width and height, or more.
_TRIMS = tuple((a, b) for a, b in product((0.0, 0.07, 0.14, 0.21, 0.28), repeat=2) if a + b < 0.29)
_LEAST_COARSE = 0.8  # correlation at 8 px
_MOST_PARTNERS = 4  # images that are aligned with an image's windows
_BLOCK = 512
# Side, blur of the local contrast and least correlation of each step of the alignment.
_STEPS = ((32, 2.0, 0.85), (64, 2.0, 0.8), (_SIDE, 1.5, 0.7))
_PLACE = 17  # px of 128
# Least correlation of three quarters of the places. On 8,589 images of all collections copies have 0.85 or more, two exposures
# of one child 0.73 or less, images of different patients 0.65 or less; training.phantoms, which share one anatomy, 0.81 or less.
_LEAST_PLACES = 0.84
_LEAST_SHARE = 0.2  # of the first image, in places with structure in both


def thumbnail(pixels: GrayPixels) -> Thumbnail | None:
    """Return decoded gray pixels (height, width) as (128, 128), of full range; None if a side has fewer than 128 px.

    Smaller images show too little to tell two patients apart.
    """
    if min(pixels.shape) < _SIDE:
        return None
    small = cv2.resize(pixels, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    low, high = small.min(), small.max()
    full: Thumbnail = ((small - low) * (255 / max(high - low, 1))).astype(np.uint8)
    return full


def cropped_pairs(thumbnails: Sequence[Thumbnail | None]) -> list[tuple[int, int]]:
    """Return index pairs (i < j) of the same X-ray; an image without a thumbnail is in none."""
    places = [i for i, small in enumerate(thumbnails) if small is not None]
    known = [small for small in thumbnails if small is not None]
    same = ((i, j) for i, j, warp in _similar(known) if _is_same(known[j], known[i], warp))
    return sorted({(places[min(pair)], places[max(pair)]) for pair in same})


def _similar(thumbnails: Sequence[Thumbnail]) -> Iterator[tuple[int, int, Field]]:
    """Yield an image, another that is similar to a window of it, and the affine map (2, 3) from the other to the window.

    Coordinates of the map are shares of the side. Blocks bound the memory; time grows with the square of the number of images.
    """
    if len(thumbnails) < 2:
        return
    partners = min(_MOST_PARTNERS, len(thumbnails) - 1)
    whole = np.stack([_windows(small, _WHOLE)[0] for small in thumbnails])
    for start in range(0, len(thumbnails), _BLOCK):
        windows = np.stack([_windows(small, _SAMPLERS) for small in thumbnails[start : start + _BLOCK]])
        best = np.full((len(windows), len(whole)), -1, np.float32)
        correlation = np.empty_like(best)
        for k in range(windows.shape[1]):
            np.matmul(windows[:, k], whole.T, out=correlation)
            np.maximum(best, correlation, out=best)
        best[np.arange(len(best)), start + np.arange(len(best))] = -1
        nearest = np.argpartition(-best, partners - 1, axis=1)[:, :partners]
        for i, j in product(range(len(best)), range(partners)):
            other = int(nearest[i, j])
            if best[i, other] >= _LEAST_COARSE:
                yield start + i, other, _map_to_window(int(np.argmax(windows[i] @ whole[other])))


def _sampler(low: float, high: float) -> Field:
    """Return the weights (8, 128) that average 128 px, without the shares `low` and `high` at the ends, to 8 px."""
    edges = np.linspace(low * _SIDE, (1 - high) * _SIDE, _COARSE + 1)[:, None]
    px = np.arange(_SIDE)
    overlap = np.minimum(edges[1:], px + 1) - np.maximum(edges[:-1], px)
    return np.asarray(np.maximum(overlap, 0) / (edges[1:] - edges[:-1]), np.float32)


_WHOLE = np.stack([_sampler(0, 0)])
_SAMPLERS = np.stack([_sampler(*trim) for trim in _TRIMS])
_distance = np.subtract.outer(np.arange(_COARSE), np.arange(_COARSE))
_BLUR = np.exp(-(_distance**2) / (2 * 1.5**2)).astype(np.float32)
_BLUR /= _BLUR.sum(axis=1, keepdims=True)


def _windows(small: Thumbnail, samplers: Field) -> Field:
    """Return the local contrast at 8 px (windows, 64) of all windows, rows first, each of mean 0 and length 1."""
    values = samplers[:, None] @ small.astype(np.float32) @ samplers.transpose(0, 2, 1)[None]  # rows, columns, 8, 8
    values = values - _BLUR @ values @ _BLUR.T
    values = values / (np.sqrt(_BLUR @ (values * values) @ _BLUR.T) + 4)
    flat = values.reshape(-1, _COARSE * _COARSE)
    flat = flat - flat.mean(axis=1, keepdims=True)
    return np.asarray(flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6), np.float32)


def _map_to_window(k: int) -> Field:
    """Return the affine map (2, 3) from an image to window `k` of another; coordinates are shares of the side."""
    (top, bottom), (left, right) = _TRIMS[k // len(_TRIMS)], _TRIMS[k % len(_TRIMS)]
    return np.array([[1 - left - right, 0, left], [0, 1 - top - bottom, top]], np.float32)


def _contrast(small: Thumbnail, side_px: int, blur_px: float) -> Field:
    """Return the deviation from the surroundings, divided by its size there: gamma, window and exposure hardly matter."""
    values = cv2.resize(small, (side_px, side_px), interpolation=cv2.INTER_AREA).astype(np.float32)
    values = values - cv2.GaussianBlur(values, (0, 0), blur_px)
    size = np.sqrt(cv2.GaussianBlur(values * values, (0, 0), 2 * blur_px))
    return np.asarray(values / (size + 4), np.float32)


def _is_same(first: Thumbnail, second: Thumbnail, warp: Field) -> bool:
    """Return whether the second image, aligned with the first, agrees with it nearly everywhere.

    warp: first guess of the map (2, 3) from the first to the second, in shares of the side.
    """
    for side_px, blur_px, least in _STEPS:
        a, b = _contrast(first, side_px, blur_px), _contrast(second, side_px, blur_px)
        correlation, warp = _align(a, b, warp)
        if correlation < least:
            return False
    back = np.asarray(cv2.invertAffineTransform(warp), np.float32)
    return any(
        _agreement(*way) >= _LEAST_PLACES for way in ((a, b, warp), (b, a, back))
    )  # one may be found in one way only


_STOP = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 1e-3)


def _align(first: Field, second: Field, warp: Field) -> tuple[float, Field]:
    """Return the correlation after alignment, and `warp` as it is then."""
    try:
        px = _in_px(warp, len(first))
        correlation, found = cv2.findTransformECC(first, second, px, cv2.MOTION_AFFINE, _STOP, None, 3)
    except cv2.error:  # the images have nothing in common
        return -1.0, warp
    return float(correlation), found / _in_px(np.ones((2, 3), np.float32), len(first))


def _in_px(warp: Field, side_px: int) -> Field:
    return warp * np.array([1, 1, side_px], np.float32)


def _agreement(first: Field, second: Field, warp: Field) -> float:
    """Return the correlation that three quarters of the places reach where the images overlap; -1 if they hardly do.

    warp: the second's alignment with the first, which is refined.
    """
    _, warp = _align(first, second, warp)
    size, warp = first.shape[::-1], _in_px(warp, len(first))
    second = cv2.warpAffine(second, warp, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    inside = cv2.warpAffine(np.ones_like(first), warp, size, flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP)

    def mean(values: Field) -> Field:
        return np.asarray(cv2.boxFilter(values, -1, (_PLACE, _PLACE)))

    mean_a, mean_b = mean(first), mean(second)
    spread_a, spread_b = mean(first * first) - mean_a**2, mean(second * second) - mean_b**2
    correlation = (mean(first * second) - mean_a * mean_b) / np.sqrt(np.maximum(spread_a * spread_b, 0) + 1e-3)
    # A black margin and what a copy clips to white are no evidence.
    places = (mean(inside) > 0.999) & (np.minimum(spread_a, spread_b) > 0.1)
    return float(np.quantile(correlation[places], 0.25)) if places.mean() > _LEAST_SHARE else -1.0
