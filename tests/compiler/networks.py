"""Small networks for the build tests, on top of the toy bundle's graph maker."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx
from onnx import numpy_helper

from cxr_edge.backends.base import CompileOptions
from cxr_edge.backends.onnxruntime import OnnxRuntimeBackend
from cxr_edge.compiler.graph.half_emulation import emulate_half
from cxr_edge.specs.preprocess import PreprocessSpec
from tests.builders.toy_bundle import Graph

__all__ = [
    "SPEC",
    "HalfOnCpu",
    "chain",
    "compiled",
    "deep",
    "engine_of",
    "headed",
    "images",
    "op_types",
    "saved",
    "textures",
]

SPEC = PreprocessSpec(canvas_px=16, crop_px=16)


def chain(seed: int = 3) -> onnx.ModelProto:
    """Conv, Relu, Conv 1x1, mean: input `image` (N, 1, 16, 16), output `logits` (N, 4)."""
    g = Graph(seed)
    x = g.op("Relu", g.conv("image", 1, 8), name="features")
    g.op("ReduceMean", g.conv(x, 8, 4, 1), axes=[2, 3], keepdims=0, name="logits")
    return g.model(SPEC, {"logits": ("N", 4)})


def headed(columns: int, end: str | None = None, *, scale: float = 1.0, hot: float = 0.0) -> onnx.ModelProto:
    """Three convolutions, mean, and `end` (Softmax, Sigmoid): `image` (N, 1, 16, 16) to `logits` (N, columns).

    scale: of the logits. hot: value of a channel that nothing reads; a large one takes all levels of an int8 layer, so that
    the int8 engine's outputs are constant.
    """
    g = Graph(seed=3)
    x = g.op("Relu", g.conv("image", 1, 8))
    x = g.op("Relu", g.conv(x, 8, 8))
    mean = g.op("ReduceMean", g.conv(x, 8, columns, 1), axes=[2, 3], keepdims=0, name=None if end else "logits")
    if end:
        g.op(end, mean, name="logits")
    model = g.model(SPEC, {"logits": ("N", columns)})
    weights = [np.array(numpy_helper.to_array(i)) for i in model.graph.initializer]
    weights[0][0], weights[1][0], weights[2][:, 0] = 0.0, hot, 0.0
    weights[4] *= scale
    weights[5] *= scale
    for initializer, values in zip(model.graph.initializer, weights, strict=True):
        initializer.CopyFrom(numpy_helper.from_array(values, initializer.name))
    return model


def images(count: int, spec: PreprocessSpec = SPEC, seed: int = 0) -> list[np.ndarray]:
    """Standard normal inputs (1, C, H, W)."""
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((1, *spec.tensor_shape)).astype(np.float32) for _ in range(count)]


def textures(folder: Path, count: int = 8, side: int = 64) -> Path:
    """Write images of random texture, from fine to coarse, on which the outputs of untrained networks vary."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(5)
    for i in range(count):
        cells = rng.integers(0, 256, (side >> i % 5, side >> i % 5), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{i}.png"), cv2.resize(cells, (side, side), interpolation=cv2.INTER_NEAREST))
    return folder


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


class HalfOnCpu(OnnxRuntimeBackend):
    """A runtime that computes in half as GPUs do: ONNX Runtime on the CPU, over graphs that round where half would."""

    name = "half-on-cpu"
    precisions = ("fp32", "fp16", "bf16", "uint8", "int8")

    def compile(self, onnx_file: Path, engine: Path, options: CompileOptions) -> None:
        onnx.save(emulate_half(onnx.load(onnx_file)), onnx_file)
        super().compile(onnx_file, engine, options)


def deep(layers: int = 6, *, bad: int | None = None, how: str = "int8", seed: int = 3) -> onnx.ModelProto:
    """A chain of 3x3 layers `layer_0`, ..., then 1x1 and mean: input `image` (N, 1, 16, 16), output `logits` (N, 4).

    bad: a layer that is correct in fp32 and fails in `how`. In int8: huge weights on a channel that is always 0 leave no
    levels for the others. In fp16: it gives values beyond 65504, which the following Sqrt brings back into range.
    """
    g = Graph(seed)
    x, channels = "image", 1
    for i in range(layers):
        g.conv(x, channels, 8)
        g.nodes[-1].output[0] = f"layer_{i}"
        x = g.op("Relu", f"layer_{i}", name=f"relu_{i}")
        if i == bad and how == "fp16":
            x = g.op("Sqrt", x, name=f"scaled_{i}")  # a factor would be folded into the next layer
        channels = 8
    g.op("ReduceMean", g.conv(x, 8, 4, 1), axes=[2, 3], keepdims=0, name="logits")
    model = g.model(SPEC, {"logits": ("N", 4)})
    if bad is not None:
        _poison(model, bad, how)
    return model


def _poison(model: onnx.ModelProto, bad: int, how: str) -> None:
    initializers = {i.name: i for i in model.graph.initializer}

    def change(layer, index, edit):
        node = next(n for n in model.graph.node if n.output[0] == f"layer_{layer}")
        tensor = initializers[node.input[index]]
        values = np.array(numpy_helper.to_array(tensor))
        edit(values)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    if how == "fp16":
        for index in (1, 2):
            change(bad, index, lambda v: v.__imul__(2.0**15))
        change(bad + 1, 1, lambda v: v.__imul__(2.0**-7))
        return
    change(bad - 1, 1, lambda v: v[0].fill(0.0))
    change(bad - 1, 2, lambda v: v[:1].fill(-1.0))  # the Relu makes channel 0 all 0
    change(bad, 1, lambda v: v[:, 0].fill(1e4))
