"""Lung masks of records: a record in, its mask as an array out."""

from __future__ import annotations

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
    mask = cv2.imread(str(record.mask), cv2.IMREAD_GRAYSCALE)
    if mask is None:
        raise InputError(f"{record.mask}: the lung mask of {record.key} cannot be read: is it a whole PNG? {_AGAIN}")
    values = set(np.unique(mask).tolist())
    if not values <= {0, UNKNOWN, 255}:
        raise InputError(
            f"{record.mask}: a lung mask holds 0, 127 (not known) and 255, this one {sorted(values)[:6]}: {_AGAIN}"
        )
    mask = mask if size in (None, mask.shape) else cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST)
    return np.asarray(mask, dtype=np.uint8)


_AGAIN = "download it again"
