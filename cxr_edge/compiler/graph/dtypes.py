"""Element types in a graph: the type of each tensor, and the inputs where an operator accepts float16 for float32.

A `Graph` comes in, types by name come out, all from the ONNX schemas. Shape inference would return the types too, but
fails on graphs with bfloat16 if the opset's schemas do not list it yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import TensorProto, defs

from cxr_edge.compiler.graph.graph import STANDARD_DOMAINS, Graph, attribute, opset
from cxr_edge.errors import BundleError

__all__ = ["Signature", "element_types"]

_CONCRETE = {f"tensor({name.lower()})": number for name, number in TensorProto.DataType.items()}
# Inputs that are positions and not values: rounded to 11 bits they are other positions, and runtimes require float32.
_POSITIONS = {"Resize": (1, 2), "Upsample": (1,), "GridSample": (1,), "Dropout": (1,)}
# Operators whose output type is an attribute, and its default.
_DEFAULTS = {
    "ConstantOfShape": TensorProto.FLOAT,
    "RandomNormal": TensorProto.FLOAT,
    "RandomUniform": TensorProto.FLOAT,
    "LayerNormalization": TensorProto.FLOAT,
    "QuantizeLinear": TensorProto.UINT8,
    "DequantizeLinear": TensorProto.FLOAT,
    "Multinomial": TensorProto.INT32,
}
_LIKE_INPUT = ("EyeLike", "RandomNormalLike", "RandomUniformLike", "Bernoulli")


def element_types(graph: Graph) -> dict[str, int]:
    """Return the TensorProto type of every tensor, by name. Raises BundleError if an operator does not determine it."""
    types = {i.name: int(i.type.tensor_type.elem_type) for i in graph.model.graph.input}
    types |= {i.name: int(i.data_type) for i in graph.model.graph.initializer}
    version = opset(graph.model)
    for node in graph.nodes:
        signature = Signature.of(node, version)
        types |= {name: _output_type(signature, i, types) for i, name in enumerate(node.output) if name}
    return types


@dataclass(frozen=True, kw_only=True)
class Signature:
    """A node and the ONNX schema of its operator in the model's opset."""

    node: onnx.NodeProto
    schema: Any

    @classmethod
    def of(cls, node: onnx.NodeProto, version: int) -> Signature:
        """Look up the schema. Raises BundleError for an operator that is not in the standard."""
        try:
            schema = defs.get_schema(node.op_type, version, "") if node.domain in STANDARD_DOMAINS else None
        except defs.SchemaError:
            schema = None
        if schema is None:
            raise BundleError(
                f"the operator {node.domain}:{node.op_type} that makes {node.output[0]!r} is not in ONNX opset "
                f"{version}: export the network with standard operators only"
            )
        return cls(node=node, schema=schema)

    def input_kind(self, index: int) -> str:
        """Return the type parameter of an input ("T"), or its type if there is no choice ("tensor(float)")."""
        return self._kind(self.schema.inputs, index)

    def output_kind(self, index: int) -> str:
        """Return the type parameter or type of an output."""
        return self._kind(self.schema.outputs, index)

    def takes_half(self, index: int) -> bool:
        """Return True if an input may be float16; used for bfloat16 too, which schemas list only since later opsets."""
        half = "tensor(float16)" in self._allowed(self.input_kind(index))
        return half and index not in _POSITIONS.get(self.node.op_type, ())

    def _kind(self, parameters: Sequence[Any], index: int) -> str:
        kind = str(parameters[min(index, len(parameters) - 1)].type_str)  # the last one may be variadic
        allowed = self._allowed(kind)
        return allowed[0] if len(allowed) == 1 else kind

    def _allowed(self, kind: str) -> list[str]:
        return next((list(c.allowed_type_strs) for c in self.schema.type_constraints if c.type_param_str == kind), [])


def _output_type(signature: Signature, index: int, types: dict[str, int]) -> int:
    node, kind = signature.node, signature.output_kind(index)
    if kind in _CONCRETE:
        return int(_CONCRETE[kind])
    for i, name in enumerate(node.input):
        if name in types and signature.input_kind(i) == kind:
            return types[name]
    named = next((a.i for a in node.attribute if a.name in ("to", "dtype", "output_dtype")), 0)
    value = attribute(node, "value")
    code = named or getattr(value, "data_type", 0) or _DEFAULTS.get(node.op_type, 0)
    code = code or (types.get(node.input[0], 0) if node.op_type in _LIKE_INPUT else 0)
    if not code:
        raise BundleError(
            f"the type of {node.output[index]!r} does not follow from its operator {node.op_type}: export the network "
            f"without sequences, optional values and operators of other domains"
        )
    return int(code)
