"""Weights stored in half precision: an ONNX model in, one of half the size that computes in fp32 as before out.

Each large tensor is stored as fp16 and cast back by a node that every runtime folds when it loads the file. The rounding (by
at most 2**-11 of the largest weight of its tensor) is part of the network
from then on: known answers, gate and figures are of it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["store_half"]

_LEAST = 256  # elements of a tensor that is stored so: biases and norms stay exact
_SUFFIX = ".fp16"
_ERROR = 2.0**-11  # of rounding to fp16, relative to the largest weight


def store_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy whose large fp32 weights are stored in fp16, except tensors that its range does not hold."""
    stored = onnx.ModelProto()
    stored.CopyFrom(model)
    casts = []
    for tensor in stored.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.data_type != TensorProto.FLOAT or values.size < _LEAST or not _fits(values):
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), name + _SUFFIX))
        casts.append(helper.make_node("Cast", [name + _SUFFIX], [name], name=name + _SUFFIX, to=TensorProto.FLOAT))
    nodes = [*casts, *stored.graph.node]
    del stored.graph.node[:]
    stored.graph.node.extend(nodes)
    onnx.checker.check_model(stored, full_check=True)
    return stored


def _fits(values: npt.NDArray[np.float32]) -> bool:
    """Return whether fp16 holds the values: none becomes infinite, and small ones lose nothing that counts beside the largest."""
    with np.errstate(over="ignore"):
        error = np.abs(values.astype(np.float16).astype(np.float32) - values).max()
    return bool(error <= _ERROR * np.abs(values).max())
