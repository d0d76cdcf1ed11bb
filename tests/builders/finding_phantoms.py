"""Drawn chest X-rays with several findings at once, and a table that states them, some as unknown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from cxr_edge.phantoms import make_phantom
from tests.builders.own_data import write_table

__all__ = ["FINDINGS", "draw_findings", "write_finding_phantoms"]

FINDINGS = ("effusion", "nodule", "line")
_SHARES = (0.4, 0.3, 0.35)  # of the patients with each
_UNKNOWN = 0.15  # share of the cells


def draw_findings(present: Sequence[bool], seed: int, *, size_px: int = 128) -> npt.NDArray[np.uint8]:
    """Return an X-ray (S, S): fluid at the base of a lung, a round opacity, a bright line down the middle, or none of them."""
    phantom = make_phantom("normal", size_px=size_px, seed=seed)
    image, side = phantom.pixels.astype(np.float32), phantom.lung_mask.copy()
    rng = np.random.default_rng([seed, 5])
    side &= (np.arange(size_px) < size_px // 2) == (rng.random() < 0.5)  # one of the lungs
    rows, columns = np.nonzero(side)
    # Uneven exposure, so that no two patients' drawings are taken for the same image.
    image += cv2.resize(rng.normal(0, 18, (4, 4)).astype(np.float32), image.shape, interpolation=cv2.INTER_CUBIC)
    if present[0]:
        image[(np.arange(size_px)[:, None] > np.quantile(rows, 0.65)) & side] += 90
    if present[1]:
        k = rng.integers(len(rows))
        disc = cv2.circle(np.zeros_like(image), (int(columns[k]), int(rows[k])), size_px // 14, 1.0, -1)
        image += 100 * disc
    if present[2]:
        x = size_px // 2 + int(rng.integers(-6, 7))
        cv2.line(image, (x, 0), (x + int(rng.integers(-9, 10)), size_px * 3 // 5), 255.0, max(2, size_px // 40))
    return np.clip(image, 0, 255).astype(np.uint8)


def write_finding_phantoms(folder: Path, *, patients: int, seed: int = 0, size_px: int = 128) -> Path:
    """Write an image of each patient and a table with a column for each finding, from two sites. Returns the table."""
    rng, rows = np.random.default_rng(seed), []
    for i in range(patients):
        present = [bool(v) for v in rng.random(3) < _SHARES]
        name = f"images/{i}.png"
        (folder / "images").mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(
            cv2.imencode(".png", draw_findings(present, seed * 10_000 + i, size_px=size_px))[1].tobytes()
        )
        cells = ["" if rng.random() < _UNKNOWN else int(value) for value in present]
        about = {
            "site": ("north", "south")[i % 2],
            "view": ("AP", "PA")[i % 3 == 0],
            "sex": "FM"[i % 2],
            "age": 30 + i % 50,
        }
        rows.append({"path": name, "patient": f"p{i}", **about, **dict(zip(FINDINGS, cells, strict=True))})
    return write_table(folder / "table.csv", rows)
