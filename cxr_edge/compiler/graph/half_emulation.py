"""Emulation of half precision in fp32: a graph that any runtime runs, with values rounded where the half graph rounds.

No processor's ONNX Runtime computes bfloat16, and without float16 kernels it omits the rounding between two nodes, so a
value beyond float16's range would stay undetected. GPUs accumulate in float32 and round each result once, and so does the
emulation. Where GPUs fuse nodes they may round less often, so the emulation is the stricter one.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from cxr_edge.compiler.graph.dtypes import element_types
from cxr_edge.compiler.graph.graph import Graph, copied

__all__ = ["emulate_half"]

_HALF = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
# Operators whose results are values of their inputs: nothing to round.
_EXACT = frozenset((
    "Relu", "MaxPool", "GlobalMaxPool", "Concat", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity",
    "Slice", "Split", "Gather", "Expand", "Tile", "DepthToSpace", "SpaceToDepth", "Max", "Min", "Neg", "Abs",
))  # fmt: skip


def emulate_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a float32 copy of `model` (by `to_half`), with casts to half and back after every node that rounds."""
    copy = copied(model)
    graph = Graph(copy)
    types = element_types(graph)
    for tensor in copy.graph.initializer:
        if tensor.data_type in _HALF:
            values = np.asarray(numpy_helper.to_array(tensor)).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    inputs = {i.name: f"{i.name}_up" for i in copy.graph.input if types[i.name] in _HALF}
    new = [helper.make_node("Cast", [name], [up], to=TensorProto.FLOAT) for name, up in inputs.items()]
    for node in graph.nodes:
        node.input[:] = [inputs.get(name, name) for name in node.input]
        new += _in_float(node, types | {up: types[name] for name, up in inputs.items()})
    graph.replace_nodes(new)
    return graph.model


def _in_float(node: onnx.NodeProto, types: dict[str, int]) -> list[onnx.NodeProto]:
    """Return `node` on float32, with its half outputs rounded."""
    source, result = types.get(node.input[0] if node.input else ""), types[node.output[0]]
    if node.op_type == "Cast" and source in _HALF and result == TensorProto.FLOAT:
        return [helper.make_node("Identity", list(node.input), list(node.output), name=node.name)]
    if result not in _HALF or node.op_type in _EXACT:
        return [node]
    if node.op_type == "Cast":
        return _rounding(node.input[0], node.output[0], result)
    new = copied(node)
    halves = [name for name in node.output if types.get(name) in _HALF]
    new.output[:] = [f"{name}_exact" if name in halves else name for name in node.output]
    return [new, *(pair for name in halves for pair in _rounding(f"{name}_exact", name, types[name]))]


def _rounding(source: str, target: str, dtype: int) -> list[onnx.NodeProto]:
    return [
        helper.make_node("Cast", [source], [f"{target}_half"], name=f"{target}_down", to=dtype),
        helper.make_node("Cast", [f"{target}_half"], [target], name=f"{target}_up", to=TensorProto.FLOAT),
    ]
