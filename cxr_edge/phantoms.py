"""Synthetic chest X-rays for tests, for the demo and as known answers of bundles: a label, size and seed in, pixels out.

The image has the parts of a chest X-ray (lungs, heart, ribs, spine, clavicles, diaphragm, vessels, noise), opacities
depending on the label, and a lung mask. Phantoms test the pipeline; predictions of a model trained on patients are
meaningless for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["LABELS", "Phantom", "make_phantom"]

LABELS = ("normal", "bacterial", "viral", "covid-19")

_GRID = 384  # the anatomy is drawn at this size and enlarged; grain is added at full size

Field = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Phantom:
    """A drawn X-ray."""

    pixels: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]  # (H, W), full range, black is low
    lung_mask: npt.NDArray[np.bool_]  # (H, W)
    label: str
    seed: int


@dataclass(frozen=True, kw_only=True)
class _Chest:
    """Geometry shared by all parts, as shares of the image side."""

    x: Field  # (1, W), with y the coordinates of the grid
    y: Field  # (H, 1)
    middle: float
    top: float
    base: float
    width: float
    rng: np.random.Generator


def make_phantom(label: str, *, size_px: int | tuple[int, int] = 512, seed: int = 0, bits: int = 8) -> Phantom:
    """Draw a phantom, the same one for the same arguments. size_px: side, or (height, width). bits: 8 or 16.

    Raises ValueError for an unknown label or another number of bits.
    """
    if label not in LABELS or bits not in (8, 16):
        raise ValueError(f"a phantom has one of the labels {LABELS} and 8 or 16 bits, got {label!r} and {bits}")
    height, width = (size_px, size_px) if isinstance(size_px, int) else size_px
    chest = _chest(np.random.default_rng([seed, LABELS.index(label)]))
    heart = _heart(chest)
    lungs = _lungs(chest, heart)
    gray = _anatomy(chest, lungs, heart) + _OPACITIES[label](chest, lungs)
    gray = cv2.resize(gray, (width, height), interpolation=cv2.INTER_CUBIC)
    mask = cv2.resize(lungs, (width, height), interpolation=cv2.INTER_LINEAR) >= 0.5
    return Phantom(pixels=_exposed(gray, chest.rng, bits), lung_mask=mask, label=label, seed=seed)


def _chest(rng: np.random.Generator) -> _Chest:
    along = np.arange(_GRID, dtype=np.float32) / np.float32(_GRID)
    return _Chest(
        x=along[None],
        y=along[:, None],
        middle=0.5 + rng.uniform(-0.02, 0.02),
        top=rng.uniform(0.12, 0.17),
        base=rng.uniform(0.74, 0.82),
        width=rng.uniform(0.29, 0.34),
        rng=rng,
    )


def _soft(mask: npt.NDArray[np.bool_] | Field, sigma: float) -> Field:
    field = np.broadcast_to(mask, (_GRID, _GRID)).astype(np.float32)
    return np.asarray(cv2.GaussianBlur(field, (0, 0), sigma * _GRID), dtype=np.float32)


def _ellipse(c: _Chest, x: float, y: float, rx: float, ry: float, turn: float = 0.0) -> npt.NDArray[np.bool_]:
    dx, dy = c.x - x, c.y - y
    u, v = dx * np.cos(turn) + dy * np.sin(turn), dy * np.cos(turn) - dx * np.sin(turn)
    return np.asarray((u / rx) ** 2 + (v / ry) ** 2 <= 1)


def _lung(c: _Chest, side: int) -> npt.NDArray[np.bool_]:
    """Return one lung field: a bullet shape on a dome. side: -1 the left of the image, +1 the right."""
    base = c.base - (0.03 if side < 0 else 0.0)  # the liver lifts the patient's right side
    u = np.clip((base - c.y) / (base - c.top), 0, 1)
    inner = 0.055 + 0.02 * (1 - u)
    outer = c.width * np.sqrt(np.clip(1 - u**2.6, 0, 1)) + 0.02
    across = side * (c.x - c.middle)
    t = np.clip((across - inner) / (c.width - inner), 0, 1)
    dome = base - 0.075 * np.sin(np.pi * np.clip(t * 0.9 + 0.12, 0, 1))
    return np.asarray((across > inner) & (across < outer) & (c.y > c.top) & (c.y < dome + 0.05 * t**3))


def _heart(c: _Chest) -> npt.NDArray[np.bool_]:
    apex = _ellipse(c, c.middle + 0.065, c.base - 0.11, 0.165, 0.105, turn=0.55)
    atrium = _ellipse(c, c.middle - 0.02, c.base - 0.15, 0.075, 0.13)
    aorta = _ellipse(c, c.middle + 0.045, c.top + 0.2, 0.042, 0.05)
    return apex | atrium | aorta


def _lungs(c: _Chest, heart: npt.NDArray[np.bool_]) -> Field:
    return np.asarray((_lung(c, -1) | _lung(c, 1)) & ~heart, dtype=np.float32)


def _anatomy(c: _Chest, lungs: Field, heart: npt.NDArray[np.bool_]) -> Field:
    """Return the parts of a healthy chest, from 0 (black) to about 1 (white)."""
    body = _body(c)
    gray = 0.62 * body
    gray -= 0.40 * _soft(lungs, 0.008)
    gray += 0.13 * _soft(heart, 0.012) + 0.13 * _soft(np.abs(c.x - c.middle) < 0.045, 0.012) * body
    gray += 0.14 * _soft(c.y > c.base + 0.02, 0.03) * body
    gray -= 0.10 * _soft((np.abs(c.x - c.middle) < 0.016) & (c.y < c.top + 0.2), 0.008)
    gray += _spine(c) + _ribs(c) + _clavicles(c) + _vessels(c, lungs)
    return np.asarray(gray, dtype=np.float32)


def _body(c: _Chest) -> Field:
    trunk = (np.abs(c.x - c.middle) < 0.41 + 0.05 * np.abs(c.y - 0.6)) & (c.y > 0.3)
    shoulders = _ellipse(c, c.middle, 0.42, 0.62, 0.33)
    neck = (np.abs(c.x - c.middle) < 0.13) & (c.y < 0.3)
    thick = 1.0 - 0.25 * np.abs(c.x - c.middle) / 0.5
    return np.asarray(_soft(trunk | shoulders | neck, 0.02) * thick, dtype=np.float32)


def _spine(c: _Chest) -> Field:
    column = _soft(np.abs(c.x - c.middle) < 0.032, 0.006)
    return np.asarray(0.05 * column * (0.6 + 0.4 * np.sign(np.sin(2 * np.pi * c.y / 0.062))), dtype=np.float32)


def _lines(curves: Sequence[npt.NDArray[np.float64]], thickness: float) -> Field:
    drawn = np.zeros((_GRID, _GRID), np.float32)
    for curve in curves:
        points = np.round(curve * _GRID * 16).astype(np.int32).reshape(-1, 1, 2)
        cv2.polylines(drawn, [points], False, 1.0, max(1, round(thickness * _GRID)), cv2.LINE_AA, 4)
    return drawn


def _ribs(c: _Chest) -> Field:
    """Return nine posterior ribs per side, descending outwards, and six fainter anterior ribs, ascending to the middle."""
    t = np.linspace(0, 1, 40)
    backs, fronts = [], []
    for side in (-1, 1):
        for k in range(9):
            y = c.top - 0.01 + 0.072 * k
            reach = c.width * min(1.0, 0.62 + 0.11 * k) + 0.03
            backs.append(
                np.stack([c.middle + side * (0.03 + reach * t), y - 0.03 * np.sin(np.pi * t) + 0.085 * t**1.5], 1)
            )
            if 1 <= k <= 6:
                x = c.middle + side * (0.1 + (c.width - 0.08) * t)
                fronts.append(np.stack([x, y + 0.16 - 0.10 * t + 0.02 * np.sin(np.pi * t)], 1))
    edge = _lines(backs, 0.021) - 0.45 * _lines(backs, 0.012)
    cage = _soft(_ellipse(c, c.middle, (c.top + c.base) / 2 + 0.04, c.width + 0.045, 0.42), 0.006)
    return np.asarray(cage * (0.085 * _soft(edge, 0.002) + 0.04 * _soft(_lines(fronts, 0.02), 0.003)), dtype=np.float32)


def _clavicles(c: _Chest) -> Field:
    t = np.linspace(0, 1, 30)
    curves = [
        np.stack([c.middle + side * (0.05 + 0.34 * t), c.top + 0.075 - 0.075 * t + 0.018 * np.sin(2 * np.pi * t)], 1)
        for side in (-1, 1)
    ]
    return np.asarray(0.10 * _soft(_lines(curves, 0.024), 0.003), dtype=np.float32)


def _vessels(c: _Chest, lungs: Field) -> Field:
    """Return vessels: branches from each hilum that become thinner."""
    drawn = np.zeros((_GRID, _GRID), np.float32)
    for side in (-1, 1):
        for _ in range(26):
            angle = c.rng.uniform(-1.35, 1.35)
            start = np.array([c.middle + side * 0.075, (c.top + c.base) / 2 + c.rng.uniform(-0.03, 0.05)])
            step = np.array([side * np.cos(angle), np.sin(angle)]) * 0.016
            turns = c.rng.normal(0, 0.003, (int(c.rng.integers(8, 18)), 2))
            curve = start + np.cumsum(step + turns, axis=0)
            drawn = np.maximum(drawn, _lines([curve[:7]], 0.007))
            drawn = np.maximum(drawn, 0.6 * _lines([curve], 0.003))
    return np.asarray(0.11 * _soft(drawn, 0.0022) * lungs, dtype=np.float32)


def _clouds(rng: np.random.Generator, cells: int) -> Field:
    """Return smooth noise from 0 to 1."""
    coarse = rng.random((cells, cells)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (_GRID, _GRID), interpolation=cv2.INTER_CUBIC).clip(0, 1), dtype=np.float32)


def _nothing(c: _Chest, lungs: Field) -> Field:
    return np.zeros_like(lungs)


def _consolidation(c: _Chest, lungs: Field) -> Field:
    """Return a dense lobe with a sharp lower edge: bacterial."""
    side = int(c.rng.choice([-1, 1]))
    y = c.rng.uniform(c.top + 0.2, c.base - 0.12)
    lobe = _soft(_ellipse(c, c.middle + side * c.rng.uniform(0.15, 0.22), y, 0.13, 0.1), 0.02)
    return np.asarray(0.34 * lobe * (0.7 + 0.3 * _clouds(c.rng, 12)) * _soft(lungs, 0.004), dtype=np.float32)


def _streaks(c: _Chest, lungs: Field) -> Field:
    """Return a fine net in both lungs, denser at the hila: viral."""
    net = np.abs(_clouds(c.rng, 48) - 0.5) < 0.09
    near = np.exp(-((np.abs(c.x - c.middle) - 0.1) ** 2) / 0.02)
    return np.asarray(0.15 * _soft(net, 0.003) * (0.25 + 0.75 * near) * lungs, dtype=np.float32)


def _ground_glass(c: _Chest, lungs: Field) -> Field:
    """Return hazy patches near the outer edge of both lungs, mostly low: COVID-19."""
    haze = np.zeros_like(lungs)
    for side in (-1, 1):
        for _ in range(int(c.rng.integers(2, 4))):
            x, y = c.middle + side * c.rng.uniform(0.2, 0.28), c.rng.uniform(c.top + 0.28, c.base - 0.06)
            patch = _ellipse(c, x, y, c.rng.uniform(0.04, 0.075), c.rng.uniform(0.05, 0.09))
            haze = np.maximum(haze, _soft(patch, 0.018))
    return np.asarray(0.25 * haze * (0.55 + 0.45 * _clouds(c.rng, 26)) * _soft(lungs, 0.004), dtype=np.float32)


_OPACITIES: dict[str, Callable[[_Chest, Field], Field]] = {
    "normal": _nothing,
    "bacterial": _consolidation,
    "viral": _streaks,
    "covid-19": _ground_glass,
}


def _exposed(gray: Field, rng: np.random.Generator, bits: int) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
    """Apply exposure, grain and quantisation."""
    gray = np.clip(gray * rng.uniform(0.9, 1.08), 0, 1) ** np.float32(rng.uniform(0.85, 1.2))
    grain = rng.standard_normal(gray.shape, dtype=np.float32)
    gray = np.clip(gray + 0.012 * cv2.GaussianBlur(grain, (0, 0), 0.8), 0, 1)
    return (gray * 255 + 0.5).astype(np.uint8) if bits == 8 else (gray * 65535 + 0.5).astype(np.uint16)
