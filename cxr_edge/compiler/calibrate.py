"""Activation ranges: what values each tensor of a network takes on real images, the one thing an int8 build must know.

An fp32 ONNX file and input batches go in, a `Ranges` comes out, whose JSON is the cache of scales: training measures it
on validation patients and puts it into the bundle, `build-engine --calibration DIR` measures it anew. It is ours and
not a runtime's calibration table, so one file serves every runtime.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from cxr_edge.backends.base import CompileOptions
from cxr_edge.backends.onnxruntime import OnnxRuntimeBackend
from cxr_edge.compiler.graph.graph import Graph
from cxr_edge.errors import BundleError, ContractError, InputError

__all__ = ["SCHEMA", "Method", "Ranges", "choose_range", "measure_ranges"]

SCHEMA = "cxr-edge-ranges/1"

Method = Literal["minmax", "mse"]

_HALF_BINS = 2048  # a side of the histogram: 16 bins a quantisation step
_VALUES_A_TENSOR = 65536  # of one image that enter the histogram; minimum and maximum see all
_LEVELS = 255
_CUTS = np.linspace(0.2, 1.0, 81)  # shares of the extreme value that `mse` tries as limit


@dataclass(frozen=True, kw_only=True)
class Ranges:
    """Lowest and highest value to represent, for each float tensor of one network.

    onnx_sha256: of the ONNX file measured. images: how many. source: which, in words (`validation patients`).
    inputs_sha256: of the inputs' identity, for reuse of a cache; empty where nobody will ask.
    """

    onnx_sha256: str
    method: Method
    images: int
    source: str
    tensors: Mapping[str, tuple[float, float]]
    inputs_sha256: str = ""

    def __post_init__(self) -> None:
        bad = [n for n, (low, high) in self.tensors.items() if not (np.isfinite([low, high]).all() and low <= high)]
        if bad or not self.tensors or self.images < 1 or self.method not in get_args(Method):
            raise BundleError(
                f"activation ranges need at least one image, a method out of {get_args(Method)} and finite limits "
                f"low <= high of each tensor; got {self.images} images, {self.method!r}, "
                f"{len(self.tensors)} tensors, unusable: {bad[:5]}"
            )

    def as_json(self) -> dict[str, Any]:
        """The JSON object that `read` takes."""
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
        """Read a JSON file that `write` made. Raises BundleError if it is not one."""
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
        digest = hashlib.sha256(onnx_path.read_bytes()).hexdigest()
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
    does not grow with their number. method: `mse` cuts a tail off where that loses less (squared error) than it gains
    in resolution; `minmax` never does. On a trained member `mse` moved probabilities by 0.002 in the mean, with ranges
    of 16, 64 or 200 images alike, `minmax` by 0.002, rising to 0.003 with 200 (400 held-out X-rays).
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
        onnx_sha256=hashlib.sha256(onnx_path.read_bytes()).hexdigest(),
        method=method,
        images=images,
        source=source,
        tensors={name: h.limits(method) for name, h in histograms.items()},
        inputs_sha256=inputs_sha256,
    )


def choose_range(counts: npt.NDArray[np.int64], edge: float, low: float, high: float) -> tuple[float, float]:
    """The limits within low..high that lose least squared error with 255 levels.

    counts: histogram over -edge..edge, in equal bins, without the exact zeros (they are always represented exactly).
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
    """Summed squared error for every pair of limits: clipping outside, rounding (step squared / 12) inside."""
    low, high = lows[:, None], highs[:, None]
    clipped = np.maximum(low - centres, 0) + np.maximum(centres - high, 0)
    rounding = ((high - low) / _LEVELS) ** 2 / 12
    return np.asarray((counts * np.where(clipped > 0, clipped**2, rounding)).sum(axis=1))


class _Histogram:
    """Values of one tensor, streamed: exact minimum and maximum, and counts over a symmetric span that doubles."""

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
            stride = max(1, flat.size // _VALUES_A_TENSOR) | 1
            sample = flat[::stride] if flat.size > _VALUES_A_TENSOR else flat
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
    """Every float activation of the network, input included, for one image after the other."""
    with tempfile.TemporaryDirectory(prefix="cxr-edge-") as folder:
        path = Path(folder, "observed.onnx")
        onnx.save(_observed(onnx.load(onnx_path)), path)
        engine = OnnxRuntimeBackend().load(path, CompileOptions())  # unoptimised: every tensor must be there to see
    name = engine.inputs[0].name
    for batch in batches:
        for i in range(len(batch)):
            image = np.ascontiguousarray(batch[i : i + 1])
            yield {name: image, **engine.run({name: image})}


def _observed(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` with all its float32 activations as outputs."""
    inferred = onnx.shape_inference.infer_shapes(model)
    graph = Graph(model)
    known = {v.name: v.type.tensor_type.elem_type for v in (*inferred.graph.value_info, *inferred.graph.output)}
    wanted = (out for node in graph.nodes if graph.activations(node) for out in node.output)
    new = [n for n in wanted if n not in graph.outputs and known.get(n) == TensorProto.FLOAT]
    model.graph.output.extend(helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in new)
    return model
