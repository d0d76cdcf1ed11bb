"""Builders of own data: drawn images in folders, tables beside them, and DICOM trees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from tests.builders.dicom_files import dataset, file_bytes

__all__ = ["blocks", "write_dicom", "write_folder", "write_image", "write_table"]


def blocks(seed: int, *, side_px: int = 32) -> npt.NDArray[np.uint8]:
    """Return an image that is drawn at once; no two seeds' are taken for the same image."""
    cells = np.random.default_rng(seed).integers(0, 256, (8, 8))
    return np.kron(cells, np.ones((side_px // 8, side_px // 8))).astype(np.uint8)


def write_image(path: Path, seed: int, *, side_px: int = 32) -> Path:
    """Write an image in the format of the suffix; PNG without one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix or ".png", blocks(seed, side_px=side_px))[1].tobytes())
    return path


def write_folder(root: Path, names: Sequence[str]) -> Path:
    """Write an image for each name below `root`, each another. Returns `root`."""
    for seed, name in enumerate(names):
        write_image(root / name, seed)
    return root


def write_table(file: Path, rows: Sequence[Mapping[str, object]], *, mark: str = ",", encoding: str = "utf-8") -> Path:
    """Write rows, with the columns of the first, separated by `mark`."""
    lines = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(mark.join(line) + "\n" for line in lines), encoding=encoding)
    return file


def write_dicom(path: Path, seed: int, **elements: object) -> Path:
    """Write a DICOM file with these elements, of which None is left out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    given = {"SOPInstanceUID": f"1.2.3.{seed}", "StudyInstanceUID": f"1.2.4.{seed}", **elements}
    path.write_bytes(file_bytes(dataset(blocks(seed), bits=8, **given)))
    return path
