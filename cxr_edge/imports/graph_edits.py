"""Edits of an ONNX model that change no value: names freed and replaced, unused parts removed, half precision widened,
a fixed batch made dynamic. Each takes a ModelProto and changes it in place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from cxr_edge.compiler.graph.graph import Graph, copied

__all__ = ["drop_unused", "free_names", "make_dynamic", "rename", "strip_texts", "to_float32"]

_HALF = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


def free_names(model: onnx.ModelProto, wanted: tuple[str, ...], prefix: str) -> None:
    """Rename tensors and nodes that have one of the names `wanted`, or a name that begins with `prefix`."""

    def freed(used: set[str]) -> dict[str, str]:
        renamed: dict[str, str] = {}
        for name in sorted(used):
            if name in wanted or name.startswith(prefix):
                renamed[name] = _unused_name({*used, *renamed.values()}, f"original_{name}")
        return renamed

    rename(model, freed(set(_tensor_names(model.graph))))
    nodes = [node for graph in _graphs(model.graph) for node in graph.node]
    names = freed({node.name for node in nodes})
    for node in nodes:
        node.name = names.get(node.name, node.name)


def _unused_name(used: set[str], name: str) -> str:
    while name in used:
        name += "_"
    return name


def rename(model: onnx.ModelProto, names: Mapping[str, str]) -> None:
    """Rename tensors everywhere, also in the branches of If and Loop."""
    for graph in _graphs(model.graph):
        for node in graph.node:
            node.input[:] = [names.get(n, n) for n in node.input]
            node.output[:] = [names.get(n, n) for n in node.output]
        for value in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
            value.name = names.get(value.name, value.name)


def drop_unused(model: onnx.ModelProto) -> None:
    """Remove nodes and constants that no output of the graph depends on."""
    needed = {o.name for o in model.graph.output}
    kept = []
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            needed.update(n for inner in _inner_graphs(node) for g in _graphs(inner) for m in g.node for n in m.input)
            needed.update(o.name for inner in _inner_graphs(node) for g in _graphs(inner) for o in g.output)
            kept.append(copied(node))
    del model.graph.node[:]
    model.graph.node.extend(reversed(kept))
    constants = [copied(i) for i in model.graph.initializer if i.name in needed]
    del model.graph.initializer[:]
    model.graph.initializer.extend(constants)
    del model.graph.value_info[:]


def strip_texts(model: onnx.ModelProto) -> None:
    """Remove documentation and metadata, in which exporters note stack traces with the paths of their machine."""
    for part in (
        model,
        model.graph,
        *model.graph.node,
        *model.graph.initializer,
        *model.graph.input,
        *model.graph.output,
    ):
        part.doc_string = ""
        if hasattr(part, "metadata_props"):
            del part.metadata_props[:]


def to_float32(model: onnx.ModelProto, *, double: bool) -> bool:
    """Make every half precision tensor, with `double` also every double one, float32. Returns whether there was one."""
    others = (*_HALF, TensorProto.DOUBLE) if double else _HALF
    changed = False
    for graph in _graphs(model.graph):
        for tensor in graph.initializer:
            changed |= _widen(tensor, others)
        for value in (*graph.input, *graph.output):
            if value.type.tensor_type.elem_type in others:
                value.type.tensor_type.elem_type, changed = TensorProto.FLOAT, True
        for attribute in (a for node in graph.node for a in node.attribute):
            changed |= _widen_attribute(attribute, others)
        del graph.value_info[:]
    return changed


def make_dynamic(model: onnx.ModelProto, batch: int) -> int:
    """Let Reshape nodes that repeat the fixed batch size take it from their input. Returns how many there were.

    What else repeats it is found by `check_network` and by running two images at once.
    """
    inferred = onnx.shape_inference.infer_shapes(model).graph
    first = {v.name: _first_length(v) for v in (*inferred.input, *inferred.value_info, *inferred.output)}
    graph, changed = Graph(model), 0
    for node in model.graph.node:
        shape = graph.constants.get(node.input[1]) if node.op_type == "Reshape" else None
        if shape is None or shape.size == 0 or int(shape[0]) != batch or first.get(node.input[0]) != batch:
            continue
        if any(a.name == "allowzero" and a.i for a in node.attribute):  # as torch.export's exporter writes
            if 0 in shape:
                continue
            del node.attribute[:]
        dynamic = np.array([0, *shape[1:]], np.int64)
        node.input[1] = graph.add_constant(f"{node.output[0]}_shape", dynamic)
        changed += 1
    drop_unused(model)
    return changed


def _first_length(value: Any) -> int | None:
    dims = value.type.tensor_type.shape.dim
    return int(dims[0].dim_value) if len(dims) and dims[0].HasField("dim_value") else None


def _widen(tensor: onnx.TensorProto, others: tuple[int, ...]) -> bool:
    if tensor.data_type not in others:
        return False
    values = np.asarray(numpy_helper.to_array(tensor)).astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return True


def _widen_attribute(attribute: onnx.AttributeProto, others: tuple[int, ...]) -> bool:
    if attribute.type == onnx.AttributeProto.TENSOR:
        return _widen(attribute.t, others)
    if attribute.name in ("to", "dtype") and attribute.i in others:
        attribute.i = TensorProto.FLOAT
        return True
    return False


def _tensor_names(graph: onnx.GraphProto) -> Iterator[str]:
    for inner in _graphs(graph):
        for node in inner.node:
            yield from (*node.input, *node.output)
        yield from (v.name for v in (*inner.input, *inner.output, *inner.initializer))


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph and every graph in its nodes' attributes."""
    yield graph
    for node in graph.node:
        for inner in _inner_graphs(node):
            yield from _graphs(inner)


def _inner_graphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS):
            found = helper.get_attribute_value(attribute)
            yield from found if isinstance(found, list | tuple) else (found,)
