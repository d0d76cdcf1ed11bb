"""Class activation map of a network that ends in a global average pooling and a dense layer.

The model's graph and the tensor with its logits come in, a `ClassMap` comes out: a 1x1 convolution with the dense layer's
weights gives the map, because pooling and dense layer commute. None for any other end of a network: a transformer, a layer
norm or a second dense layer after the pooling.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from cxr_edge.compiler.graph.graph import Graph, attribute

__all__ = ["TRANSPARENT", "ClassMap", "find_class_map"]

# Operators that keep every value, or its rounding.
TRANSPARENT = ("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Dropout", "Cast")
_TO_LAST, _TO_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]  # permutations: channels last, channels first

Producers = Mapping[str, onnx.NodeProto]
Weight = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class ClassMap:
    """Origin of a map."""

    features: str  # tensor (N, C, h, w), or (N, h, w, C)
    channels_last: bool
    weight: Weight  # (columns, C)

    def nodes(self, graph: Graph, columns: Sequence[int | None], output: str) -> list[onnx.NodeProto]:
        """Return nodes that give the map (N, len(columns), h, w) as `output`. None among the columns: a map of zeros."""
        nodes, features = [], self.features
        if self.channels_last:
            features = f"{output}_features"
            nodes.append(helper.make_node("Transpose", [self.features], [features], perm=_TO_FIRST))
        rows = [np.zeros_like(self.weight[0]) if c is None else self.weight[c] for c in columns]
        kernel = graph.add_constant(f"{output}_weight", np.stack(rows)[:, :, None, None])
        return [*nodes, helper.make_node("Conv", [features, kernel], [output], name=output, kernel_shape=[1, 1])]


def find_class_map(graph: Graph, logits: str, columns: int) -> ClassMap | None:
    """Return the origin of the map of `logits` (N, columns), or None if the network has another end."""
    producers = {name: node for node in graph.nodes for name in node.output}
    before = _skip(producers, logits)
    pooled = _pooled(graph, producers, before)
    if pooled is not None:  # the convolution comes before the pooling
        return ClassMap(features=pooled[0], channels_last=pooled[1], weight=np.eye(columns, dtype=np.float32))
    dense = _dense(graph, producers, before)
    if dense is None or dense[1].shape[0] != columns:
        return None
    pooled = _pooled(graph, producers, _skip(producers, dense[0]))
    return None if pooled is None else ClassMap(features=pooled[0], channels_last=pooled[1], weight=dense[1])


def _skip(producers: Producers, tensor: str) -> str:
    """Return the tensor before nodes that only change the shape."""
    while (node := producers.get(tensor)) is not None and node.op_type in TRANSPARENT:
        tensor = node.input[0]
    return tensor


def _dense(graph: Graph, producers: Producers, tensor: str) -> tuple[str, Weight] | None:
    """Return input and weight (columns, C) of a dense layer, with or without a bias."""
    node = producers.get(tensor)
    if node is not None and node.op_type == "Add":
        inputs = graph.activations(node)
        node = producers.get(_skip(producers, inputs[0])) if len(inputs) == 1 else None
    if node is None or len(node.input) < 2:
        return None
    weight = _constant(graph, producers, node.input[1])
    if weight is None:
        return None
    rows = _rows(node, weight)
    return None if rows is None else (node.input[0], rows)


def _rows(node: onnx.NodeProto, weight: Weight) -> Weight | None:
    """Return the weight of a Gemm, a MatMul or a 1x1 convolution as (columns, C); None for other nodes."""
    if node.op_type == "Gemm" and weight.ndim == 2 and not attribute(node, "transA", 0):
        rows = weight if attribute(node, "transB", 0) else weight.T
        return np.asarray(rows * np.asarray(attribute(node, "alpha", 1.0), np.float32), np.float32)
    if node.op_type == "MatMul" and weight.ndim == 2:
        return np.asarray(weight.T)
    if node.op_type == "Conv" and weight.shape[2:] == (1, 1) and attribute(node, "group", 1) == 1:
        return np.asarray(weight[:, :, 0, 0])
    return None


def _constant(graph: Graph, producers: Producers, name: str) -> Weight | None:
    """Return a constant weight, also after a Transpose or an Identity; None for a tensor that is computed."""
    if (value := graph.constants.get(name)) is not None:
        return np.asarray(value, np.float32)
    node = producers.get(name)
    if node is None or node.op_type not in ("Transpose", "Identity"):
        return None
    value = _constant(graph, producers, node.input[0])
    return value if value is None or node.op_type == "Identity" else np.transpose(value, _permutation(node))


def _permutation(node: onnx.NodeProto) -> list[int] | None:
    found = attribute(node, "perm")
    return None if found is None else [int(i) for i in np.ravel(np.asarray(found))]


def _pooled(graph: Graph, producers: Producers, tensor: str) -> tuple[str, bool] | None:
    """Return the features that a global average pooling takes, and whether their channels come last; None without one."""
    node = producers.get(tensor)
    if node is None:
        return None
    if node.op_type == "GlobalAveragePool":
        return node.input[0], False
    axes = _mean_axes(graph, node)
    if axes in ([2, 3], [-2, -1]):
        return node.input[0], False
    if axes not in ([1, 2], [-3, -2]):
        return None
    before = producers.get(node.input[0])
    if before is not None and before.op_type == "Transpose" and _permutation(before) == _TO_LAST:
        return before.input[0], False
    return node.input[0], True


def _mean_axes(graph: Graph, node: onnx.NodeProto) -> list[int]:
    if node.op_type != "ReduceMean":
        return []
    axes = attribute(node, "axes")
    if axes is None and len(node.input) > 1:
        axes = graph.constants.get(node.input[1])
    return [] if axes is None else sorted(int(a) for a in np.ravel(np.asarray(axes)))
