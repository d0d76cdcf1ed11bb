"""Cases of a drawn site: X-rays of the toy bundle's kinds with their labels, as a folder per label."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["STRIPES", "draw_case", "write_cases"]

STRIPES = {"normal": 4, "bacterial": 8, "viral": 24}  # of the lungs, by which the toy bundle tells its labels


def draw_case(label: str, seed: int) -> npt.NDArray[np.uint8]:
    """Return a picture (height, width); the seed changes its size and noise."""
    rng = np.random.default_rng([seed, STRIPES[label]])
    height, width = 200 + int(rng.integers(0, 40)), 220
    y, x = np.mgrid[0:height, 0:width] / np.array([height, width]).reshape(2, 1, 1)
    picture = 0.7 + 0.1 * y
    field = 0.28 + 0.12 * np.sin(2 * np.pi * STRIPES[label] * (y + 0.3 * x))
    for centre in (0.3, 0.7):
        inside = ((x - centre) / 0.16) ** 2 + ((y - 0.5) / 0.32) ** 2 < 1
        picture[inside] = field[inside]
    picture += rng.normal(0, 0.01, picture.shape)
    return (np.clip(picture, 0, 1) * 255).astype(np.uint8)


def write_cases(folder: Path, counts: Mapping[str, int]) -> Path:
    """Write so many cases of each label as LABEL/N.png. Returns the folder."""
    for label, n in counts.items():
        (folder / label).mkdir(parents=True, exist_ok=True)
        for seed in range(n):
            cv2.imwrite(str(folder / label / f"{seed}.png"), draw_case(label, seed))
    return folder
