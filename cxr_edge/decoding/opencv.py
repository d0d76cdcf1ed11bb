"""OpenCV's decoder for WEBP and BMP: the bytes of a checked file in, samples as stored out.

It exists so that its settings, its silence and its failures are handled once.
"""

from __future__ import annotations

import os
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from cxr_edge.decoding.picture import DAMAGED
from cxr_edge.errors import InputError

__all__ = ["decoded"]


def _silence() -> None:
    """Refusals are InputErrors here; OpenCV's own lines on stderr would say the same again, without the file's name.

    Its environment variable still turns them on. The function has one name up to OpenCV 4.12 and another since.
    """
    if "OPENCV_LOG_LEVEL" in os.environ:
        return
    logging = getattr(getattr(cv2, "utils", None), "logging", cv2)
    logging.setLogLevel(0)


_silence()


def decoded(data: bytes, name: str, *, width_px: int, height_px: int) -> npt.NDArray[Any]:
    """Samples (height, width) or (height, width, 3 or 4), red first, orientation not applied.

    name: of the format, for messages. width_px, height_px: what the header says. Raises InputError.
    """
    try:
        samples: npt.NDArray[Any] | None = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        samples = None
    if samples is None:
        raise InputError(f"the {name} data cannot be decoded, the file is damaged: copy or export it again")
    if samples.shape[:2] != (height_px, width_px):
        raise InputError(
            f"the header promises {width_px}x{height_px} px, the data hold "
            f"{samples.shape[1]}x{samples.shape[0]}: {DAMAGED}"
        )
    if samples.ndim == 3:
        samples[..., :3] = samples[..., 2::-1].copy()
    return samples
