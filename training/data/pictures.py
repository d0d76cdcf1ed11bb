"""Pictures that are no chest X-rays, from installed Python packages: names of packages in, the paths of their images out.

Packages ship photographs, icons, plots and medical test files. They train and measure the checker network and are read where
they are installed; nothing is copied. A package that is absent has no pictures.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["MEASURED", "SLICES", "TRAINED", "package_pictures", "read_picture"]

# By what a package ships: photographs and figures; no package is on both sides.
TRAINED = ("skimage", "arcade", "gradio")
MEASURED = ("pygame", "matplotlib", "sklearn", "scipy", "torchvision", "ultralytics", "networkx", "sympy", "coverage")
# Test files of a DICOM reader, of which slices of CT and MR count; data_store is pydicom-data.
SLICES = ("pydicom", "data_store")

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".dcm"})
_LEAST_PX = 32
_SLICE_MODALITIES = ("CT", "MR")


def package_pictures(name: str, *, most: int = 400) -> list[Path]:
    """Return the image files of an installed package, sorted, every k-th if there are more than `most`; none if it is absent."""
    spec = find_spec(name)
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    found = sorted(p for folder in folders for p in Path(folder).rglob("*") if p.suffix.lower() in _SUFFIXES)
    return found[:: -(-len(found) // most)] if found else []


def read_picture(path: Path) -> npt.NDArray[np.uint8] | None:
    """Return the gray pixels (H, W) of a picture, of a DICOM file the first slice; None if it has none, or under 32 px."""
    pixels = _dicom_frame(path) if path.suffix.lower() == ".dcm" else cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if pixels is None or min(pixels.shape) < _LEAST_PX or pixels.min() == pixels.max():
        return None
    return np.asarray(pixels, dtype=np.uint8)


def _dicom_frame(path: Path) -> npt.NDArray[np.uint8] | None:
    import pydicom

    try:
        data = pydicom.dcmread(path, force=True)
        if data.get("Modality") not in _SLICE_MODALITIES:
            return None
        values: Any = data.pixel_array
    except Exception:  # test files of a DICOM reader are damaged on purpose, in all ways
        return None
    while values.ndim > 2 and values.shape[-1] not in (3, 4):
        values = values[0]
    gray = np.asarray(values, dtype=np.float64)
    gray = gray.mean(axis=-1) if gray.ndim == 3 else gray
    if gray.ndim != 2 or np.ptp(gray) == 0:
        return None
    low, high = np.percentile(gray, (0.5, 99.5))
    return np.asarray(255 * np.clip((gray - low) / max(high - low, 1e-9), 0, 1), dtype=np.uint8)
