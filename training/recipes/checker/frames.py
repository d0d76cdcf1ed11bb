"""Staged frames of the checker: items in, small squares with the lungs' boxes in one file out, which training reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cxr_edge.bundle import STARTER, Bundle
from cxr_edge.decoding.decode import decode
from cxr_edge.errors import CxrEdgeError, InputError
from cxr_edge.ops.preprocess import canvas
from cxr_edge.records import GrayPixels, Roi
from cxr_edge.specs.preprocess import PreprocessSpec
from training.data.alterations import Box
from training.data.canvases import LungFinder, as_8_bit
from training.data.pictures import read_picture
from training.recipes.checker.items import Item
from training.shared_files import atomic_write, exclusive_lock, read_arrays
from training.tasks.checks import FrameFacts, StagedFrames

__all__ = ["FRAME_PX", "lung_finder", "read_item", "share_box", "stage"]

FRAME_PX = 192  # half as large again as the network's input, so that crops of it are still sharp

_FULL = (0.0, 0.0, 1.0, 1.0)


def lung_finder() -> LungFinder:
    """Return the lung finder of the packaged starter."""
    bundle = Bundle.open(STARTER)
    segmenter = bundle.manifest.segmenter
    if segmenter is None:
        raise InputError("the packaged starter has no segmenter, by which the lungs are found: install cxr-edge again")
    return LungFinder(bundle.file(segmenter.file), segmenter.preprocess, segmenter.lung_box)


def read_item(item: Item) -> npt.NDArray[np.uint8] | None:
    """Return the gray pixels (H, W) of an item; None for a picture of a package that holds no picture."""
    if item.kind == "picture" or item.path.suffix.lower() == ".dcm":
        return read_picture(item.path)
    try:
        return as_8_bit(decode(item.path).pixels)
    except CxrEdgeError:
        if item.patient:
            raise
        return None


def share_box(roi: Roi, image: GrayPixels) -> Box:
    """Return a box in pixels as shares of the image's sides."""
    height, width = image.shape
    return Box(x0=roi.x0 / width, y0=roi.y0 / height, x1=roi.x1 / width, y1=roi.y1 / height)


def stage(items: Sequence[Item], file: Path, *, find_lungs: LungFinder) -> StagedFrames:
    """Return the frames of the items that are pictures, from `file` if it is there, else made and written to it."""
    with exclusive_lock(file):
        if not file.exists():
            _make(items, file, find_lungs)
    arrays = read_arrays(file, ("frames", "boxes", "rows"))
    if len(arrays["rows"]) and arrays["rows"].max() >= len(items):
        raise InputError(f"{file} is of other images than the data folder has now: delete it")
    chosen = [items[i] for i in arrays["rows"]]
    facts = [
        FrameFacts(kind=item.kind, source=item.source, box=_box(box), child=item.child, ap=item.ap)
        for item, box in zip(chosen, arrays["boxes"], strict=True)
    ]
    return StagedFrames(frames=arrays["frames"], facts=facts)


def _make(items: Sequence[Item], file: Path, find_lungs: LungFinder) -> None:
    spec = PreprocessSpec(region="frame", canvas_px=FRAME_PX, crop_px=FRAME_PX)
    frames, boxes, rows = [], [], []
    for i, item in enumerate(items):
        if (image := read_item(item)) is None:
            continue
        frames.append(canvas(image, Roi.full(image.shape[1], image.shape[0]), spec))
        boxes.append(_lungs(item, image, find_lungs))
        rows.append(i)
    with atomic_write(file) as beside:
        np.savez(
            beside,
            frames=np.stack(frames).astype(np.uint8),
            boxes=np.array(boxes, dtype=np.float64),
            rows=np.array(rows, dtype=np.int64),
        )


def _lungs(item: Item, image: npt.NDArray[np.uint8], find_lungs: LungFinder) -> tuple[float, ...]:
    if item.kind != "frontal":
        return _FULL
    roi, failed = find_lungs(image)
    box = share_box(roi, image)
    return (0.1, 0.1, 0.9, 0.9) if failed else (box.x0, box.y0, box.x1, box.y1)


def _box(values: npt.NDArray[np.float64]) -> Box:
    x0, y0, x1, y1 = map(float, values)
    return Box(x0=x0, y0=y0, x1=x1, y1=y1)
