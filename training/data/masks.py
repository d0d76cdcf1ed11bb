"""Lung masks of records: a record in, its mask as an array out."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from cxr_edge.errors import InputError
from training.data.records import Record

__all__ = ["UNKNOWN", "read_mask"]

UNKNOWN = 127  # of the covid-chestxray masks: neither certainly lung nor certainly not


def read_mask(record: Record, size: tuple[int, int] | None = None) -> npt.NDArray[np.uint8]:
    """Return the mask of a record: 255 lung, 127 not known, 0 other. size: (height, width) to resize it to; None for its own.

    Raises InputError for other values, or without a readable mask.
    """
    if record.mask is None:
        raise InputError(f"{record.key} has no lung mask")
    # Not by the deployed decoder: it stretches bit depths and rejects constant images, and a mask holds labels, not gray values.
    mask = _decode(record.mask)
    if mask is None:
        raise InputError(f"{record.mask}: the lung mask of {record.key} cannot be read: is it a whole PNG? {_AGAIN}")
    values = set(np.unique(mask).tolist())
    if not values <= {0, UNKNOWN, 255}:
        raise InputError(
            f"{record.mask}: a lung mask holds 0, 127 (not known) and 255, this one {sorted(values)[:6]}: {_AGAIN}"
        )
    mask = mask if size in (None, mask.shape) else cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST)
    return np.asarray(mask, dtype=np.uint8)


def _decode(file: Path) -> npt.NDArray[np.uint8] | None:
    """Return a mask file's pixels, or None if it cannot be read. OpenCV itself takes no file name that is not UTF-8."""
    try:
        data = np.frombuffer(file.read_bytes(), np.uint8)
        return cv2.imdecode(data, cv2.IMREAD_GRAYSCALE) if data.size else None
    except (OSError, cv2.error):
        return None


_AGAIN = "download it again"
