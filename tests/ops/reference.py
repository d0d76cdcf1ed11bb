"""NumPy reference of the native core, written as simply as possible.

Integers are exact (Python or int64); nothing here is fast. CPU code and CUDA kernels are compared with the same functions.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from cxr_edge.ops.lung_box import LungBoxStatus
from cxr_edge.specs.combination import Combination
from cxr_edge.specs.preprocess import PreprocessSpec


def axis_weights(length: int, cells: int) -> tuple[np.ndarray, int]:
    """(cells, length) integer weights of an axis resize and the sum of each row."""
    weights = np.zeros((cells, length), dtype=np.int64)
    if length >= cells:
        for i in range(cells):
            for j in range(length):
                weights[i, j] = max(0, min((i + 1) * length, (j + 1) * cells) - max(i * length, j * cells))
        return weights, length
    for i in range(cells):
        centre = Fraction((2 * i + 1) * length, 2 * cells) - Fraction(1, 2)
        centre = min(max(centre, Fraction(0)), Fraction(length - 1))
        left = int(centre)
        right_weight = (centre - left) * 2 * cells
        weights[i, left] += 2 * cells - int(right_weight)
        weights[i, min(left + 1, length - 1)] += int(right_weight)
    return weights, 2 * cells


def canvas(pixels: np.ndarray, box: tuple[int, int, int, int], side: int) -> np.ndarray:
    """Box and resize: the rounded (half up) exact average."""
    x0, y0, x1, y1 = box
    cut = pixels[y0:y1, x0:x1].astype(np.int64)
    rows, row_norm = axis_weights(y1 - y0, side)
    columns, column_norm = axis_weights(x1 - x0, side)
    sums = rows @ cut @ columns.T
    norm = row_norm * column_norm
    return ((sums + norm // 2) // norm).astype(pixels.dtype)


def median(pixels: np.ndarray) -> np.ndarray:
    """3x3 median, border replicated."""
    padded = np.pad(pixels, 1, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3))
    return np.median(windows.reshape(*pixels.shape, 9), axis=-1).astype(pixels.dtype)


def normalize(canvas: np.ndarray, spec: PreprocessSpec) -> np.ndarray:
    """Crop, median, scaling, standardisation: one multiplication and one addition in float32 per value."""
    first = (spec.canvas_px - spec.crop_px) // 2
    values = canvas[first : first + spec.crop_px, first : first + spec.crop_px]
    values = median(values) if spec.median else values
    top = float(np.iinfo(canvas.dtype).max)
    out = np.empty(spec.tensor_shape, dtype=np.float32)
    for c in range(spec.channels):
        mean, std = _statistics(values, spec, c, top)
        scale, offset = np.float32(1.0 / (top * std)), np.float32(-mean / std)
        out[c] = values.astype(np.float32) * scale + offset
    return out.astype(spec.dtype)


def _statistics(values: np.ndarray, spec: PreprocessSpec, channel: int, top: float) -> tuple[float, float]:
    if spec.standardize == "none":
        return 0.0, 1.0
    if spec.standardize == "fixed":
        return spec.mean[channel], spec.std[channel]
    exact = values.astype(np.int64)
    mean = int(exact.sum()) / values.size
    variance = int((exact * exact).sum()) / values.size - mean * mean
    return mean / top, max(max(variance, 0.0) ** 0.5 / top, 0.001)


def lung_box(mask, threshold, min_pixels, margin, width, height):
    """First and last row and column with enough lung pixels, widened, clipped; None if no lung is found."""
    lung = mask >= np.float32(threshold)
    rows = np.flatnonzero(lung.sum(axis=1) >= min_pixels)
    columns = np.flatnonzero(lung.sum(axis=0) >= min_pixels)
    if not lung.any() or rows.size == 0 or columns.size == 0:
        return None
    x0, x1 = _widen(columns, mask.shape[1], width, margin)
    y0, y1 = _widen(rows, mask.shape[0], height, margin)
    return (x0, y0, x1, y1)


def lung_box_status(box, width, height, rule):
    """Check the area and the aspect of a box."""
    if box is None:
        return LungBoxStatus.NO_LUNG
    w, h = box[2] - box[0], box[3] - box[1]
    if not rule.min_area <= w * h / (width * height) <= rule.max_area:
        return LungBoxStatus.BAD_AREA
    return LungBoxStatus.VALID if rule.min_aspect <= w / h <= rule.max_aspect else LungBoxStatus.BAD_ASPECT


def _widen(occupied, cells, length, margin):
    scale = length / cells
    begin, end = int(occupied[0]) * scale, (int(occupied[-1]) + 1) * scale
    pad = margin * (end - begin)
    return max(int(np.floor(begin - pad)), 0), min(int(np.ceil(end + pad)), length)


def softmax(values: np.ndarray) -> np.ndarray:
    e = np.exp(values - values.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def sigmoid(values: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -values))


def combine(logits: np.ndarray, combination: Combination) -> tuple[np.ndarray, int]:
    """(members, labels) logits of one image -> (labels) probabilities, winner."""
    if combination.activation == "sigmoid":
        return combine_findings(logits, combination)
    p = softmax(logits.astype(np.float64) / np.asarray(combination.member_temperatures)[:, None])
    parameters = {k: np.asarray(v, dtype=np.float64) for k, v in combination.parameters.items()}
    if combination.strategy == "voting":
        votes = np.bincount(p.argmax(axis=1), minlength=p.shape[1])
        ranked = sorted(range(p.shape[1]), key=lambda k: (-votes[k], -p[:, k].sum(), k))
        return votes / p.shape[0], ranked[0]
    if combination.strategy == "average":
        scores = np.log(p.mean(axis=0))
    elif combination.strategy == "weighted-average":
        scores = np.log((parameters["weights"][:, None] * p).sum(axis=0))
    elif combination.strategy == "stacking":
        hidden = np.maximum(parameters["hidden_weight"] @ p.ravel() + parameters["hidden_bias"], 0)
        scores = parameters["output_weight"] @ hidden + parameters["output_bias"]
    else:
        outer = np.outer(p.ravel(), p.ravel()).ravel()
        scores = np.tanh(parameters["module_weight"] @ outer + parameters["module_bias"]) @ p
    result = softmax(scores / combination.temperature)
    return result, int(result.argmax())


def combine_findings(logits: np.ndarray, combination: Combination) -> tuple[np.ndarray, int]:
    """The same for findings that do not exclude each other."""
    p = sigmoid(logits.astype(np.float64) / np.asarray(combination.member_temperatures)[:, None])
    parameters = {k: np.asarray(v, dtype=np.float64) for k, v in combination.parameters.items()}
    if combination.strategy == "voting":
        shares = (p >= 0.5).mean(axis=0)
        return shares, int(shares.argmax())
    if combination.strategy in {"average", "weighted-average"}:
        weights = parameters.get("weights", np.full(p.shape[0], 1 / p.shape[0]))
        mean = np.clip(weights @ p, 1e-12, 1 - 1e-12)
        scores = np.log(mean) - np.log1p(-mean)
    elif combination.strategy == "stacking":
        hidden = np.maximum(parameters["hidden_weight"] @ p.ravel() + parameters["hidden_bias"], 0)
        scores = parameters["output_weight"] @ hidden + parameters["output_bias"]
    else:
        outer = np.outer(p.ravel(), p.ravel()).ravel()
        weights = np.tanh(parameters["module_weight"] @ outer + parameters["module_bias"])
        two_classes = np.stack([1 - p, p])  # (2, members, labels)
        scores = np.subtract(*(weights @ two_classes)[::-1])
    temperatures = combination.temperature * np.asarray(combination.label_temperatures or [1.0] * p.shape[1])
    result = sigmoid(scores / temperatures)
    return result, int(result.argmax())
