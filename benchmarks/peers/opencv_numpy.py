"""Baseline implementations of preprocessing, lung box and combination with OpenCV, Pillow, torchvision and NumPy.

Compared with the native core in every benchmark: pixels, mask or logits in, the same numbers out (except for resize
filters, where the docstring has the difference). Plain code as found in notebooks, not slowed down and not tuned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from cxr_edge.records import GrayPixels, Roi
from cxr_edge.specs.combination import Combination
from cxr_edge.specs.lung_box import LungBoxRule
from cxr_edge.specs.preprocess import PreprocessSpec

__all__ = ["combine", "lung_roi", "opencv_tensors", "pillow_tensor", "torchvision_tensor"]

Floats = npt.NDArray[np.float32]


def opencv_tensors(pixels: GrayPixels, rois: Sequence[Roi], specs: Sequence[PreprocessSpec]) -> list[Floats]:
    """Return one tensor (1, channels, crop_px, crop_px) per member, from its roi and by its spec.

    Crop, INTER_AREA resize, centre crop, float32 divided by the maximum, mean and std. Members with the same roi and spec
    share the tensor, as in any reasonable implementation.
    """
    canvases: dict[tuple[Roi, int], GrayPixels] = {}
    tensors: dict[tuple[Roi, PreprocessSpec], Floats] = {}
    for roi, spec in zip(rois, specs, strict=True):
        if (roi, spec.canvas_px) not in canvases:
            canvases[roi, spec.canvas_px] = _opencv_canvas(pixels, roi, spec.canvas_px)
        if (roi, spec) not in tensors:
            tensors[roi, spec] = _opencv_tensor(canvases[roi, spec.canvas_px], spec)
    return [tensors[roi, spec] for roi, spec in zip(rois, specs, strict=True)]


def _opencv_canvas(pixels: GrayPixels, roi: Roi, canvas_px: int) -> GrayPixels:
    cropped = pixels[roi.y0 : roi.y1, roi.x0 : roi.x1]
    resized: GrayPixels = cv2.resize(cropped, (canvas_px, canvas_px), interpolation=cv2.INTER_AREA)
    return resized


def _opencv_tensor(canvas: GrayPixels, spec: PreprocessSpec) -> Floats:
    first = (spec.canvas_px - spec.crop_px) // 2
    canvas = canvas[first : first + spec.crop_px, first : first + spec.crop_px]
    if spec.median:
        canvas = cv2.medianBlur(np.ascontiguousarray(canvas), 3)
    return _standardize(canvas.astype(np.float32) / np.float32(np.iinfo(canvas.dtype).max), spec)


def pillow_tensor(pixels: GrayPixels, roi: Roi, spec: PreprocessSpec) -> Floats:
    """Compute torchvision's transforms of a PIL image without torchvision: antialiased bilinear resize, mean and std.

    Pillow's bilinear filter is a triangle, not an area average: results differ a little from INTER_AREA by design.
    """
    picture, maximum = _pillow_crop(pixels, roi)
    return _standardize(np.asarray(_pillow_resize(picture, spec), dtype=np.float32) / maximum, spec)


def torchvision_tensor(spec: PreprocessSpec) -> Callable[[GrayPixels, Roi], Any]:
    """Return torchvision's transforms of a PIL image: Resize, CenterCrop, ToTensor, mean and std. Needs torchvision.

    8-bit images have mode L. 16-bit ones have mode F, because ToTensor reads Pillow's 16-bit mode as signed numbers.
    """
    from torchvision import transforms

    to_tensor = transforms.Compose(
        [
            transforms.Resize((spec.canvas_px, spec.canvas_px)),
            transforms.CenterCrop(spec.crop_px),
            transforms.ToTensor(),
        ]
    )
    fixed = transforms.Normalize(spec.mean, spec.std) if spec.standardize == "fixed" else None

    def run(pixels: GrayPixels, roi: Roi) -> Any:
        picture, maximum = _pillow_crop(pixels, roi)
        tensor = to_tensor(picture)
        tensor = tensor if picture.mode == "L" else tensor / maximum
        if spec.standardize == "image":
            tensor = (tensor - tensor.mean()) / tensor.std().clamp(min=0.001)
        tensor = tensor.expand(spec.channels, -1, -1)
        return (fixed(tensor) if fixed else tensor)[None]

    return run


def _pillow_crop(pixels: GrayPixels, roi: Roi) -> tuple[Any, float]:
    from PIL import Image

    image = Image.fromarray(pixels if pixels.dtype == np.uint8 else pixels.astype(np.float32))
    return image.crop(roi.as_tuple()), float(np.iinfo(pixels.dtype).max)


def _pillow_resize(picture: Any, spec: PreprocessSpec) -> Any:
    from PIL import Image

    first = (spec.canvas_px - spec.crop_px) // 2
    small = picture.resize((spec.canvas_px, spec.canvas_px), Image.Resampling.BILINEAR)
    return small.crop((first, first, first + spec.crop_px, first + spec.crop_px))


def _standardize(values: Floats, spec: PreprocessSpec) -> Floats:
    """Standardize values (crop_px, crop_px) in 0..1 to (1, channels, crop_px, crop_px)."""
    if spec.standardize == "image":
        values = (values - values.mean()) / max(float(values.std()), 0.001)
    channels = np.stack([values] * spec.channels)
    if spec.standardize == "fixed":
        mean, std = (np.asarray(v, dtype=np.float32).reshape(-1, 1, 1) for v in (spec.mean, spec.std))
        channels = (channels - mean) / std
    return np.ascontiguousarray(channels[None], dtype=np.float32)


def lung_roi(mask: Floats, *, width_px: int, height_px: int, rule: LungBoxRule) -> Roi:
    """Return the lung box by NumPy projections; the whole frame if there is none. mask: (rows, columns)."""
    lung = mask >= rule.threshold
    rows, columns = (np.flatnonzero(lung.sum(axis=a) >= rule.min_pixels) for a in (1, 0))
    if not rows.size or not columns.size:
        return Roi.full(width_px, height_px)
    y0, y1 = _widen(rows, mask.shape[0], height_px, rule.margin)
    x0, x1 = _widen(columns, mask.shape[1], width_px, rule.margin)
    return Roi(x0=x0, y0=y0, x1=x1, y1=y1)


def _widen(occupied: npt.NDArray[np.intp], cells: int, length_px: int, margin: float) -> tuple[int, int]:
    first, last = float(occupied[0]), float(occupied[-1] + 1)
    extra = (last - first) * margin
    scale = length_px / cells
    return max(0, int((first - extra) * scale)), min(length_px, int(np.ceil((last + extra) * scale)))


_LEAST_SHARE = 1e-12  # of a mean probability before its logit


def combine(logits: Floats, combination: Combination) -> npt.NDArray[np.float64]:
    """Return probabilities (images, labels) from logits (images, members, labels), for any strategy."""
    if combination.activation == "sigmoid":
        return _combine_findings(logits, combination)
    scores = _softmax(logits / np.asarray(combination.member_temperatures)[:, None])
    if combination.strategy == "voting":
        votes = scores.argmax(axis=2)
        return np.asarray((votes[:, :, None] == np.arange(logits.shape[2])).mean(axis=1))
    return _softmax(np.log(_mix(scores, combination)) / combination.temperature)


def _mix(scores: npt.NDArray[np.float64], combination: Combination) -> npt.NDArray[np.float64]:
    """Combine by any strategy except voting. scores: probabilities (images, members, labels)."""
    p = {name: np.asarray(values) for name, values in combination.parameters.items()}
    flat = scores.reshape(len(scores), -1)
    if combination.strategy == "average":
        return np.asarray(scores.mean(axis=1))
    if combination.strategy == "weighted-average":
        return np.asarray(np.einsum("m,nml->nl", p["weights"], scores))
    if combination.strategy == "stacking":
        hidden = np.maximum(flat @ p["hidden_weight"].T + p["hidden_bias"], 0)
        return _softmax(hidden @ p["output_weight"].T + p["output_bias"])
    outer = np.einsum("ni,nj->nij", flat, flat).reshape(len(flat), -1)
    weights = np.tanh(outer @ p["module_weight"].T + p["module_bias"])
    return _softmax(np.einsum("nm,nml->nl", weights, scores))


def _combine_findings(logits: Floats, combination: Combination) -> npt.NDArray[np.float64]:
    """Combine logits of findings that do not exclude each other."""
    scores = _sigmoid(logits / np.asarray(combination.member_temperatures)[:, None])
    if combination.strategy == "voting":
        return np.asarray((scores >= 0.5).mean(axis=1))
    temperatures = combination.temperature * np.asarray(combination.label_temperatures or (1.0,) * logits.shape[2])
    return _sigmoid(_logits_of_findings(scores, combination) / temperatures)


def _logits_of_findings(scores: npt.NDArray[np.float64], combination: Combination) -> npt.NDArray[np.float64]:
    p = {name: np.asarray(values) for name, values in combination.parameters.items()}
    flat = scores.reshape(len(scores), -1)
    if combination.strategy == "stacking":
        hidden = np.maximum(flat @ p["hidden_weight"].T + p["hidden_bias"], 0)
        return np.asarray(hidden @ p["output_weight"].T + p["output_bias"])
    if combination.strategy == "flannel":
        outer = np.einsum("ni,nj->nij", flat, flat).reshape(len(flat), -1)
        weights = np.tanh(outer @ p["module_weight"].T + p["module_bias"])
        return np.asarray(np.einsum("nm,nml->nl", weights, 2 * scores - 1))
    mean = np.clip(_mix(scores, combination), _LEAST_SHARE, 1 - _LEAST_SHARE)
    return np.asarray(np.log(mean / (1 - mean)))


def _sigmoid(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * values), dtype=np.float64)


def _softmax(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    exponentials = np.exp(values - values.max(axis=-1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True), dtype=np.float64)
