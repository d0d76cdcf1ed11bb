"""Pictures for people: the X-ray made small, and the same with the lung box and the heat map laid over.

In: an image and its screening; out: uint8 pictures (BGR, as OpenCV writes them). Never an input to anything: the members
see the image itself.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from cxr_edge.errors import InputError, OutputError
from cxr_edge.names import printable, shortened
from cxr_edge.records import Image, Screening
from cxr_edge.report import output_errors
from cxr_edge.screening.screener import FileResult

__all__ = ["OverlayWriter", "check_folder", "overlay", "picture"]

Picture = npt.NDArray[np.uint8]

PICTURE_PX = 560  # long side of the pictures in a report
_BOX_BGR = (80, 220, 120)
_HEAT_OPACITY = 0.55


def picture(image: Image, *, long_side_px: int = PICTURE_PX) -> Picture:
    """The image as (height, width, 3), no side longer than long_side_px, contrast stretched to its 0.5..99.5 %."""
    scale = min(1.0, long_side_px / max(image.width_px, image.height_px))
    size = (max(1, round(image.width_px * scale)), max(1, round(image.height_px * scale)))
    small = cv2.resize(image.pixels, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    low, high = np.percentile(small, [0.5, 99.5])
    gray = np.clip((small - low) * (255.0 / max(float(high - low), 1.0)), 0, 255).astype(np.uint8)
    return np.asarray(cv2.cvtColor(gray, cv2.COLOR_GRAY2BGR), dtype=np.uint8)


def overlay(image: Image, screening: Screening, *, long_side_px: int = PICTURE_PX) -> Picture:
    """`picture` with the screening's heat map (if it has one) and its lung box."""
    drawn = picture(image, long_side_px=long_side_px)
    scale_x, scale_y = drawn.shape[1] / image.width_px, drawn.shape[0] / image.height_px
    roi = screening.roi
    x0, x1 = int(roi.x0 * scale_x), max(int(roi.x0 * scale_x) + 1, round(roi.x1 * scale_x))
    y0, y1 = int(roi.y0 * scale_y), max(int(roi.y0 * scale_y) + 1, round(roi.y1 * scale_y))
    if screening.heatmap is not None:
        drawn[y0:y1, x0:x1] = _heat(drawn[y0:y1, x0:x1], screening.heatmap)
    thickness = max(1, long_side_px // 280)
    return np.asarray(cv2.rectangle(drawn, (x0, y0), (x1 - 1, y1 - 1), _BOX_BGR, thickness), dtype=np.uint8)


def _heat(under: Picture, heatmap: npt.NDArray[np.float32]) -> Picture:
    """The heat map over a picture of the same place: the hotter, the more opaque."""
    heat = cv2.resize(heatmap, under.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    colours = cv2.applyColorMap((heat * 255).astype(np.uint8), cv2.COLORMAP_INFERNO).astype(np.float32)
    opacity = (_HEAT_OPACITY * np.sqrt(heat))[..., None]
    return np.asarray(under * (1 - opacity) + colours * opacity, dtype=np.uint8)


def check_folder(folder: Path) -> None:
    """Raise InputError if there is something else of the folder's name."""
    if os.path.lexists(folder) and not os.path.isdir(folder):
        raise InputError(f"{printable(folder)} is no folder: give a folder for the pictures, or a new name")


class OverlayWriter:
    """A ReportWriter that leaves a PNG per answered image in a folder: its number in the run, its name, `.png`.

    The number keeps files of one name in different folders apart; a name that is too long with it is cut. Raises InputError
    if the folder cannot be made, OutputError if a picture cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        check_folder(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._name_bytes = os.pathconf(folder, "PC_NAME_MAX")
        except OSError as error:
            raise InputError(
                f"the folder {printable(folder)} cannot be made ({error.strerror}): give one that can"
            ) from None
        if not os.access(folder, os.W_OK | os.X_OK):
            raise InputError(f"no permission to write to the folder {printable(folder)}: give another one")
        self._folder = folder
        self._count = 0

    def add(self, answer: FileResult) -> None:
        """Write one picture; failures have none."""
        if isinstance(answer.outcome, Screening) and answer.image is not None:
            png = cv2.imencode(".png", overlay(answer.image, answer.outcome))[1].tobytes()
            name = f"{self._count + 1:05d}-{Path(answer.outcome.source).name}"
            self._write(self._folder / shortened(name, self._name_bytes, suffix=".png"), png)
        self._count += 1

    def close(self) -> None:
        """Nothing is left to write."""

    def _write(self, path: Path, png: bytes) -> None:
        try:
            with output_errors(path):
                path.write_bytes(png)
        except OutputError:
            with suppress(OSError):
                path.unlink(missing_ok=True)
            raise
