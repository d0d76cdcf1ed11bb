"""OpenCV decoder for WEBP and BMP: the bytes of a file with a checked header in, samples as stored out.

It exists so that OpenCV's settings, log level and errors are handled in one place.
"""

from __future__ import annotations

import os
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from cxr_edge.decoding.decoded_image import DAMAGED
from cxr_edge.errors import InputError

__all__ = ["decode_with_opencv"]


def _silence_log() -> None:
    """Turn off OpenCV's log on stderr, which repeats the InputErrors of this package without the file's name.

    OpenCV's environment variable still turns it on. The function has one name up to OpenCV 4.12 and another since.
    """
    if "OPENCV_LOG_LEVEL" in os.environ:
        return
    logging = getattr(getattr(cv2, "utils", None), "logging", cv2)
    logging.setLogLevel(0)


_silence_log()


def decode_with_opencv(data: bytes, label: str, *, width_px: int, height_px: int) -> npt.NDArray[Any]:
    """Return samples (height, width) or (height, width, 3 or 4), red first, orientation not applied.

    label: name of the format in messages.
    width_px, height_px: size in the file header.
    Raises InputError for data that cannot be decoded or have another size.
    """
    try:
        samples: npt.NDArray[Any] | None = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        samples = None
    if samples is None:
        raise InputError(f"the {label} data cannot be decoded: {DAMAGED}")
    if samples.shape[:2] != (height_px, width_px):
        raise InputError(
            f"the header gives {width_px}x{height_px} px, the data have {samples.shape[1]}x{samples.shape[0]}: {DAMAGED}"
        )
    if samples.ndim == 3:
        samples[..., :3] = samples[..., 2::-1].copy()
    return samples
