"""Last activation of a network: whether an output is the result of a Softmax or a Sigmoid, read from the graph alone.

An ONNX model and the name of an output come in; the operator and the tensor that it was applied to come out. A network
that ends in a softmax must not be taken for logits: a second softmax turns 0.99 into 0.47.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Activation", "last_activation"]

# Nodes that keep every value, or its rounding: an activation before them is still the last one.
_TRANSPARENT = ("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Cast", "Dropout")
_ACTIVATIONS: dict[str, Literal["softmax", "sigmoid"]] = {
    "Softmax": "softmax",
    "Sigmoid": "sigmoid",
    "HardSigmoid": "sigmoid",
}


@dataclass(frozen=True, kw_only=True)
class Activation:
    """The activation that an output ends in."""

    kind: Literal["softmax", "sigmoid"]
    operator: str  # of ONNX
    tensor: str  # its input, which has the logits


def last_activation(model: Any, output: str) -> Activation | None:
    """Return the activation that `output` of an onnx.ModelProto ends in, or None."""
    producers = {name: node for node in model.graph.node for name in node.output}
    for _ in model.graph.node:  # so that a cycle, which the checker refuses elsewhere, ends
        node = producers.get(output)
        if node is None or not node.input:
            return None
        if node.op_type in _ACTIVATIONS:
            return Activation(kind=_ACTIVATIONS[node.op_type], operator=node.op_type, tensor=node.input[0])
        if node.op_type not in _TRANSPARENT:
            return None
        output = node.input[0]
    return None
