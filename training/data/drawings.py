"""Drawn pictures that are no chest X-rays: a kind and random numbers in, gray pixels out.

Some kinds train the checker network, others (`MEASURED`) only measure it, so that a figure tells how it does on pictures of a
kind that it has not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import cv2
import numpy as np
import numpy.typing as npt

from cxr_edge.phantoms import LABELS, make_phantom

__all__ = ["MEASURED", "TRAINED", "draw"]

Gray = npt.NDArray[np.uint8]
Rng = np.random.Generator

_TEXT = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog",
    "patient",
    "report",
    "findings",
    "impression",
    "normal",
    "heart",
    "size",
    "no",
    "effusion",
]


def draw(kind: str, rng: Rng, *, size_px: int = 256) -> Gray:
    """Return a drawing of a kind out of TRAINED or MEASURED, (size_px, size_px)."""
    image = _KINDS[kind](rng, size_px)
    return np.asarray(255 - image if kind not in _FIXED and rng.random() < 0.3 else image, dtype=np.uint8)


def _noise(rng: Rng, side: int) -> Gray:
    cells = int(rng.choice([side, side // 2, side // 8, 12, 5]))
    coarse = rng.normal(rng.uniform(60, 190), rng.uniform(20, 90), (cells, cells)).astype(np.float32)
    return _grays(cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC))


def _gradient(rng: Rng, side: int) -> Gray:
    y, x = np.mgrid[:side, :side] / side
    angle = rng.uniform(0, 2 * np.pi)
    ramp = np.cos(angle) * x + np.sin(angle) * y
    radial = np.hypot(x - rng.uniform(0, 1), y - rng.uniform(0, 1))
    field = ramp if rng.random() < 0.5 else radial
    return _grays(255 * (field - field.min()) / np.ptp(field) + rng.normal(0, rng.uniform(0, 8), field.shape))


def _text_page(rng: Rng, side: int) -> Gray:
    page = np.full((side, side), rng.integers(180, 256), np.uint8)
    size, y = rng.uniform(0.25, 0.7) * side / 256, 0.05 * side
    while y < side:
        words = " ".join(rng.choice(_TEXT, rng.integers(2, 9)))
        cv2.putText(
            page,
            words,
            (int(0.05 * side), int(y)),
            cv2.FONT_HERSHEY_SIMPLEX,
            size,
            float(rng.uniform(0, 60)),
            1,
            cv2.LINE_AA,
        )
        y += size * rng.uniform(26, 40)
    return _grays(page)


def _windows(rng: Rng, side: int) -> Gray:
    """Return a screenshot: windows with title bars, buttons and text."""
    screen = np.full((side, side), rng.integers(20, 230), np.uint8)
    for _ in range(rng.integers(1, 5)):
        x, y = (rng.uniform(0, 0.6, 2) * side).astype(int)
        w, h = (rng.uniform(0.25, 0.9, 2) * side).astype(int)
        cv2.rectangle(screen, (x, y), (x + w, y + h), float(rng.uniform(150, 255)), -1)
        cv2.rectangle(screen, (x, y), (x + w, y + side // 20), float(rng.uniform(0, 150)), -1)
        for line in range(rng.integers(0, 9)):
            at = (x + side // 40, y + side // 12 + line * side // 18)
            cv2.putText(screen, " ".join(rng.choice(_TEXT, 4)), at, cv2.FONT_HERSHEY_PLAIN, 0.7 * side / 256, 30.0, 1)
    return _grays(screen)


def _shapes(rng: Rng, side: int) -> Gray:
    canvas = np.full((side, side), rng.uniform(0, 255), np.float32)
    for _ in range(rng.integers(1, 14)):
        centre = tuple((rng.uniform(0, 1, 2) * side).astype(int).tolist())
        axes = tuple((rng.uniform(0.03, 0.35, 2) * side).astype(int).tolist())
        value = float(rng.uniform(0, 255))
        if rng.random() < 0.5:
            cv2.ellipse(canvas, centre, axes, rng.uniform(0, 180), 0, 360, value, int(rng.choice([-1, 3])))
        else:
            cv2.rectangle(canvas, centre, (centre[0] + axes[0], centre[1] + axes[1]), value, int(rng.choice([-1, 3])))
    return _grays(cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.3, 8)))


def _stripes(rng: Rng, side: int) -> Gray:
    y, x = np.mgrid[:side, :side] / side
    angle, count = rng.uniform(0, np.pi), rng.uniform(2, 40)
    return _grays(128 + 120 * np.sin(2 * np.pi * count * (np.cos(angle) * x + np.sin(angle) * y)) * rng.uniform(0.3, 1))


def _phantom(rng: Rng, side: int) -> Gray:
    """Return a drawn chest X-ray, which is no patient's."""
    label = LABELS[rng.integers(len(LABELS))]
    return _grays(make_phantom(label, size_px=side, seed=int(rng.integers(1000, 1 << 30))).pixels)


def _bars(rng: Rng, side: int) -> Gray:
    """Return a bar chart or curves, with axes and ticks."""
    chart = np.full((side, side), 255, np.uint8)
    left, base = int(0.12 * side), int(0.88 * side)
    cv2.line(chart, (left, side // 20), (left, base), 0.0, 1)
    cv2.line(chart, (left, base), (int(0.95 * side), base), 0.0, 1)
    heights = rng.uniform(0.05, 0.8, rng.integers(4, 12)) * side
    step = 0.8 * side / len(heights)
    if rng.random() < 0.5:
        for i, high in enumerate(heights):
            x = int(left + (i + 0.2) * step)
            cv2.rectangle(chart, (x, base - int(high)), (x + int(0.6 * step), base), float(rng.uniform(60, 200)), -1)
    else:
        xs = left + np.arange(len(heights)) * step
        cv2.polylines(chart, [np.stack([xs, base - heights], 1).astype(np.int32)], False, 40.0, 2, cv2.LINE_AA)
    for i in range(5):
        cv2.putText(
            chart, str(20 * i), (2, base - int(0.2 * i * 0.8 * side)), cv2.FONT_HERSHEY_PLAIN, 0.6 * side / 256, 0.0, 1
        )
    return _grays(chart)


def _checkerboard(rng: Rng, side: int) -> Gray:
    """Return squares at random, as a code that cameras read, or a board."""
    cells = int(rng.integers(6, 30))
    board = np.indices((cells, cells)).sum(0) % 2 if rng.random() < 0.4 else rng.integers(0, 2, (cells, cells))
    return _grays(cv2.resize(255.0 * board.astype(np.float32), (side, side), interpolation=cv2.INTER_NEAREST))


def _face(rng: Rng, side: int) -> Gray:
    """Return an icon: a face with two dark eyes, a body, or two dark ovals side by side."""
    icon = np.full((side, side), rng.uniform(150, 255), np.float32)
    dark, half = float(rng.uniform(0, 90)), side // 2
    cv2.circle(icon, (half, half), int(rng.uniform(0.3, 0.45) * side), float(rng.uniform(100, 230)), -1)
    axes = (int(rng.uniform(0.05, 0.14) * side), int(rng.uniform(0.05, 0.28) * side))
    for x in (0.34, 0.66):
        cv2.ellipse(icon, (int(x * side), int(0.45 * side)), axes, 0, 0, 360, dark, -1)
    cv2.ellipse(icon, (half, int(0.65 * side)), (side // 5, side // 10), 0, 0, 180, dark, 3)
    return _grays(icon)


def _stars(rng: Rng, side: int) -> Gray:
    """Return bright dots on a dark ground: a sky, or cells."""
    sky = rng.normal(20, 6, (side, side)).astype(np.float32)
    for _ in range(rng.integers(30, 300)):
        centre = tuple((rng.uniform(0, 1, 2) * side).astype(int).tolist())
        cv2.circle(sky, centre, int(rng.integers(1, 7)), float(rng.uniform(80, 255)), -1, cv2.LINE_AA)
    return _grays(cv2.GaussianBlur(sky, (0, 0), rng.uniform(0.3, 1.5)))


def _grays(values: npt.NDArray[np.floating] | npt.NDArray[np.integer] | cv2.typing.MatLike) -> Gray:
    return np.asarray(np.clip(values, 0, 255), dtype=np.uint8)


_KINDS: Mapping[str, Callable[[Rng, int], Gray]] = {
    "noise": _noise,
    "gradient": _gradient,
    "text page": _text_page,
    "screenshot": _windows,
    "shapes": _shapes,
    "stripes": _stripes,
    "phantom": _phantom,
    "chart": _bars,
    "squares": _checkerboard,
    "icon": _face,
    "stars": _stars,
}
_FIXED = ("phantom",)  # not inverted
MEASURED = ("chart", "squares", "icon", "stars")
TRAINED = tuple(kind for kind in _KINDS if kind not in MEASURED)
