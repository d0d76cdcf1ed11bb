"""Rewriting of an fp32 ONNX graph to float16 or bfloat16; its inputs and outputs stay float32.

The precision is written into the graph, as for int8: weights become half, Cast nodes connect float32 and half, and every
runtime compiles the same file strongly typed. The nodes that stay float32 are chosen here (`_FLOAT_OPS`, the tail after
the last layer) and by the caller (`keep_float`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import AttributeProto, TensorProto, helper

from cxr_edge.compiler.graph.dtypes import Signature, element_types
from cxr_edge.compiler.graph.graph import Graph, batch_norm_affine, copied, opset, precedes_layer
from cxr_edge.errors import BundleError

__all__ = ["HALF_TYPES", "HalfName", "half_layers", "round_to_half", "to_half"]

HalfName = Literal["fp16", "bf16"]
HALF_TYPES = {"fp16": int(TensorProto.FLOAT16), "bf16": int(TensorProto.BFLOAT16)}

_FLOAT = int(TensorProto.FLOAT)
_LARGEST = {"fp16": 65504.0, "bf16": float(np.uint32(0x7F7F0000).view(np.float32))}

# Layers hold most of the work; they become half unless excluded. Nodes before the first of them stay float32.
_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum")
# Always computed in float32. Powers, exponentials and sums leave float16's range or lose small addends; norms and softmax
# consist of these. A mean stays in range, but some runtimes (ncnn, MIOpen, candle had to fix it) accumulate in half, where
# a sum of ones stops at 2048; pooled tensors are small, so float32 costs one cast. Scales of quantisers are float32 below
# opset 19. Pools over small windows are not in the list.
_FLOAT_OPS = frozenset((
    "Exp", "Log", "Pow", "Softplus", "CumSum", "ReduceSum", "ReduceSumSquare", "ReduceProd", "ReduceL1", "ReduceL2",
    "ReduceLogSum", "ReduceLogSumExp", "ReduceMean", "GlobalAveragePool", "GlobalLpPool", "Softmax", "LogSoftmax", "LRN",
    "LpNormalization", "LayerNormalization", "InstanceNormalization", "GroupNormalization", "RMSNormalization",
    "MeanVarianceNormalization", "QuantizeLinear", "DequantizeLinear",
))  # fmt: skip

_POOLS = ("ReduceMean", "ReduceSum", "GlobalAveragePool", "GlobalLpPool")


def to_half(model: onnx.ModelProto, dtype: HalfName, *, keep_float: frozenset[str] = frozenset()) -> onnx.ModelProto:
    """Return a copy of `model` (fp32, opset 13 or later) that computes in `dtype`, with unchanged inputs and outputs.

    keep_float: names of outputs whose nodes compute in float32.
    A node without weights follows its inputs: it is float32 if they all are, so nodes between two float32 layers need no
    casts. Nodes after the last layer are float32, and so is the last layer if it takes a pooled vector.
    Batch norms that become half are first brought to mean 0 and variance 1 in float64, since some runtimes fold the five
    tensors in half.

    The opset does not change. Below 22 the schemas of Conv, ConvTranspose and the pools do not list bfloat16: a bf16 graph
    passes `onnx.checker` but not its full type inference, and ONNX Runtime refuses to load it (with opset 22 it loads, but
    has no kernels). It is for TensorRT, whose parser checks the operator and not the schema, and whose older releases may
    not know opset 22. A runtime that requires the schema needs a model converted to 22 beforehand.

    Raises BundleError for a finite constant beyond the range of `dtype`, subgraphs, an opset below 13, or no layers.
    """
    _check(model)
    graph = Graph(copied(model))
    types = element_types(graph)
    chosen = _half_nodes(graph, types, keep_float)
    if not chosen and not keep_float and HALF_TYPES[dtype] not in types.values():
        raise BundleError(
            f"no layer of the network can compute in {dtype}: it has no Conv, Gemm or MatMul before its head"
        )
    _Rewrite(graph, types, dtype, chosen).run()
    onnx.checker.check_model(graph.model)
    return graph.model


def half_layers(model: onnx.ModelProto) -> tuple[str, ...]:
    """Return the output names of the layers with constant weights that `to_half` would convert, in order."""
    graph = Graph(copied(model))
    chosen = _half_nodes(graph, element_types(graph), frozenset())
    return tuple(
        str(n.output[0])
        for n in graph.nodes
        if n.output[0] in chosen
        and n.op_type in (*_LAYERS, "BatchNormalization")
        and any(name in graph.constants for name in n.input)
    )


def round_to_half(values: npt.NDArray[np.float32], dtype: HalfName) -> npt.NDArray[np.float32]:
    """Round `values` to the nearest `dtype`, ties to even, as float32; infinite beyond its range."""
    if dtype == "fp16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16).astype(np.float32)
    rounded: npt.NDArray[np.float32] = (_bf16_bits(values).astype(np.uint32) << np.uint32(16)).view(np.float32)
    return rounded


def _check(model: onnx.ModelProto) -> None:
    if opset(model) < 13:
        raise BundleError(
            f"half precision needs ONNX opset 13 or later, the network has {opset(model)}: export it again"
        )
    graphs = (AttributeProto.GRAPH, AttributeProto.GRAPHS)
    nested = next((n for n in model.graph.node if any(a.type in graphs for a in n.attribute)), None)
    if nested is not None:
        raise BundleError(
            f"half precision needs a network without branches and loops, {nested.output[0]!r} is produced by "
            f"{nested.op_type}: export it with fixed shapes, so that they are unrolled"
        )


def _half_nodes(graph: Graph, types: dict[str, int], keep_float: frozenset[str]) -> set[str]:
    """Return the first outputs of the nodes that will compute in half."""
    inside, heads = precedes_layer(graph, _is_layer), _heads(graph)
    version, chosen, half = opset(graph.model), set[str](), set[str]()
    for node in graph.nodes:
        floats = [name for name in node.output if types.get(name) == _FLOAT]
        if not floats or node.op_type in _FLOAT_OPS or (keep_float | heads).intersection(node.output):
            continue
        follows = any(name in half for name in node.input) and inside.intersection(node.output)
        if (_is_layer(node) or follows) and _can_be_half(Signature.of(node, version), types):
            chosen.add(node.output[0])
            half.update(floats)
    return chosen


def _heads(graph: Graph) -> set[str]:
    """Return the outputs of last layers that take a pooled vector, which is float32 already; such a layer is small."""
    inside, pooled, heads = precedes_layer(graph, _is_layer), set[str](), set[str]()
    for node in graph.nodes:
        inherits = graph.activations(node) and pooled.issuperset(graph.activations(node))
        if _is_layer(node):
            heads.update(node.output if inherits and not inside.intersection(node.output) else ())
        elif node.op_type in _POOLS or inherits:
            pooled.update(node.output)
    return heads


def _is_layer(node: onnx.NodeProto) -> bool:
    return node.op_type in _LAYERS


def _can_be_half(signature: Signature, types: dict[str, int]) -> bool:
    """Return True if every float output takes its type from an input that may be half."""
    node = signature.node
    kinds = {signature.input_kind(i) for i in _half_inputs(signature, types)}
    return all(signature.output_kind(i) in kinds for i, name in enumerate(node.output) if types.get(name) == _FLOAT)


def _half_inputs(signature: Signature, types: dict[str, int]) -> list[int]:
    """Return the indices of the float32 inputs that may be half."""
    inputs = enumerate(signature.node.input)
    return [i for i, name in inputs if types.get(name) == _FLOAT and signature.takes_half(i)]


@dataclass(frozen=True)
class _Names:
    """Names of a tensor as float32 and as half; None if no node produces it yet."""

    single: str | None = None
    half: str | None = None


class _Rewrite:
    """Collects the new nodes; a tensor is cast at most once per direction, for the first node that needs it."""

    def __init__(self, graph: Graph, types: dict[str, int], dtype: HalfName, chosen: set[str]) -> None:
        self._graph, self._types, self._dtype, self._chosen = graph, types, dtype, chosen
        self._code, self._version = HALF_TYPES[dtype], opset(graph.model)
        self._names: dict[str, _Names] = {name: _Names(single=name) for name, t in types.items() if t == _FLOAT}
        self._sources: dict[str, str] = {}  # inputs of the original graph's casts, by output
        self._new: list[onnx.NodeProto] = []
        self._taken = set(types)

    def run(self) -> None:
        for node in self._graph.nodes:
            add = self._add_half if node.output[0] in self._chosen else self._add_float
            add(copied(node))
        self._graph.replace_nodes(self._used())

    def _add_half(self, node: onnx.NodeProto) -> None:
        if node.op_type == "BatchNormalization":
            self._standardize(node)
        for i in _half_inputs(Signature.of(node, self._version), self._types):
            node.input[i] = self._half(node.input[i])
        outputs = [(i, name) for i, name in enumerate(node.output) if self._types.get(name) == _FLOAT]
        for i, name in outputs:
            node.output[i] = self._free(name) if name in self._graph.outputs else name
            self._names[name] = _Names(half=node.output[i])
        self._new.append(node)
        for i, name in outputs:
            if name in self._graph.outputs:
                self._cast(node.output[i], name, _FLOAT)
                self._names[name] = _Names(single=name, half=node.output[i])

    def _add_float(self, node: onnx.NodeProto) -> None:
        floats = [i for i, name in enumerate(node.input) if self._types.get(name) == _FLOAT]
        if len(floats) == 1 and not any(self._types.get(name) == _FLOAT for name in node.output):
            # Shape, ArgMax, Cast to an integer: the result does not depend on the precision of the only input.
            signature, name = Signature.of(node, self._version), node.input[floats[0]]
            names = self._names[name]
            if signature.takes_half(floats[0]) and names.half:
                node.input[floats[0]] = names.half
                floats = []
        for i in floats:
            node.input[i] = self._single(node.input[i])
        self._new.append(node)
        source = self._types.get(node.input[0]) if node.op_type == "Cast" else None
        if source in HALF_TYPES.values():
            # Half nodes can take the source of the cast itself, or a direct cast of it.
            half = node.input[0] if source == self._code else None
            self._names[node.output[0]] = _Names(single=node.output[0], half=half)
            self._sources[node.output[0]] = node.input[0]

    def _half(self, name: str) -> str:
        names = self._names[name]
        if names.half is not None:
            return names.half
        half = self._free(name)
        if name in self._graph.constants:
            self._add_constant(name, half)
        else:
            self._cast(self._sources.get(name, name), half, self._code)
        self._names[name] = _Names(single=names.single, half=half)
        return half

    def _single(self, name: str) -> str:
        names = self._names[name]
        if names.single is not None:
            return names.single
        assert names.half is not None
        single = self._free(name, "fp32")
        self._cast(names.half, single, _FLOAT)
        self._names[name] = _Names(single=single, half=names.half)
        return single

    def _cast(self, source: str, target: str, code: int) -> None:
        self._new.append(helper.make_node("Cast", [source], [target], name=f"{target}_cast", to=code))

    def _free(self, name: str, suffix: str = "") -> str:
        """Reserve a free name derived from `name`."""
        new = f"{name}_{suffix or self._dtype}"
        while new in self._taken:
            new += "_"
        self._taken.add(new)
        return new

    def _add_constant(self, name: str, half: str) -> None:
        values = np.asarray(self._graph.constants[name], np.float32)
        rounded = round_to_half(values, self._dtype)
        beyond = np.isfinite(values) & ~np.isfinite(rounded)
        if beyond.any():
            raise BundleError(
                f"{name!r} holds {values[beyond][0]:g}, the largest value of {self._dtype} is "
                f"{_LARGEST[self._dtype]:g}: keep the layer that takes it in float32, or use another precision"
            )
        self._graph.add_tensor(_half_tensor(half, values, self._dtype), rounded)

    def _standardize(self, node: onnx.NodeProto) -> None:
        """Rewrite a batch norm to mean 0 and variance 1, with the same result."""
        norm = batch_norm_affine(self._graph, node)
        if norm is None:
            return
        zeros, ones = np.zeros_like(norm.offset), np.ones_like(norm.offset)
        values = (norm.factor * np.sqrt(1.0 + norm.epsilon), norm.offset, zeros, ones)
        for i, (kind, value) in enumerate(zip(("factor", "offset", "mean", "variance"), values, strict=True), start=1):
            name = self._free(node.output[0], kind)
            self._graph.add_constant(name, value.astype(np.float32))
            self._types[name], self._names[name] = _FLOAT, _Names(single=name)
            node.input[i] = name

    def _used(self) -> Iterator[onnx.NodeProto]:
        """Return the new nodes without the casts that nothing uses any more."""
        used = {name for node in self._new for name in node.input} | self._graph.outputs
        return (n for n in self._new if n.op_type != "Cast" or n.output[0] in used)


def _half_tensor(name: str, values: npt.NDArray[np.float32], dtype: HalfName) -> onnx.TensorProto:
    bits = values.astype("<f2") if dtype == "fp16" else _bf16_bits(values).astype("<u2")
    return helper.make_tensor(name, HALF_TYPES[dtype], values.shape, bits.tobytes(), raw=True)


def _bf16_bits(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Return the upper halves of float32 values, rounded to nearest even; NumPy has no bfloat16."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32).reshape(values.shape).astype(np.uint64)
    # Of NumPy's own type: NumPy 1 makes float64 of an unsigned scalar and a Python int.
    half, shift, one = (np.uint64(n) for n in (0x7FFF, 16, 1))
    rounded = (bits + half + ((bits >> shift) & one)) >> shift
    return np.where(np.isnan(values), 0x7FC0, rounded).astype(np.uint16)
