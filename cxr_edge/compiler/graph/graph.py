"""Look-ups in an ONNX graph, and what its rewriting steps share: consumers, constants, attributes, opset, batch norms.

A ModelProto comes in and is changed in place. ONNX itself offers none of these look-ups; `simplify`, `int8` and `half`
use this class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

__all__ = [
    "STANDARD_DOMAINS",
    "BatchNorm",
    "Graph",
    "attribute",
    "batch_norm_affine",
    "copied",
    "opset",
    "precedes_layer",
]

STANDARD_DOMAINS = ("", "ai.onnx")

Message = TypeVar("Message", onnx.ModelProto, onnx.NodeProto, onnx.TensorProto)


class Graph:
    """A view of `model.graph`. Rewrites collect the new node list and hand it to `replace_nodes`."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self._constants_to_initializers()
        self.constants: dict[str, npt.NDArray[np.generic]] = {
            i.name: numpy_helper.to_array(i) for i in model.graph.initializer
        }
        self.outputs = {o.name for o in model.graph.output}
        self._index()

    @property
    def nodes(self) -> Sequence[onnx.NodeProto]:
        """The nodes in topological order."""
        return list(self.model.graph.node)

    def consumers(self, tensor: str) -> list[onnx.NodeProto]:
        """Return the nodes that take `tensor`."""
        return self._consumers.get(tensor, [])

    def only_consumer(self, tensor: str) -> onnx.NodeProto | None:
        """Return the node that takes `tensor` if that is its only use, counting outputs of the graph; else None."""
        users = self.consumers(tensor)
        return users[0] if len(users) == 1 and tensor not in self.outputs else None

    def activations(self, node: onnx.NodeProto) -> list[str]:
        """Return the inputs of `node` that are neither constant nor omitted."""
        return [name for name in node.input if name and name not in self.constants]

    def add_constant(self, name: str, value: npt.NDArray[np.generic]) -> str:
        """Add an initializer under a free name derived from `name`; return the name."""
        while name in self.constants:
            name += "_"
        self.add_tensor(numpy_helper.from_array(np.asarray(value, order="C"), name), value)
        return name

    def add_tensor(self, tensor: onnx.TensorProto, value: npt.NDArray[np.generic]) -> None:
        """Add an initializer unchanged; its name must be free. value: the same values in a NumPy type."""
        self.constants[tensor.name] = value
        self.model.graph.initializer.append(tensor)

    def replace_nodes(self, nodes: Iterable[onnx.NodeProto]) -> None:
        """Replace all nodes by `nodes`, in topological order, and drop constants that are no longer used."""
        new = [copied(n) for n in nodes]
        del self.model.graph.node[:]
        self.model.graph.node.extend(new)
        del self.model.graph.value_info[:]  # of the old tensors; runtimes infer them again
        self._drop_unused_constants()
        self._index()

    def _index(self) -> None:
        self._consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.model.graph.node:
            for name in dict.fromkeys(node.input):
                self._consumers.setdefault(name, []).append(node)

    def _constants_to_initializers(self) -> None:
        graph = self.model.graph
        remaining = []
        for node in graph.node:
            value = _constant(node) if node.op_type == "Constant" else None
            if value is None:
                remaining.append(copied(node))
                continue
            tensor = graph.initializer.add()
            tensor.CopyFrom(value)
            tensor.name = node.output[0]
        del graph.node[:]
        graph.node.extend(remaining)

    def _drop_unused_constants(self) -> None:
        used = {name for n in self.model.graph.node for name in n.input} | self.outputs
        remaining = [copied(i) for i in self.model.graph.initializer if i.name in used]
        del self.model.graph.initializer[:]
        self.model.graph.initializer.extend(remaining)
        self.constants = {name: v for name, v in self.constants.items() if name in used}


def attribute(node: onnx.NodeProto, name: str, default: object = None) -> object:
    """Return the value of an attribute of `node`, or `default`."""
    found = next((a for a in node.attribute if a.name == name), None)
    return default if found is None else helper.get_attribute_value(found)


def copied(message: Message) -> Message:
    """Return a copy of a protobuf message."""
    new = type(message)()
    new.CopyFrom(message)
    return new


def opset(model: onnx.ModelProto) -> int:
    """Return the version of the standard operators in `model`, 0 if it names none."""
    return next((int(o.version) for o in model.opset_import if o.domain in STANDARD_DOMAINS), 0)


def precedes_layer(graph: Graph, is_layer: Callable[[onnx.NodeProto], bool]) -> set[str]:
    """Return the tensors that some later layer depends on."""
    found: set[str] = set()
    for node in reversed(graph.nodes):
        if is_layer(node) or any(out in found for out in node.output):
            found.update(graph.activations(node))
    return found


class BatchNorm(NamedTuple):
    """A batch norm as y = factor * x + offset, per channel, in float64."""

    factor: npt.NDArray[np.float64]
    offset: npt.NDArray[np.float64]
    epsilon: float


def batch_norm_affine(graph: Graph, node: onnx.NodeProto) -> BatchNorm | None:
    """Fold the constants of a BatchNormalization node; None for any other node and for non-constant parameters."""
    parameters = [graph.constants.get(name) for name in node.input[1:5]]
    if node.op_type != "BatchNormalization" or any(p is None for p in parameters):
        return None
    gamma, beta, mean, variance = (np.asarray(p, np.float64) for p in parameters)
    epsilon = float(attribute(node, "epsilon", 1e-5))  # type: ignore[arg-type]
    factor = gamma / np.sqrt(variance + epsilon)
    return BatchNorm(factor, beta - mean * factor, epsilon)


def _constant(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """Return the value of a Constant node; None for strings and sparse tensors."""
    kind = node.attribute[0].name
    if kind == "value":
        return node.attribute[0].t
    dtype = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    if kind not in dtype:
        return None
    return numpy_helper.from_array(np.asarray(attribute(node, kind), dtype[kind]))
