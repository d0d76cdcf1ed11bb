"""Element types in a graph: what each tensor is, and where an operator would take float16 in the place of float32.

A `Graph` comes in, facts by name come out, all from the ONNX schemas: shape inference would tell the types too, but
gives up on graphs that hold bfloat16 where the opset's schemas do not list it yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import TensorProto, defs

from cxr_edge.compiler.graph.graph import Graph, attribute
from cxr_edge.errors import BundleError

__all__ = ["Signature", "element_types", "opset"]

_STANDARD_DOMAINS = ("", "ai.onnx")
_CONCRETE = {f"tensor({name.lower()})": number for name, number in TensorProto.DataType.items()}
# Inputs that say where and not what: a position rounded to 11 bits is another position, and runtimes want float32.
_POSITIONS = {"Resize": (1, 2), "Upsample": (1,), "GridSample": (1,), "Dropout": (1,)}
# Operators whose output type an attribute may give, and what it is without.
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


def opset(model: onnx.ModelProto) -> int:
    """The version of the standard operators that `model` is written in, 0 if it names none."""
    return next((int(o.version) for o in model.opset_import if o.domain in _STANDARD_DOMAINS), 0)


def element_types(graph: Graph) -> dict[str, int]:
    """The TensorProto type of every tensor, by name. Raises BundleError for an operator that does not tell."""
    types = {i.name: int(i.type.tensor_type.elem_type) for i in graph.model.graph.input}
    types |= {i.name: int(i.data_type) for i in graph.model.graph.initializer}
    version = opset(graph.model)
    for node in graph.nodes:
        signature = Signature.of(node, version)
        types |= {name: _output_type(signature, i, types) for i, name in enumerate(node.output) if name}
    return types


@dataclass(frozen=True, kw_only=True)
class Signature:
    """A node and the ONNX schema that it was written against."""

    node: onnx.NodeProto
    schema: Any

    @classmethod
    def of(cls, node: onnx.NodeProto, version: int) -> Signature:
        """Raises BundleError for an operator that is not in the standard."""
        try:
            schema = defs.get_schema(node.op_type, version, "") if node.domain in _STANDARD_DOMAINS else None
        except defs.SchemaError:
            schema = None
        if schema is None:
            raise BundleError(
                f"the operator {node.domain}:{node.op_type} that makes {node.output[0]!r} is not in ONNX opset "
                f"{version}: export the network with standard operators only"
            )
        return cls(node=node, schema=schema)

    def input_kind(self, index: int) -> str:
        """The type parameter of an input ("T"), or its type if there is no choice ("tensor(float)")."""
        return self._kind(self.schema.inputs, index)

    def output_kind(self, index: int) -> str:
        """The same of an output."""
        return self._kind(self.schema.outputs, index)

    def takes_half(self, index: int) -> bool:
        """Whether an input may be float16 instead of float32. For bfloat16 too: schemas came to list it ever later."""
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
    found = named or getattr(value, "data_type", 0) or _DEFAULTS.get(node.op_type, 0)
    found = found or (types.get(node.input[0], 0) if node.op_type in _LIKE_INPUT else 0)
    if not found:
        raise BundleError(
            f"the type of {node.output[index]!r} cannot be told from its operator {node.op_type}: export the network "
            f"without sequences, optional values and operators of other domains"
        )
    return int(found)
