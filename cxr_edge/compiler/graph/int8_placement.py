"""Where quantisation goes in a graph: which nodes compute on int8, which tensors get a Q/DQ pair, which share a scale.

A `Graph` comes in, names come out; `precision` does the rewriting. It is the knowledge of what runtimes fuse: a layer
with its inputs and output quantised becomes one int8 kernel, a missing pair in between makes it a float one.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx

from cxr_edge.compiler.graph.graph import Graph, attribute

__all__ = ["WITH_WEIGHTS", "choose_nodes", "choose_tensors", "foldable_activations", "same_scale", "weight_of"]

WITH_WEIGHTS = ("Conv", "Gemm", "MatMul")
# Operators whose output holds values of their input, so both share one scale and runtimes need not requantise.
_SAME_SCALE = ("MaxPool", "Resize", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "DepthToSpace")
_THROUGH = (*_SAME_SCALE, "Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool", "Sigmoid", "LeakyRelu")


def choose_nodes(graph: Graph, keep_float: frozenset[str]) -> dict[str, onnx.NodeProto]:
    """The nodes that will compute on int8, by the name of their first output."""
    before_a_layer = _leads_to_a_layer(graph)
    chosen = {}
    for node in graph.nodes:
        out = node.output[0]
        if out in keep_float or out in graph.outputs or out not in before_a_layer:
            continue
        if weight_of(graph, node) is not None or _goes_through(graph, node):
            chosen[out] = node
    return chosen


def foldable_activations(graph: Graph, quantized: Mapping[str, onnx.NodeProto]) -> dict[str, str]:
    """Output of a Relu (or Clip from 0) -> the int8 layer's output that it can be folded into."""
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
    """The tensors that get a Q/DQ pair: inputs and outputs of int8 nodes, or the Relu's output where one follows.

    symmetric: zero points are 0, so that a Relu does something that quantising does not.
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
    """Tensor -> the first tensor of its group; a group shares one scale."""
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
    """The constant float32 weights of a layer that we know how to quantise, else None."""
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


def _leads_to_a_layer(graph: Graph) -> set[str]:
    """The tensors from which some layer with weights is still to come."""
    found: set[str] = set()
    for node in reversed(graph.nodes):
        if weight_of(graph, node) is not None or any(out in found for out in node.output):
            found.update(graph.activations(node))
    return found


def _goes_through(graph: Graph, node: onnx.NodeProto) -> bool:
    if node.op_type not in _THROUGH:
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
