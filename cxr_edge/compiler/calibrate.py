"""Activation ranges: the values that each tensor of a network takes on real images, which an int8 build requires.

An fp32 ONNX file and input batches come in, a `Ranges` comes out, stored as JSON: training measures it on validation
patients and puts it into the bundle, `build-engine --calibration DIR` measures it again. The format is independent of the
runtimes' calibration tables, so one file serves every runtime.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from cxr_edge.backends.base import CompileOptions, Engine
from cxr_edge.backends.onnxruntime import OnnxRuntimeBackend
from cxr_edge.compiler.graph.graph import Graph
from cxr_edge.compiler.graph.simplify import simplify
from cxr_edge.digests import sha256_file
from cxr_edge.errors import BundleError, ContractError, CxrEdgeError, InputError

__all__ = ["SCHEMA", "Method", "Ranges", "choose_range", "measure_ranges"]

SCHEMA = "cxr-edge-ranges/1"

Method = Literal["minmax", "mse"]

_HALF_BINS = 2048  # per side of the histogram: 16 bins per quantisation step
_HISTOGRAM_VALUES = 65536  # values per tensor and image in the histogram; minimum and maximum use all
_LEVELS = 255
_CUTS = np.linspace(0.2, 1.0, 81)  # limits that `mse` tries, relative to the extreme value


@dataclass(frozen=True, kw_only=True)
class Ranges:
    """Lowest and highest value to represent, for each float tensor of one network."""

    onnx_sha256: str  # of the measured ONNX file
    method: Method
    images: int  # number of images
    source: str  # description of the images (`validation patients`)
    tensors: Mapping[str, tuple[float, float]]
    inputs_sha256: str = ""  # identity of the inputs, for reuse of a cache; empty if not cached

    def __post_init__(self) -> None:
        bad = [n for n, (low, high) in self.tensors.items() if not (np.isfinite([low, high]).all() and low <= high)]
        if bad or not self.tensors or self.images < 1 or self.method not in get_args(Method):
            raise BundleError(
                f"activation ranges need at least one image, a method out of {get_args(Method)} and finite limits "
                f"low <= high of each tensor; got {self.images} images, {self.method!r}, "
                f"{len(self.tensors)} tensors, unusable: {bad[:5]}"
            )

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object that `read` takes."""
        return {
            "schema": SCHEMA,
            "onnx_sha256": self.onnx_sha256,
            "method": self.method,
            "images": self.images,
            "source": self.source,
            "inputs_sha256": self.inputs_sha256,
            "tensors": {name: list(limits) for name, limits in self.tensors.items()},
        }

    def write(self, path: Path) -> None:
        """Write the JSON file."""
        path.write_text(json.dumps(self.as_json(), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Ranges:
        """Read a JSON file that `write` wrote. Raises BundleError if it is none."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if values.pop("schema") != SCHEMA:
                raise ValueError("unknown schema")
            tensors = {str(n): (float(low), float(high)) for n, (low, high) in values.pop("tensors").items()}
            return cls(**values, tensors=tensors)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise BundleError(
                f"{path.name} is no file of activation ranges ({SCHEMA}): {error}; measure them again with "
                f"--calibration DIR, or export the bundle again"
            ) from None

    def check(self, onnx_path: Path) -> None:
        """Raise ContractError if the ranges were measured on another file than `onnx_path`."""
        digest = sha256_file(onnx_path)
        if digest != self.onnx_sha256:
            raise ContractError(
                f"the activation ranges were measured on a network with SHA-256 {self.onnx_sha256[:12]}..., "
                f"{onnx_path.name} has {digest[:12]}...: export the bundle again, or give --calibration DIR"
            )


def measure_ranges(
    onnx_path: Path,
    batches: Iterable[npt.NDArray[np.float32]],
    *,
    source: str,
    method: Method = "mse",
    inputs_sha256: str = "",
) -> Ranges:
    """Run the fp32 network on `batches` and choose the range of every float tensor.

    batches: (n, C, H, W) float32 each, preprocessed as the network expects; streamed one image at a time, so memory
    does not grow with their number.
    method: `mse` cuts a tail off if that loses less (squared error) than it gains in resolution; `minmax` never does. On
    a trained member `mse` changed probabilities by 0.002 in the mean, equally with ranges of 16, 64 or 200 images;
    `minmax` by 0.002, rising to 0.003 with 200 (400 held-out X-rays).
    Raises InputError if there is no image, ContractError for a wrong shape.
    """
    histograms: dict[str, _Histogram] = {}
    images = 0
    for tensors in _activations(onnx_path, batches):
        images += 1
        for name, values in tensors.items():
            histograms.setdefault(name, _Histogram()).add(values)
    if not images:
        raise InputError("activation ranges need at least one image, got none")
    return Ranges(
        onnx_sha256=sha256_file(onnx_path),
        method=method,
        images=images,
        source=source,
        tensors={name: h.limits(method) for name, h in histograms.items()},
        inputs_sha256=inputs_sha256,
    )


def choose_range(counts: npt.NDArray[np.int64], edge: float, low: float, high: float) -> tuple[float, float]:
    """Return the limits within low..high with the least squared error of 255 levels.

    counts: histogram over -edge..edge, in equal bins, without exact zeros, which are always represented exactly.
    """
    centres = np.asarray((np.arange(counts.size) + 0.5) * (2 * edge / counts.size) - edge, np.float64)
    best_low, best_high = min(low, 0.0), max(high, 0.0)
    for _ in range(2):
        highs: npt.NDArray[np.float64] = (_CUTS * max(high, 0.0)).astype(np.float64)
        best_high = float(highs[np.argmin(_loss(counts, centres, np.full(highs.shape, best_low), highs))])
        lows: npt.NDArray[np.float64] = (_CUTS * min(low, 0.0)).astype(np.float64)
        best_low = float(lows[np.argmin(_loss(counts, centres, lows, np.full(lows.shape, best_high)))])
    return best_low, best_high


def _loss(
    counts: npt.NDArray[np.int64],
    centres: npt.NDArray[np.float64],
    lows: npt.NDArray[np.float64],
    highs: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """Return the summed squared error per pair of limits: clipping outside, rounding (step squared / 12) inside."""
    low, high = lows[:, None], highs[:, None]
    clipped = np.maximum(low - centres, 0) + np.maximum(centres - high, 0)
    rounding = ((high - low) / _LEVELS) ** 2 / 12
    return np.asarray((counts * np.where(clipped > 0, clipped**2, rounding)).sum(axis=1))


class _Histogram:
    """Histogram of one tensor, streamed: exact minimum and maximum, and counts over a symmetric span that doubles."""

    def __init__(self) -> None:
        self.low, self.high, self.edge = np.inf, -np.inf, 0.0
        self.counts = np.zeros(2 * _HALF_BINS, np.int64)

    def add(self, values: npt.NDArray[np.float32]) -> None:
        flat = values.reshape(-1)
        low, high = float(flat.min()), float(flat.max())
        if not np.isfinite([low, high]).all():
            raise ContractError("the fp32 network gave a value that is not finite: it cannot be calibrated or trusted")
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._widen(max(abs(low), abs(high)))
        if self.edge > 0.0:
            # An odd stride samples all positions of a row in turn instead of one column.
            stride = max(1, flat.size // _HISTOGRAM_VALUES) | 1
            sample = flat[::stride] if flat.size > _HISTOGRAM_VALUES else flat
            sample = sample[sample != 0.0]
            bins = ((sample.astype(np.float64) / self.edge + 1) * _HALF_BINS).astype(np.int64)
            self.counts += np.bincount(bins.clip(0, 2 * _HALF_BINS - 1), minlength=2 * _HALF_BINS)

    def limits(self, method: Method) -> tuple[float, float]:
        if method == "minmax" or self.edge == 0.0:
            return self.low, self.high
        return choose_range(self.counts, self.edge, self.low, self.high)

    def _widen(self, extreme: float) -> None:
        if self.edge == 0.0 and extreme > 0.0:
            self.edge = float(2.0 ** np.ceil(np.log2(extreme)))
        while extreme > self.edge > 0.0:
            pairs = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.pad(pairs, _HALF_BINS // 2)
            self.edge *= 2


def _activations(
    onnx_path: Path, batches: Iterable[npt.NDArray[np.float32]]
) -> Iterator[dict[str, npt.NDArray[np.float32]]]:
    """Yield every float activation of the network, including the input, image by image."""
    engines = [_load(model) for model in _measured_models(onnx_path)]
    name = engines[0].inputs[0].name
    for batch in batches:
        for i in range(len(batch)):
            image = np.ascontiguousarray(batch[i : i + 1])
            values = {name: image}
            for engine in reversed(engines):  # the network's own values replace those of the simplified one
                values.update(engine.run({name: image}))
            yield values


def _load(model: onnx.ModelProto) -> Engine:
    with tempfile.TemporaryDirectory(prefix="cxr-edge-") as folder:
        path = Path(folder, "all-outputs.onnx")
        onnx.save(model, path)
        return OnnxRuntimeBackend().load(path, CompileOptions())  # unoptimised, so that every tensor exists


def _measured_models(onnx_path: Path) -> list[onnx.ModelProto]:
    """Return the network with all its activations as outputs, then the simplified one with those that only it has.

    Simplification replaces operators that are functions (HardSwish, local functions) by their bodies, whose tensors int8 needs.
    """
    original = onnx.load(onnx_path)
    known, inputs = set(_float_activations(original)), {i.name for i in original.graph.input}
    try:
        simplified = simplify(onnx_path).model
    except CxrEdgeError:  # the build ends with the reason
        return [_with_outputs(original, known)]
    added = {n for n in _float_activations(simplified) if n not in known | inputs}
    return [_with_outputs(original, known), *([_with_outputs(simplified, added)] if added else [])]


def _float_activations(model: onnx.ModelProto) -> list[str]:
    """Return the names of the model's float32 activations, without the input."""
    inferred, graph = onnx.shape_inference.infer_shapes(model), Graph(model)
    types = {v.name: v.type.tensor_type.elem_type for v in (*inferred.graph.value_info, *inferred.graph.output)}
    activations = (out for node in graph.nodes if graph.activations(node) for out in node.output)
    return [n for n in activations if types.get(n) == TensorProto.FLOAT]


def _with_outputs(model: onnx.ModelProto, names: Collection[str]) -> onnx.ModelProto:
    """Return `model` with these tensors as outputs too."""
    present = {o.name for o in model.graph.output}
    new = sorted(set(names) - present)
    model.graph.output.extend(helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in new)
    return model
