"""Rendered images for reports: the downscaled X-ray, and the same with lung box and heat map.

Takes an image and its screening; returns uint8 BGR images, the channel order of OpenCV. For display only: the members get
the original image.
"""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from cxr_edge.errors import InputError, OutputError
from cxr_edge.names import printable, shorten_name
from cxr_edge.records import Image, Screening
from cxr_edge.report import output_errors
from cxr_edge.report.unfinished import UnfinishedFile, clear_unfinished
from cxr_edge.screening.screener import FileResult

__all__ = ["BgrImage", "OverlayWriter", "check_folder", "render_image", "render_overlay"]

BgrImage = npt.NDArray[np.uint8]  # (height, width, 3)

_LONG_SIDE_PX = 560  # of the images in a report
_BOX_BGR = (80, 220, 120)
_HEAT_OPACITY = 0.55


def render_image(image: Image, *, long_side_px: int = _LONG_SIDE_PX) -> BgrImage:
    """Return the image with no side longer than long_side_px, contrast stretched from its 0.5 to its 99.5 percentile."""
    scale = min(1.0, long_side_px / max(image.width_px, image.height_px))
    size = (max(1, round(image.width_px * scale)), max(1, round(image.height_px * scale)))
    small = cv2.resize(image.pixels, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    low, high = np.percentile(small, [0.5, 99.5])
    gray = np.clip((small - low) * (255.0 / max(float(high - low), 1.0)), 0, 255).astype(np.uint8)
    return np.asarray(cv2.cvtColor(gray, cv2.COLOR_GRAY2BGR), dtype=np.uint8)


def render_overlay(image: Image, screening: Screening, *, long_side_px: int = _LONG_SIDE_PX) -> BgrImage:
    """Return `render_image` with the screening's heat map, if it has one, and its lung box."""
    canvas = render_image(image, long_side_px=long_side_px)
    scale_x, scale_y = canvas.shape[1] / image.width_px, canvas.shape[0] / image.height_px
    roi = screening.roi
    x0, x1 = int(roi.x0 * scale_x), max(int(roi.x0 * scale_x) + 1, round(roi.x1 * scale_x))
    y0, y1 = int(roi.y0 * scale_y), max(int(roi.y0 * scale_y) + 1, round(roi.y1 * scale_y))
    if screening.heatmap is not None:
        canvas[y0:y1, x0:x1] = _blend_heatmap(canvas[y0:y1, x0:x1], screening.heatmap)
    thickness = max(1, long_side_px // 280)
    return np.asarray(cv2.rectangle(canvas, (x0, y0), (x1 - 1, y1 - 1), _BOX_BGR, thickness), dtype=np.uint8)


def _blend_heatmap(background: BgrImage, heatmap: npt.NDArray[np.float32]) -> BgrImage:
    """Blend the heat map over the same region of the image; the opacity grows with the heat."""
    heat = cv2.resize(heatmap, background.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    colours = cv2.applyColorMap((heat * 255).astype(np.uint8), cv2.COLORMAP_INFERNO).astype(np.float32)
    opacity = (_HEAT_OPACITY * np.sqrt(heat))[..., None]
    return np.asarray(background * (1 - opacity) + colours * opacity, dtype=np.uint8)


def check_folder(folder: Path) -> None:
    """Raise InputError if the path exists and is not a folder."""
    if os.path.lexists(folder) and not os.path.isdir(folder):
        raise InputError(f"{printable(folder)} is not a folder: give a folder for the images, or a new name")


class OverlayWriter:
    """Report writer that saves one PNG per screened image in a folder: its number in the run, its name, `.png`.

    The number distinguishes files of the same name in different folders; a name that gets too long is truncated.

    Raises InputError if the path is that of something else than a folder, OutputError if an image cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        check_folder(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._name_bytes = os.pathconf(folder, "PC_NAME_MAX")
        except OSError as error:
            raise OutputError(
                f"the folder {printable(folder)} cannot be created ({error.strerror}): give another one"
            ) from None
        if not os.access(folder, os.W_OK | os.X_OK):
            raise OutputError(f"no permission to write to the folder {printable(folder)}: give another one")
        clear_unfinished(folder)
        self._folder = folder
        self._count = 0

    def add(self, result: FileResult) -> None:
        """Write one image; a failure has none."""
        if isinstance(result.outcome, Screening) and result.image is not None:
            png = cv2.imencode(".png", render_overlay(result.image, result.outcome))[1].tobytes()
            name = f"{self._count + 1:05d}-{Path(result.outcome.source).name}"
            self._write(self._folder / shorten_name(name, self._name_bytes, suffix=".png"), png)
        self._count += 1

    def close(self) -> None:
        """Do nothing: every image is already written."""

    def _write(self, path: Path, png: bytes) -> None:
        with output_errors(path):
            file = UnfinishedFile(path)
            try:
                file.write(png)
                file.finish()
            finally:
                file.discard()
