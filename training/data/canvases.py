"""Classifier inputs: samples and the exported segmenter in, arrays of canvases cut by the deployed lung box out.

Members are validated and evaluated on exactly the canvases that a device computes. They are trained on a wider cut around the
same box, from which the augmentation takes a jittered box, so that they tolerate small errors of the box. That cut can be taken
from images that were all brought to one resolution first, so that sharpness does not tell a collection.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime

from cxr_edge.ops.lung_box import lung_box
from cxr_edge.ops.preprocess import Preprocessor, canvas
from cxr_edge.records import GrayPixels, Roi
from cxr_edge.specs.lung_box import LungBoxRule
from cxr_edge.specs.preprocess import PreprocessSpec
from training.data.augment import Gray
from training.data.dataset import Sample, read_all
from training.data.records import Record
from training.shared_files import atomic_write, read_arrays, reading

__all__ = ["LUNG_BOX", "MARGIN", "Canvases", "LungFinder", "cut", "cut_frames", "onnx_session", "wide_roi"]

# R20's rule; a row or column of the 128 px mask counts from three lung pixels on, so that specks are ignored.
LUNG_BOX = LungBoxRule(min_pixels=3)

MARGIN = 0.2  # around the lung box, as a share of its sides, clipped to the image


@dataclass(frozen=True, kw_only=True)
class Canvases:
    """One row per sample, in the samples' order."""

    lungs: npt.NDArray[np.uint8]  # (N, S, S), the deployed canvas
    wide: npt.NDArray[np.uint8]  # (N, W, W), the box widened by MARGIN and clipped
    boxes: npt.NDArray[np.float32]  # (N, 4), the deployed box in pixels of `wide`
    rois: npt.NDArray[np.int32]  # (N, 4), the deployed box in pixels of the image
    failed: npt.NDArray[np.bool_]  # (N,), no valid lung box: the full frame is used

    def save(self, file: Path) -> None:
        """Write all arrays to one .npz, atomically."""
        with atomic_write(file) as beside:
            np.savez(beside, **{f.name: getattr(self, f.name) for f in fields(self)})

    def rows(self, rows: Sequence[int]) -> Canvases:
        """Return the canvases of some samples."""
        return Canvases(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    @classmethod
    def load(cls, file: Path) -> Canvases:
        """Read a file that `save` wrote. Raises InputError if it is missing or damaged."""
        return cls(**read_arrays(file, [f.name for f in fields(cls)]))


class LungFinder:
    """Lung box as deployed: preprocessing, exported segmenter, box rule."""

    def __init__(self, onnx: Path, spec: PreprocessSpec, rule: LungBoxRule) -> None:
        self._session = onnx_session(onnx, threads=1)
        self._preprocessor = Preprocessor([spec])
        self._rule = rule

    def mask(self, image: GrayPixels) -> npt.NDArray[np.float32]:
        """Return lung probabilities (S, S) of the full frame."""
        full = Roi.full(image.shape[1], image.shape[0])
        (tensor,) = self._preprocessor.run([image], [full])
        return np.asarray(self._session.run(["mask"], {"image": tensor})[0][0, 0], dtype=np.float32)

    def __call__(self, image: GrayPixels) -> tuple[Roi, bool]:
        """Return the lung box and whether it failed (then it is the full frame)."""
        roi, flag = lung_box(self.mask(image), width_px=image.shape[1], height_px=image.shape[0], rule=self._rule)
        return roi, flag is not None


def onnx_session(file: Path, *, threads: int) -> onnxruntime.InferenceSession:
    """Open an exported network on ONNX Runtime's CPU provider. Raises InputError if the file is missing or damaged."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    with reading(file):
        model = file.read_bytes()
        try:
            return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises a dozen types without a common base
            raise ValueError(f"no ONNX network: {error}") from error


def cut(
    samples: Sequence[Sample],
    find_lungs: LungFinder,
    spec: PreprocessSpec,
    *,
    threads: int,
    source_px: int | None = None,
) -> Canvases:
    """Cut the canvases of all samples.

    spec: gives canvas_px. source_px: long side to which larger images are reduced before the wide cut; None for their own.
    """
    wide_px = round(spec.canvas_px * (1 + 2 * MARGIN))
    wide_spec = PreprocessSpec(canvas_px=wide_px, crop_px=wide_px)

    def one(_: Record, image: GrayPixels) -> tuple[object, ...]:
        roi, failed = find_lungs(image)
        wide = wide_roi(roi, width_px=image.shape[1], height_px=image.shape[0])
        scale = np.array([wide_px / wide.width_px, wide_px / wide.height_px] * 2)
        box = (np.array(roi.as_tuple()) - np.array([wide.x0, wide.y0] * 2)) * scale
        small, inside = _reduced(image, wide, source_px)
        return (
            as_8_bit(canvas(image, roi, spec)),
            as_8_bit(canvas(small, inside, wide_spec)),
            box,
            roi.as_tuple(),
            failed,
        )

    lungs, wides, boxes, rois, failed = zip(
        *read_all([s.record for s in samples], threads, one, title="lung boxes"), strict=True
    )
    return Canvases(
        lungs=np.stack(lungs),
        wide=np.stack(wides),
        boxes=np.asarray(boxes, dtype=np.float32),
        rois=np.asarray(rois, dtype=np.int32),
        failed=np.asarray(failed),
    )


def _reduced(image: GrayPixels, roi: Roi, source_px: int | None) -> tuple[GrayPixels, Roi]:
    """Return the image with a long side of at most `source_px`, and the box in its pixels."""
    height, width = image.shape
    if source_px is None or max(height, width) <= source_px:
        return image, roi
    scale = source_px / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    x, y = size[0] / width, size[1] / height
    edges = [round(v * s) for v, s in zip(roi.as_tuple(), (x, y, x, y), strict=True)]
    inside = Roi(x0=edges[0], y0=edges[1], x1=max(edges[2], edges[0] + 1), y1=max(edges[3], edges[1] + 1))
    return cast(GrayPixels, cv2.resize(image, size, interpolation=cv2.INTER_AREA)), inside


def cut_frames(samples: Sequence[Sample], spec: PreprocessSpec, *, threads: int) -> Canvases:
    """Resize the full frames, for members without a lung box: boxes are the canvas, none fails, `wide` has no margin.

    `normalize` crops the centre, so that a shift of the canvas before it is a random crop.
    """

    def one(_: Record, image: GrayPixels) -> tuple[npt.NDArray[np.uint8], tuple[int, ...]]:
        full = Roi.full(image.shape[1], image.shape[0])
        return as_8_bit(canvas(image, full, spec)), full.as_tuple()

    frames, rois = zip(*read_all([s.record for s in samples], threads, one, title="frames"), strict=True)
    canvases = np.stack(frames)
    return Canvases(
        lungs=canvases,
        wide=canvases,
        boxes=np.tile(np.array([0, 0, spec.canvas_px, spec.canvas_px], np.float32), (len(samples), 1)),
        rois=np.asarray(rois, dtype=np.int32),
        failed=np.zeros(len(samples), dtype=bool),
    )


def wide_roi(roi: Roi, *, width_px: int, height_px: int) -> Roi:
    """Return the box widened by MARGIN of its sides, clipped to the image."""
    dx, dy = round(MARGIN * roi.width_px), round(MARGIN * roi.height_px)
    return Roi(
        x0=max(0, roi.x0 - dx),
        y0=max(0, roi.y0 - dy),
        x1=min(width_px, roi.x1 + dx),
        y1=min(height_px, roi.y1 + dy),
    )


def as_8_bit(image: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]) -> Gray:
    """Return the upper 8 bits: augmentation works in 8 bits, and nearly all collections are published in 8 bits."""
    return (image >> 8).astype(np.uint8) if image.dtype == np.uint16 else cast(Gray, image)
