"""Small networks for the build tests, on top of the toy bundle's graph maker."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from cxr_edge.backends.base import CompileOptions
from cxr_edge.backends.onnxruntime import OnnxRuntimeBackend
from cxr_edge.preprocess import PreprocessSpec
from tests.toy_bundle import Graph

__all__ = ["SPEC", "chain", "compiled", "engine_of", "images", "op_types", "saved"]

SPEC = PreprocessSpec(canvas_px=16, crop_px=16)


def chain(seed: int = 3) -> onnx.ModelProto:
    """Conv, Relu, Conv 1x1, mean: input `image` (N, 1, 16, 16), output `logits` (N, 4)."""
    g = Graph(seed)
    x = g.op("Relu", g.conv("image", 1, 8), name="features")
    g.op("ReduceMean", g.conv(x, 8, 4, 1), axes=[2, 3], keepdims=0, name="logits")
    return g.model(SPEC, {"logits": ("N", 4)})


def images(count: int, spec: PreprocessSpec = SPEC, seed: int = 0) -> list[np.ndarray]:
    """Standard normal inputs (1, C, H, W)."""
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((1, *spec.tensor_shape)).astype(np.float32) for _ in range(count)]


def saved(model: onnx.ModelProto, folder: Path, name: str = "network.onnx") -> Path:
    folder.mkdir(exist_ok=True)
    onnx.save(model, folder / name)
    return folder / name


def engine_of(model: onnx.ModelProto, folder: Path):
    """`model` as a loaded ONNX Runtime engine."""
    return OnnxRuntimeBackend().load(compiled(model, folder), CompileOptions())


def compiled(model: onnx.ModelProto, folder: Path) -> Path:
    """The engine file of `model`."""
    OnnxRuntimeBackend().compile(saved(model, folder), folder / "engine.onnx", CompileOptions())
    return folder / "engine.onnx"


def op_types(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]
