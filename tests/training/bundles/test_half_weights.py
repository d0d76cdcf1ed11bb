"""Weights stored in half precision: half the size, nearly the same outputs, and nothing that fp16 cannot hold."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from training.bundles.half_weights import store_half

WIDTH = 64


def _model(scale: float) -> onnx.ModelProto:
    """Return image (N, WIDTH) -> logits (N, WIDTH): a matrix of weights times `scale`, and a bias."""
    draw = np.random.default_rng(1)
    weights = (draw.normal(size=(WIDTH, WIDTH)) * scale).astype(np.float32)
    bias = draw.normal(size=WIDTH).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["image", "weights"], ["x"]),
        helper.make_node("Add", ["x", "bias"], ["logits"]),
    ]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", WIDTH]) for n in ("image", "logits")]
    tensors = [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(bias, "bias")]
    graph = helper.make_graph(nodes, "toy", values[:1], values[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def _run(model: onnx.ModelProto) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(
        None, {"image": np.random.default_rng(2).normal(size=(3, WIDTH)).astype(np.float32)}
    )[0]
    return found


def test_half_the_bytes_and_nearly_the_same_outputs() -> None:
    model = _model(1.0)
    half = store_half(model)
    assert half.ByteSize() < 0.6 * model.ByteSize()
    difference = np.abs(_run(half) - _run(model)).max() / np.abs(_run(model)).max()
    assert 0 < difference < 1e-3
    kinds = {t.name: t.data_type for t in half.graph.initializer}
    assert kinds == {"weights.fp16": TensorProto.FLOAT16, "bias": TensorProto.FLOAT}
    assert {t.name for t in model.graph.initializer} == {"weights", "bias"}, "the model given is not changed"


@pytest.mark.parametrize("scale", [1e6, 1e-9])
def test_weights_beyond_the_range_stay_exact(scale: float) -> None:
    model = _model(scale)
    assert np.array_equal(_run(store_half(model)), _run(model))
