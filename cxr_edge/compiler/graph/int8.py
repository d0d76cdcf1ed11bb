"""Rewriting of an fp32 ONNX graph to int8, given its activation ranges: static Q/DQ, symmetric per-channel weights.

The precision is written into the graph, so that every runtime compiles the same file: TensorRT 11 has no precision
flags and no calibrator. There are two schemes, because no single one is best everywhere: `int8` keeps activations
symmetric with zero point 0 and bias in float32, as TensorRT requires; `uint8` allows an offset, which folds a Relu into
the quantisation of the layer before it and runs fastest on the CPU kernels of ONNX Runtime.

The last layer with weights and all nodes after it stay float32: they compute the logits, are a small share of the work,
and rounding there would have most effect.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from cxr_edge.compiler.graph.graph import Graph, attribute, batch_norm_affine, copied, opset
from cxr_edge.compiler.graph.int8_placement import (
    WITH_WEIGHTS,
    choose_nodes,
    choose_tensors,
    foldable_activations,
    same_scale,
    weight_of,
)
from cxr_edge.errors import BundleError

__all__ = ["SCHEMES", "QuantParams", "Scheme", "first_layer", "int8_layers", "quantize", "quantize_weight"]

Range = tuple[float, float]

_REQUANTIZED = ("Conv", "ConvTranspose", "Gemm")  # see _guard


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """Quantisation scheme."""

    name: str  # also the precision's name
    dtype: Literal["int8", "uint8"]  # of activations
    symmetric: bool  # zero point 0; then bias stays float32
    # Weights are in -weight_limit..weight_limit; 63 for processors whose 16-bit sums would saturate (x86 without VNNI).
    weight_limit: int = 127

    def params(self, low_high: Range) -> QuantParams:
        """Return scale and zero point for values in a range, widened to include 0, so that padding is exact."""
        low, high = min(low_high[0], 0.0), max(low_high[1], 0.0)
        limits = np.iinfo(self.dtype)
        if self.symmetric:
            return QuantParams(scale=_positive(max(-low, high) / limits.max), zero_point=0, dtype=self.dtype)
        scale = _positive((high - low) / (limits.max - limits.min))
        zero_point = int(np.clip(round(limits.min - low / scale), limits.min, limits.max))
        return QuantParams(scale=scale, zero_point=zero_point, dtype=self.dtype)

    def with_7_bit_weights(self) -> Scheme:
        """Return the same scheme for processors without VNNI."""
        return replace(self, weight_limit=63)


@dataclass(frozen=True, kw_only=True)
class QuantParams:
    """Quantisation of one tensor: real = scale * (quantised - zero_point)."""

    scale: float
    zero_point: int
    dtype: Literal["int8", "uint8"]


SCHEMES = {
    "int8": Scheme(name="int8", dtype="int8", symmetric=True),
    "uint8": Scheme(name="uint8", dtype="uint8", symmetric=False),
}


def first_layer(model: onnx.ModelProto) -> str:
    """Return the output name of the first layer with weights, for `keep_float`. Raises BundleError if there is none."""
    graph = Graph(copied(model))
    for node in graph.nodes:
        if weight_of(graph, node) is not None:
            return str(node.output[0])
    raise BundleError("the network has no Conv, Gemm or MatMul with constant weights: int8 has nothing to speed up")


def int8_layers(model: onnx.ModelProto) -> tuple[str, ...]:
    """Return the output names of the layers with weights that `quantize` would reduce to int8, in order."""
    graph = Graph(copied(model))
    _norms_to_convolutions(graph)
    return tuple(out for out, node in choose_nodes(graph, frozenset()).items() if node.op_type in WITH_WEIGHTS)


def quantize(
    model: onnx.ModelProto,
    ranges: Mapping[str, Range],
    scheme: Scheme,
    *,
    keep_float: frozenset[str] = frozenset(),
) -> onnx.ModelProto:
    """Return a copy of `model` (fp32, opset 13 or later) with Q/DQ pairs and int8 weights.

    ranges: lowest and highest value of each activation (`calibrate`). keep_float: output names of layers to leave in
    float32. Raises BundleError if a range is missing or nothing can be quantised.
    """
    if opset(model) < 13:
        raise BundleError(
            f"int8 needs ONNX opset 13 or later (per-channel scales), the network has {opset(model)}: export it again"
        )
    graph = Graph(copied(model))
    _norms_to_convolutions(graph)
    quantized = choose_nodes(graph, keep_float)
    if not any(n.op_type in WITH_WEIGHTS for n in quantized.values()):
        raise BundleError("no layer of the network can be quantised: only its last layer has constant float32 weights")
    folded = {} if scheme.symmetric else foldable_activations(graph, quantized)
    params = _choose_params(graph, quantized, ranges, scheme, folded)
    plan = _Int8Plan(quantized=quantized, params=params, scheme=scheme, folded=folded, keep_float=keep_float)
    _rewrite(graph, plan)
    onnx.checker.check_model(graph.model)
    return graph.model


def quantize_weight(
    weight: npt.NDArray[np.float32],
    axis: int,
    *,
    limit: int = 127,
    min_scale: npt.NDArray[np.float64] | None = None,
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Return weights as int8 in -limit..limit and one scale per output channel (`axis`): weight ~ scale * int8.

    min_scale: (channels), a floor for the scales, so that a large bias of a near-dead channel still fits int32.
    """
    others = tuple(i for i in range(weight.ndim) if i != axis)
    scale = np.abs(weight).max(axis=others).astype(np.float64) / limit
    scale = np.maximum(scale, np.finfo(np.float32).tiny if min_scale is None else min_scale)
    scale = np.maximum(scale.astype(np.float32), np.finfo(np.float32).tiny)
    shape = [-1 if i == axis else 1 for i in range(weight.ndim)]
    quantised = np.rint(weight / scale.reshape(shape)).clip(-limit, limit).astype(np.int8)
    return quantised, scale


def _choose_params(
    graph: Graph,
    quantized: Mapping[str, onnx.NodeProto],
    ranges: Mapping[str, Range],
    scheme: Scheme,
    folded: Mapping[str, str],
) -> dict[str, QuantParams]:
    """Return scale and zero point of every tensor with a Q/DQ pair, by name."""
    tensors = choose_tensors(graph, quantized, folded, symmetric=scheme.symmetric)
    leader = same_scale(quantized, tensors, folded)
    wide: dict[str, Range] = {}
    for name in tensors:
        if name in ranges:
            low, high = ranges[name]
            previous = wide.get(leader[name], (low, high))
            wide[leader[name]] = (min(low, previous[0]), max(high, previous[1]))
    # A tensor that only the simplified network has shares the values of another tensor; any other is an error.
    missing = [name for name in tensors if leader[name] not in wide]
    if missing:
        raise BundleError(
            f"the activation ranges hold no tensor {missing[0]!r}, which an int8 build needs: measure them again for "
            f"this network, with --calibration DIR or by exporting the bundle again"
        )
    return {name: scheme.params(wide[leader[name]]) for name in tensors}


@dataclass(frozen=True, kw_only=True)
class _Int8Plan:
    """Decisions that the rewriting applies."""

    quantized: Mapping[str, onnx.NodeProto]  # nodes that compute in int8, by the name of their first output
    params: Mapping[str, QuantParams]  # of tensors with a Q/DQ pair
    scheme: Scheme
    folded: Mapping[str, str]  # output of a Relu -> output of the layer that it is folded into
    keep_float: frozenset[str]


def _rewrite(graph: Graph, plan: _Int8Plan) -> None:
    params, folded = plan.params, plan.folded
    inputs = {i.name for i in graph.model.graph.input}
    new: list[onnx.NodeProto] = []
    for name in params:
        if name in inputs:
            new += _q_dq_pair(graph, name, name, params[name])
    for node in graph.nodes:
        if node.output[0] in folded:
            continue
        replaced = copied(node)
        replaced.input[:] = [f"{name}_dq" if name in params else name for name in node.input]
        if node.output[0] in plan.quantized and weight_of(graph, node) is not None:
            new += _quantized_weights(graph, node, replaced, plan)
        if node.output[0] in plan.keep_float and node.op_type in _REQUANTIZED and node.input[0] in params:
            new.append(_guard(graph, replaced, params[node.input[0]]))
        new.append(replaced)
        for out in node.output:
            target = next((relu for relu, source in folded.items() if source == out), out)
            if target in params:
                new += _q_dq_pair(graph, out, target, params[target])
    graph.replace_nodes(new)


def _q_dq_pair(graph: Graph, raw: str, name: str, params: QuantParams) -> list[onnx.NodeProto]:
    """Return the nodes from `raw` through Q and DQ to `{name}_dq`."""
    scale = graph.add_constant(f"{name}_scale", np.array(params.scale, np.float32))
    zero = graph.add_constant(f"{name}_zero", np.array(params.zero_point, params.dtype))
    return [
        helper.make_node("QuantizeLinear", [raw, scale, zero], [f"{name}_q"], name=f"{name}_Q"),
        helper.make_node("DequantizeLinear", [f"{name}_q", scale, zero], [f"{name}_dq"], name=f"{name}_DQ"),
    ]


def _guard(graph: Graph, layer: onnx.NodeProto, params: QuantParams) -> onnx.NodeProto:
    """Return a Clip before a layer that stays float32, with limits that its dequantised input cannot exceed.

    ONNX Runtime (WeightBiasQuantization, from 1.21 on) quantises float weights of a layer between DQ and Q to int8, with
    one scale for all channels. With another node in between it leaves the layer unchanged.
    """
    limits, out = np.iinfo(params.dtype), layer.output[0]
    low, high = (np.float32(q - params.zero_point) * np.float32(params.scale) for q in (limits.min, limits.max))
    names = [graph.add_constant(f"{out}_{end}", np.asarray(v)) for end, v in (("low", low), ("high", high))]
    clip = helper.make_node("Clip", [layer.input[0], *names], [f"{out}_input"], name=f"{out}_guard")
    layer.input[0] = clip.output[0]
    return clip


def _quantized_weights(
    graph: Graph,
    node: onnx.NodeProto,
    replaced: onnx.NodeProto,
    plan: _Int8Plan,
) -> list[onnx.NodeProto]:
    """Point `replaced` at int8 weights and, if the scheme is not symmetric, int32 bias; return their DQ nodes."""
    weight, out = weight_of(graph, node), node.output[0]
    assert weight is not None
    axis = _output_axis(node)
    bias = graph.constants[node.input[2]] if len(node.input) > 2 and node.input[2] else None
    bias = None if bias is None else np.broadcast_to(bias.reshape(-1), (weight.shape[axis],)).astype(np.float64)
    s_x = plan.params[node.input[0]].scale
    min_scale = None if bias is None else np.abs(bias) / (s_x * 2.0**30)
    quantised, s_w = quantize_weight(weight, axis, limit=plan.scheme.weight_limit, min_scale=min_scale)
    nodes = [_constant_dq(graph, f"{out}_weight", quantised, s_w, axis)]
    replaced.input[1] = nodes[0].output[0]
    if bias is not None and not plan.scheme.symmetric:
        s_b = np.maximum(np.float32(s_x) * s_w, np.finfo(np.float32).tiny)
        nodes.append(_constant_dq(graph, f"{out}_bias", np.rint(bias / s_b).astype(np.int32), s_b, 0))
        replaced.input[2] = nodes[1].output[0]
    return nodes


def _constant_dq(
    graph: Graph, name: str, values: npt.NDArray[np.generic], scale: npt.NDArray[np.float32], axis: int
) -> onnx.NodeProto:
    q = graph.add_constant(f"{name}_q", values)
    s = graph.add_constant(f"{name}_scale", scale)
    z = graph.add_constant(f"{name}_zero", np.zeros(scale.shape, values.dtype))
    return helper.make_node("DequantizeLinear", [q, s, z], [f"{name}_dq"], name=f"{name}_DQ", axis=axis)


def _output_axis(node: onnx.NodeProto) -> int:
    """Return the axis of the weights' output channels."""
    if node.op_type == "Conv":
        return 0
    return 0 if node.op_type == "Gemm" and attribute(node, "transB", 0) == 1 else 1


def _norms_to_convolutions(graph: Graph) -> None:
    """Replace batch norms that no convolution absorbed (DenseNet's) by depthwise 1x1 convolutions, which int8 supports."""
    new = []
    for node in graph.nodes:
        norm = batch_norm_affine(graph, node)
        if norm is None or any(graph.constants[name].dtype != np.float32 for name in node.input[1:5]):
            new.append(node)
            continue
        out = node.output[0]
        weight = graph.add_constant(f"{out}_factor", norm.factor.astype(np.float32).reshape(-1, 1, 1, 1))
        bias = graph.add_constant(f"{out}_offset", norm.offset.astype(np.float32))
        new.append(helper.make_node("Conv", [node.input[0], weight, bias], [out], name=out, group=norm.factor.size))
    graph.replace_nodes(new)


def _positive(scale: float) -> float:
    """Round to float32, and replace 0 by 1: a tensor that is always 0 still needs a scale."""
    value = float(np.float32(scale))
    return value if value > np.finfo(np.float32).tiny else 1.0
