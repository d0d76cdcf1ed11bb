"""An ONNX graph with its look-ups: who takes a tensor, which values are constant.

Comes from a ModelProto, which it changes in place; the rewriting steps (`simplify`, `precision`) share it, because ONNX
itself offers none of these look-ups.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

__all__ = ["Graph", "attribute"]


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
        """The nodes that take `tensor`."""
        return self._consumers.get(tensor, [])

    def only_consumer(self, tensor: str) -> onnx.NodeProto | None:
        """The node that takes `tensor` if it is the only use of it, outputs of the graph counted."""
        users = self.consumers(tensor)
        return users[0] if len(users) == 1 and tensor not in self.outputs else None

    def activations(self, node: onnx.NodeProto) -> list[str]:
        """The inputs of `node` that are neither constant nor left out."""
        return [name for name in node.input if name and name not in self.constants]

    def add_constant(self, name: str, value: npt.NDArray[np.generic]) -> str:
        """Add an initializer, under a free name made from `name`; returns the name."""
        while name in self.constants:
            name += "_"
        self.add_tensor(numpy_helper.from_array(np.asarray(value, order="C"), name), value)
        return name

    def add_tensor(self, tensor: onnx.TensorProto, value: npt.NDArray[np.generic]) -> None:
        """Add an initializer as it is; its name must be free. value: the same in a type that NumPy has."""
        self.constants[tensor.name] = value
        self.model.graph.initializer.append(tensor)

    def replace_nodes(self, nodes: Iterable[onnx.NodeProto]) -> None:
        """Put `nodes`, in topological order, in the place of all nodes; drops constants that nobody takes any more."""
        new = [_copy(n) for n in nodes]
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
        kept = []
        for node in graph.node:
            value = _constant(node) if node.op_type == "Constant" else None
            if value is None:
                kept.append(_copy(node))
                continue
            tensor = graph.initializer.add()
            tensor.CopyFrom(value)
            tensor.name = node.output[0]
        del graph.node[:]
        graph.node.extend(kept)

    def _drop_unused_constants(self) -> None:
        used = {name for n in self.model.graph.node for name in n.input} | self.outputs
        kept = [i for i in self.model.graph.initializer if i.name in used]
        kept = [_copy_tensor(i) for i in kept]
        del self.model.graph.initializer[:]
        self.model.graph.initializer.extend(kept)
        self.constants = {name: v for name, v in self.constants.items() if name in used}


def _constant(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """The value of a Constant node; None for strings and sparse tensors."""
    kind = node.attribute[0].name
    if kind == "value":
        return node.attribute[0].t
    dtype = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    if kind not in dtype:
        return None
    return numpy_helper.from_array(np.asarray(attribute(node, kind), dtype[kind]))


def attribute(node: onnx.NodeProto, name: str, default: object = None) -> object:
    """The value of an attribute of `node`, or `default`."""
    found = next((a for a in node.attribute if a.name == name), None)
    return default if found is None else helper.get_attribute_value(found)


def _copy(node: onnx.NodeProto) -> onnx.NodeProto:
    new = onnx.NodeProto()
    new.CopyFrom(node)
    return new


def _copy_tensor(tensor: onnx.TensorProto) -> onnx.TensorProto:
    new = onnx.TensorProto()
    new.CopyFrom(tensor)
    return new
