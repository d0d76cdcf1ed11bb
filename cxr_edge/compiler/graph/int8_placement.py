"""Placement of quantisation: the nodes that compute in int8, the tensors with a Q/DQ pair, the groups of one scale.

A `Graph` comes in, names come out; `int8` does the rewriting. The rules follow what runtimes fuse: a layer with quantised
inputs and output becomes one int8 kernel, and a missing pair makes it a float one.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx

from cxr_edge.compiler.graph.dtypes import element_types
from cxr_edge.compiler.graph.graph import Graph, attribute, precedes_layer
from cxr_edge.errors import BundleError

__all__ = ["WITH_WEIGHTS", "choose_nodes", "choose_tensors", "foldable_activations", "same_scale", "weight_of"]

_FLOAT = onnx.TensorProto.FLOAT
WITH_WEIGHTS = ("Conv", "Gemm", "MatMul")
# Operators whose output holds values of their input, so both share one scale and runtimes need not requantise.
_SAME_SCALE = ("MaxPool", "Resize", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "DepthToSpace")
_PASS_THROUGH = (*_SAME_SCALE, "Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool", "Sigmoid", "LeakyRelu")


def choose_nodes(graph: Graph, keep_float: frozenset[str]) -> dict[str, onnx.NodeProto]:
    """Return the nodes that will compute in int8, by the name of their first output."""
    inside = precedes_layer(graph, lambda node: weight_of(graph, node) is not None)
    types = _types(graph)
    chosen = {}
    for node in graph.nodes:
        out = node.output[0]
        if out in keep_float or out in graph.outputs or out not in inside or types.get(out, _FLOAT) != _FLOAT:
            continue  # whole numbers: the sizes that a Reshape or Expand takes (ViT)
        if weight_of(graph, node) is not None or _passes_through(graph, node):
            chosen[out] = node
    return chosen


def _types(graph: Graph) -> dict[str, int]:
    """Return the element type of every tensor; none if an operator (If, Loop) does not determine it."""
    try:
        return element_types(graph)
    except BundleError:
        return {}


def foldable_activations(graph: Graph, quantized: Mapping[str, onnx.NodeProto]) -> dict[str, str]:
    """Map the output of a Relu (or Clip from 0) to the output of the int8 layer that it can be folded into."""
    folded = {}
    for node in graph.nodes:
        source, out = node.input[0] if node.input else "", node.output[0]
        if (
            _is_relu(graph, node)
            and out not in graph.outputs
            and source in quantized
            and quantized[source].op_type not in _SAME_SCALE
            and graph.only_consumer(source)
        ):
            folded[out] = source
    return folded


def choose_tensors(
    graph: Graph, quantized: Mapping[str, onnx.NodeProto], folded: Mapping[str, str], *, symmetric: bool
) -> list[str]:
    """Return the tensors with a Q/DQ pair: inputs and outputs of int8 nodes, or the output of the Relu that follows.

    symmetric: zero points are 0, so that quantising does not replace a Relu.
    """
    covered = set(folded.values())
    if symmetric:  # layer -> Relu -> Q is one kernel where activations are symmetric
        relus = [n for n in graph.nodes if _is_relu(graph, n) and n.output[0] not in graph.outputs]
        covered |= {n.input[0] for n in relus if n.input[0] in quantized and graph.only_consumer(n.input[0])}
    inputs = [name for node in quantized.values() for name in graph.activations(node)]
    outputs = [_relu_after(graph, out) if out in covered else out for out in quantized]
    return [t for t in dict.fromkeys((*inputs, *outputs)) if t not in covered]


def same_scale(
    quantized: Mapping[str, onnx.NodeProto], tensors: list[str], folded: Mapping[str, str]
) -> dict[str, str]:
    """Map each tensor to the first tensor of its group; a group shares one scale."""
    after_fold = {source: out for out, source in folded.items()}
    leader = {name: name for name in tensors}
    for out, node in quantized.items():
        if node.op_type not in _SAME_SCALE:
            continue
        a, b = leader.get(node.input[0]), leader.get(after_fold.get(out, out))
        if a is not None and b is not None and a != b:
            leader = {name: a if group == b else group for name, group in leader.items()}
    return leader


def weight_of(graph: Graph, node: onnx.NodeProto) -> npt.NDArray[np.float32] | None:
    """Return the constant float32 weights of a layer that `int8` can quantise, else None."""
    if node.op_type not in WITH_WEIGHTS or len(node.input) < 2 or node.input[0] in graph.constants:
        return None
    if len(node.input) > 2 and node.input[2] and node.input[2] not in graph.constants:
        return None
    if node.op_type == "Gemm" and (attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0)) != (1.0, 1.0):
        return None
    weight = graph.constants.get(node.input[1])
    if weight is None or weight.dtype != np.float32 or weight.ndim < 2:
        return None
    if node.op_type == "MatMul" and weight.ndim != 2:
        return None
    return weight.astype(np.float32, copy=False)


def _passes_through(graph: Graph, node: onnx.NodeProto) -> bool:
    if node.op_type not in _PASS_THROUGH:
        return False
    if node.op_type in ("Add", "Mul"):
        return len(graph.activations(node)) == 2
    if node.op_type == "Resize" and attribute(node, "mode", b"nearest") == b"cubic":
        return False
    return node.op_type == "Concat" or len(graph.activations(node)) == 1


def _is_relu(graph: Graph, node: onnx.NodeProto) -> bool:
    if node.op_type != "Clip":
        return bool(node.op_type == "Relu")
    low = graph.constants.get(node.input[1]) if len(node.input) > 1 else None
    constant: bool = all(not name or name in graph.constants for name in node.input[1:])
    return constant and low is not None and not low.any()


def _relu_after(graph: Graph, tensor: str) -> str:
    return str(graph.consumers(tensor)[0].output[0])
