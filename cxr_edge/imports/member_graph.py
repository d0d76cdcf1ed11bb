"""Graph of a bundle's member, made from a network as it was trained: input `image`, outputs `logits` and, where possible, `cam`.

An `Original` and the kind of its output come in, a `MemberGraph` comes out. The layers stay as they are: nodes are added at
the input (factor and offset, whole numbers, channels last) and at the output (softmax or sigmoid removed, or undone by
logarithms; one logit z to the two logits 0 and z, or some findings chosen).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from cxr_edge.bundle.onnx_check import DIGEST_KEY
from cxr_edge.bundle.onnx_signature import tensor_shape
from cxr_edge.compiler.graph.graph import Graph, attribute, copied, opset
from cxr_edge.imports.class_map import TRANSPARENT, ClassMap, find_class_map
from cxr_edge.imports.graph_edits import drop_unused, free_names, make_dynamic, rename, strip_texts, to_float32
from cxr_edge.imports.original import Original
from cxr_edge.specs.outputs import OutputKind

__all__ = ["Columns", "MemberGraph", "member_graph", "without_cam"]

_TO_LAST, _TO_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]
_LEAST_PROBABILITY = 1e-7  # before a logarithm
_OLDEST_IR_VERSION = 8
_NAMES = ("image", "logits", "cam")
_PREFIX = "import_"  # of the names of added tensors
_INPUT, _OUTPUT = "import_original_input", "import_original_output"


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Meaning of the original output's values."""

    kind: OutputKind
    count: int
    finding: int | None = None  # the column of the one finding that becomes two labels; None: softmax over all
    findings: tuple[
        int, ...
    ] = ()  # the columns that are the findings of a multi-label bundle, in the order of its labels

    @property
    def sources(self) -> tuple[int | None, ...]:
        """Original column of each label; None for the absence of the finding."""
        if self.findings:
            return self.findings
        return tuple(range(self.count)) if self.finding is None else (None, self.finding)


@dataclass(frozen=True, kw_only=True)
class MemberGraph:
    """A member's ONNX model."""

    model: onnx.ModelProto = field(repr=False)
    has_cam: bool
    changes: tuple[str, ...]  # sentences for the model card


def member_graph(original: Original, columns: Columns) -> MemberGraph:
    """Return the member made of a network."""
    model = copied(original.model)
    changes = _prepared(model, original)
    changes += _input_nodes(Graph(model), original)
    graph = Graph(model)
    logits, more = _logits(graph, columns)
    class_map = find_class_map(graph, logits, columns.count)
    changes += [*more, *_output_nodes(graph, logits, columns, class_map)]
    has_cam = _finish(model, original, columns, class_map is not None)
    return MemberGraph(model=model, has_cam=has_cam, changes=tuple(changes))


def without_cam(member: MemberGraph, reason: str) -> MemberGraph:
    """Return the member without its class activation map."""
    model = copied(member.model)
    kept = [copied(o) for o in model.graph.output if o.name != "cam"]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    drop_unused(model)
    return MemberGraph(model=model, has_cam=False, changes=(*member.changes, reason))


def _prepared(model: onnx.ModelProto, original: Original) -> list[str]:
    """Reduce the model to float32, one input, one output, and a dynamic batch; return what changed."""
    changes = []
    if original.first_opset != opset(model):
        changes.append(f"Operators were converted from opset {original.first_opset} to {opset(model)}.")
    constants = {t.name for t in model.graph.initializer}
    _keep(model.graph.input, {i.name for i in model.graph.input} - constants)
    _keep(model.graph.output, {original.output})
    drop_unused(model)
    strip_texts(model)
    if to_float32(model, double=_is_double(model)):
        changes.append("Weights and activations were widened to single precision.")
    names = {original.input: "original input", original.output: "original output"}  # no exporter writes blanks
    rename(model, names)
    free_names(model, _NAMES, _PREFIX)
    rename(model, dict(zip(names.values(), (_INPUT, _OUTPUT), strict=True)))
    if original.batch is not None:
        count = make_dynamic(model, original.batch)
        changes.append(f"The fixed batch of {original.batch} was made dynamic ({count} Reshape nodes changed).")
    return changes


def _keep(values: Any, names: set[str]) -> None:
    kept = [copied(v) for v in values if v.name in names]
    del values[:]
    values.extend(kept)


def _is_double(model: onnx.ModelProto) -> bool:
    values = (*model.graph.input, *model.graph.output)
    return any(v.type.tensor_type.elem_type == TensorProto.DOUBLE for v in values)


def _input_nodes(graph: Graph, original: Original) -> list[str]:
    """Put nodes between `image` (N, C, S, S) float32 and the original's input; return what they do."""
    deployed, changes = original.deployed(), []
    nodes: list[onnx.NodeProto] = []

    def add(kind: str, *constants: str, **attributes: Any) -> None:
        last = nodes[-1].output[0] if nodes else "image"
        output = f"{_PREFIX}image_{kind.lower()}"
        nodes.append(helper.make_node(kind, [last, *constants], [output], name=output, **attributes))

    if deployed.factor:
        shape = (1, len(deployed.factor), 1, 1)
        add("Mul", graph.add_constant(f"{_PREFIX}factor", np.array(deployed.factor, np.float32).reshape(shape)))
        add("Add", graph.add_constant(f"{_PREFIX}offset", np.array(deployed.offset, np.float32).reshape(shape)))
        changes.append("Nodes at the input multiply and add, since brightness falls from black to white.")
    element = graph.model.graph.input[0].type.tensor_type.elem_type
    if element != TensorProto.FLOAT:
        add("Round")
        add("Cast", to=element)
        changes.append(f"Nodes at the input round to whole numbers ({original.dtype}).")
    if original.layout == "nhwc":
        add("Transpose", perm=_TO_LAST)
        changes.append("A node at the input moves the channels to the end (NHWC).")
    if not nodes:
        rename(graph.model, {_INPUT: "image"})
        return changes
    nodes[-1].output[0] = _INPUT
    graph.replace_nodes([*nodes, *graph.nodes])
    _cancel_transposes(graph)
    return changes


def _cancel_transposes(graph: Graph) -> None:
    """Connect nodes that move the channels back to the front with the tensor before the move to the end."""
    mover = next(n for n in graph.nodes if _INPUT in n.output)
    users = graph.consumers(_INPUT)
    if mover.op_type != "Transpose" or not users or any(_permutation(u) != _TO_FIRST for u in users):
        return
    replaced = {u.output[0]: mover.input[0] for u in users}
    rest = [copied(n) for n in graph.nodes if n.output[0] not in (_INPUT, *replaced)]
    for node in rest:
        node.input[:] = [replaced.get(n, n) for n in node.input]
    graph.replace_nodes(rest)


def _permutation(node: onnx.NodeProto) -> list[int]:
    found = attribute(node, "perm") if node.op_type == "Transpose" else None
    return [] if found is None else [int(i) for i in np.ravel(np.asarray(found))]


def _logits(graph: Graph, columns: Columns) -> tuple[str, list[str]]:
    """Return the tensor with the logits of all columns; a softmax or sigmoid at the end is removed or undone."""
    if columns.kind.endswith("logits") or columns.kind == "logit":
        removed = _remove_last(graph, "LogSoftmax")
        return _OUTPUT, ["The LogSoftmax at the end was removed."] if removed else []
    wanted = "Softmax" if columns.kind == "softmax-probabilities" else "Sigmoid"
    if _remove_last(graph, wanted):
        return _OUTPUT, [f"The {wanted} at the end was removed."]
    if wanted == "Softmax":
        return _logarithm(graph), ["The logarithm of the probabilities takes the place of logits."]
    return _inverse_sigmoid(graph), ["The logit, log(p / (1 - p)), is computed from the probabilities."]


def _logarithm(graph: Graph) -> str:
    """Append the logarithm of the output; return its name."""
    clipped, log = f"{_PREFIX}probabilities", f"{_PREFIX}log"
    least, most = _LEAST_PROBABILITY, 1.0 - _LEAST_PROBABILITY
    limits = [
        graph.add_constant(f"{_PREFIX}{n}", np.array(v, np.float32)) for n, v in (("least", least), ("most", most))
    ]
    clip = helper.make_node("Clip", [_OUTPUT, *limits], [clipped], name=clipped)
    graph.replace_nodes([*graph.nodes, clip, helper.make_node("Log", [clipped], [log], name=log)])
    return log


def _inverse_sigmoid(graph: Graph) -> str:
    """Append log(p) - log(1 - p) of the output p; return its name."""
    log = _logarithm(graph)
    one = graph.add_constant(f"{_PREFIX}one", np.array(1, np.float32))
    rest, rest_log, logit = (f"{_PREFIX}{n}" for n in ("rest", "rest_log", "logit"))
    nodes = [
        helper.make_node("Sub", [one, f"{_PREFIX}probabilities"], [rest], name=rest),
        helper.make_node("Log", [rest], [rest_log], name=rest_log),
        helper.make_node("Sub", [log, rest_log], [logit], name=logit),
    ]
    graph.replace_nodes([*graph.nodes, *nodes])
    return logit


def _remove_last(graph: Graph, kind: str) -> bool:
    """Replace the operator `kind` by Identity if the output ends in it. Returns whether it does."""
    producers = {name: node for node in graph.model.graph.node for name in node.output}
    node = producers.get(_OUTPUT)
    while node is not None and node.op_type in TRANSPARENT:
        node = producers.get(node.input[0])
    if node is None or node.op_type != kind:
        return False
    node.op_type = "Identity"
    del node.attribute[:]
    return True


def _output_nodes(graph: Graph, logits: str, columns: Columns, class_map: ClassMap | None) -> list[str]:
    """Append the nodes that give `logits` (N, labels) and `cam`; return what they do."""
    flat = "logits" if columns.sources == tuple(range(columns.count)) else f"{_PREFIX}columns"
    nodes, changes = [helper.make_node("Flatten", [logits], [flat], name=flat, axis=1)], []
    if columns.finding is not None:
        nodes += _two_logits(graph, flat, columns)
        changes.append(
            f"The logit z of column {columns.finding} of {columns.count} became the two logits (0, z), whose softmax is its "
            "sigmoid."
        )
    elif flat != "logits":
        chosen = graph.add_constant(f"{_PREFIX}findings", np.array(columns.findings, np.int64))
        nodes.append(helper.make_node("Gather", [flat, chosen], ["logits"], name="logits", axis=1))
        changes.append(f"Of {columns.count} columns these are kept: {', '.join(map(str, columns.findings))}.")
    if class_map is not None:
        nodes += class_map.nodes(graph, columns.sources, "cam")
        changes.append("A class activation map was added: a 1x1 convolution with the weights of the dense layer.")
    graph.replace_nodes([*graph.nodes, *nodes])
    return changes


def _two_logits(graph: Graph, flat: str, columns: Columns) -> list[onnx.NodeProto]:
    """Return nodes from all columns to `logits` (N, 2): 0 and the finding's."""
    z, first = f"{_PREFIX}finding", columns.finding or 0
    bounds = [
        graph.add_constant(f"{z}_{name}", np.array([value], np.int64))
        for name, value in (("first", first), ("end", first + 1), ("axis", 1))
    ]
    zero, absent = graph.add_constant(f"{_PREFIX}zero", np.array(0, np.float32)), f"{_PREFIX}absent"
    return [
        helper.make_node("Slice", [flat, *bounds], [z], name=z),
        helper.make_node("Mul", [z, zero], [absent], name=absent),
        helper.make_node("Concat", [absent, z], ["logits"], name="logits", axis=1),
    ]


def _finish(model: onnx.ModelProto, original: Original, columns: Columns, has_map: bool) -> bool:
    """Set inputs, outputs, versions and metadata. Returns whether the map has a fixed size, as a bundle requires."""
    spec, labels = original.deployed().spec, len(columns.sources)
    _set(model.graph.input, [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", *spec.tensor_shape])])
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", labels])]
    side = _map_size(model) if has_map else None
    if side is not None:
        outputs.append(helper.make_tensor_value_info("cam", TensorProto.FLOAT, ["N", labels, *side]))
    _set(model.graph.output, outputs)
    drop_unused(model)
    helper.set_model_props(model, {DIGEST_KEY: spec.digest()})
    model.producer_name, model.producer_version, model.domain = "cxr-edge import", "", ""
    model.ir_version = max(_OLDEST_IR_VERSION, helper.find_min_ir_version_for(model.opset_import))
    return side is not None


def _set(values: Any, new: Sequence[onnx.ValueInfoProto]) -> None:
    del values[:]
    values.extend(new)


def _map_size(model: onnx.ModelProto) -> tuple[int, int] | None:
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    shape = next((tensor_shape(v) for v in inferred.graph.value_info if v.name == "cam"), ())
    if len(shape) == 4 and isinstance(shape[2], int) and isinstance(shape[3], int):
        return shape[2], shape[3]
    return None
