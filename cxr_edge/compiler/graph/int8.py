"""From an fp32 ONNX graph and its activation ranges to an int8 one: static Q/DQ, symmetric per-channel weights.

The precision is written into the graph, so that every runtime compiles the same file: TensorRT 11 has no precision
flags and no calibrator. Two schemes, because no single one is best everywhere: `int8` keeps activations symmetric with
zero point 0 and bias in float32, as TensorRT demands; `uint8` lets them have an offset, which folds a Relu into the
quantisation of the layer before it and runs fastest on the CPU kernels of ONNX Runtime.

What comes after the last layer with weights, that layer included, stays float32: it makes the logits, is a small share
of the work, and is where rounding would show most.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from cxr_edge.compiler.graph.graph import Graph, attribute
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
    """How activations are quantised.

    name: also the precision's name. dtype: of activations. symmetric: zero point 0, and then bias stays float32.
    weight_limit: weights lie in -weight_limit..weight_limit; 63 for processors whose 16-bit sums would saturate (x86
    without VNNI instructions).
    """

    name: str
    dtype: Literal["int8", "uint8"]
    symmetric: bool
    weight_limit: int = 127

    def params(self, low_high: Range) -> QuantParams:
        """Scale and zero point for values in that range, widened to hold 0, so that padding is exact."""
        low, high = min(low_high[0], 0.0), max(low_high[1], 0.0)
        limits = np.iinfo(self.dtype)
        if self.symmetric:
            return QuantParams(scale=_positive(max(-low, high) / limits.max), zero_point=0, dtype=self.dtype)
        scale = _positive((high - low) / (limits.max - limits.min))
        zero_point = int(np.clip(round(limits.min - low / scale), limits.min, limits.max))
        return QuantParams(scale=scale, zero_point=zero_point, dtype=self.dtype)

    def reduced(self) -> Scheme:
        """The same with 7-bit weights, for processors without VNNI."""
        return replace(self, weight_limit=63)


@dataclass(frozen=True, kw_only=True)
class QuantParams:
    """real = scale * (quantised - zero_point)."""

    scale: float
    zero_point: int
    dtype: Literal["int8", "uint8"]


SCHEMES = {
    "int8": Scheme(name="int8", dtype="int8", symmetric=True),
    "uint8": Scheme(name="uint8", dtype="uint8", symmetric=False),
}


def first_layer(model: onnx.ModelProto) -> str:
    """The output name of the first layer with weights, for `keep_float`. Raises BundleError if there is none."""
    graph = Graph(_copy(model))
    for node in graph.nodes:
        if weight_of(graph, node) is not None:
            return str(node.output[0])
    raise BundleError("the network has no Conv, Gemm or MatMul with constant weights: int8 has nothing to speed up")


def int8_layers(model: onnx.ModelProto) -> tuple[str, ...]:
    """The output names of the layers with weights that `quantize` would reduce to int8, in order."""
    graph = Graph(_copy(model))
    _norms_to_convolutions(graph)
    return tuple(out for out, node in choose_nodes(graph, frozenset()).items() if node.op_type in WITH_WEIGHTS)


def quantize(
    model: onnx.ModelProto,
    ranges: Mapping[str, Range],
    scheme: Scheme,
    *,
    keep_float: frozenset[str] = frozenset(),
) -> onnx.ModelProto:
    """A copy of `model` (fp32, opset 13 or later) with Q/DQ pairs and int8 weights.

    ranges: lowest and highest value of each activation (`calibrate`). keep_float: output names of layers to leave in
    float32. Raises BundleError if a range is missing or nothing can be quantised.
    """
    _check_opset(model)
    graph = Graph(_copy(model))
    _norms_to_convolutions(graph)
    quantized = choose_nodes(graph, keep_float)
    if not any(n.op_type in WITH_WEIGHTS for n in quantized.values()):
        raise BundleError("no layer of the network can be quantised: only its last layer has constant float32 weights")
    folded = {} if scheme.symmetric else foldable_activations(graph, quantized)
    params = _choose_params(graph, quantized, ranges, scheme, folded)
    _rewrite(graph, quantized, params, scheme, folded, keep_float)
    onnx.checker.check_model(graph.model)
    return graph.model


def quantize_weight(
    weight: npt.NDArray[np.float32],
    axis: int,
    *,
    limit: int = 127,
    least_scale: npt.NDArray[np.float64] | None = None,
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Weights as int8 in -limit..limit and one scale an output channel (`axis`): weight ~ scale * int8.

    least_scale: (channels), a floor for the scales, so that a large bias of a near-dead channel still fits int32.
    """
    others = tuple(i for i in range(weight.ndim) if i != axis)
    scale = np.abs(weight).max(axis=others).astype(np.float64) / limit
    scale = np.maximum(scale, np.finfo(np.float32).tiny if least_scale is None else least_scale)
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
    """Scale and zero point of every tensor that gets a Q/DQ pair, by name."""
    tensors = choose_tensors(graph, quantized, folded, symmetric=scheme.symmetric)
    leader = same_scale(quantized, tensors, folded)
    wide: dict[str, Range] = {}
    for name in tensors:
        if name in ranges:
            low, high = ranges[name]
            so_far = wide.get(leader[name], (low, high))
            wide[leader[name]] = (min(low, so_far[0]), max(high, so_far[1]))
    # A tensor that only the simplified network has is covered by one that shares its values; any other is an error.
    missing = [name for name in tensors if leader[name] not in wide]
    if missing:
        raise BundleError(
            f"the activation ranges hold no tensor {missing[0]!r}, which an int8 build needs: measure them again for "
            f"this network, with --calibration DIR or by exporting the bundle again"
        )
    return {name: scheme.params(wide[leader[name]]) for name in tensors}


def _rewrite(
    graph: Graph,
    quantized: Mapping[str, onnx.NodeProto],
    params: Mapping[str, QuantParams],
    scheme: Scheme,
    folded: Mapping[str, str],
    keep_float: frozenset[str],
) -> None:
    inputs = {i.name for i in graph.model.graph.input}
    new: list[onnx.NodeProto] = []
    for name in params:
        if name in inputs:
            new += _pair(graph, name, name, params[name])
    for node in graph.nodes:
        if node.output[0] in folded:
            continue
        replaced = onnx.NodeProto()
        replaced.CopyFrom(node)
        replaced.input[:] = [f"{name}_dq" if name in params else name for name in node.input]
        if node.output[0] in quantized and weight_of(graph, node) is not None:
            new += _quantized_weights(graph, node, replaced, params, scheme)
        if node.output[0] in keep_float and node.op_type in _REQUANTIZED and node.input[0] in params:
            new.append(_guard(graph, replaced, params[node.input[0]]))
        new.append(replaced)
        for out in node.output:
            target = next((relu for relu, source in folded.items() if source == out), out)
            if target in params:
                new += _pair(graph, out, target, params[target])
    graph.replace_nodes(new)


def _pair(graph: Graph, raw: str, name: str, params: QuantParams) -> list[onnx.NodeProto]:
    """Nodes that lead from `raw` through Q and DQ to `{name}_dq`."""
    scale = graph.add_constant(f"{name}_scale", np.array(params.scale, np.float32))
    zero = graph.add_constant(f"{name}_zero", np.array(params.zero_point, params.dtype))
    return [
        helper.make_node("QuantizeLinear", [raw, scale, zero], [f"{name}_q"], name=f"{name}_Q"),
        helper.make_node("DequantizeLinear", [f"{name}_q", scale, zero], [f"{name}_dq"], name=f"{name}_DQ"),
    ]


def _guard(graph: Graph, layer: onnx.NodeProto, params: QuantParams) -> onnx.NodeProto:
    """A Clip before a layer that stays float32, to limits that its dequantised input cannot pass.

    ONNX Runtime (WeightBiasQuantization, from 1.21 on) gives float weights of a layer between DQ and Q int8 values, with
    one scale for all channels. With something in between it leaves the layer as it is written.
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
    params: Mapping[str, QuantParams],
    scheme: Scheme,
) -> list[onnx.NodeProto]:
    """Point `replaced` at int8 weights and, where the scheme wants it, int32 bias; returns their DQ nodes."""
    weight, out = weight_of(graph, node), node.output[0]
    assert weight is not None
    axis = _output_axis(node)
    bias = graph.constants[node.input[2]] if len(node.input) > 2 and node.input[2] else None
    bias = None if bias is None else np.broadcast_to(bias.reshape(-1), (weight.shape[axis],)).astype(np.float64)
    s_x = params[node.input[0]].scale
    least = None if bias is None else np.abs(bias) / (s_x * 2.0**30)
    quantised, s_w = quantize_weight(weight, axis, limit=scheme.weight_limit, least_scale=least)
    made = [_constant_dq(graph, f"{out}_weight", quantised, s_w, axis)]
    replaced.input[1] = made[0].output[0]
    if bias is not None and not scheme.symmetric:
        s_b = np.maximum(np.float32(s_x) * s_w, np.finfo(np.float32).tiny)
        made.append(_constant_dq(graph, f"{out}_bias", np.rint(bias / s_b).astype(np.int32), s_b, 0))
        replaced.input[2] = made[1].output[0]
    return made


def _constant_dq(
    graph: Graph, name: str, values: npt.NDArray[np.generic], scale: npt.NDArray[np.float32], axis: int
) -> onnx.NodeProto:
    q = graph.add_constant(f"{name}_q", values)
    s = graph.add_constant(f"{name}_scale", scale)
    z = graph.add_constant(f"{name}_zero", np.zeros(scale.shape, values.dtype))
    return helper.make_node("DequantizeLinear", [q, s, z], [f"{name}_dq"], name=f"{name}_DQ", axis=axis)


def _output_axis(node: onnx.NodeProto) -> int:
    """The axis of the weights that counts output channels."""
    if node.op_type == "Conv":
        return 0
    return 0 if node.op_type == "Gemm" and attribute(node, "transB", 0) == 1 else 1


def _norms_to_convolutions(graph: Graph) -> None:
    """Batch norms that no convolution could absorb (DenseNet's) become depthwise 1x1 convolutions, which int8 knows."""
    new = []
    for node in graph.nodes:
        arrays = [graph.constants.get(name) for name in node.input[1:5]]
        if node.op_type != "BatchNormalization" or any(a is None or a.dtype != np.float32 for a in arrays):
            new.append(node)
            continue
        gamma, beta, mean, variance = (np.asarray(a, np.float64) for a in arrays)
        factor = gamma / np.sqrt(variance + float(attribute(node, "epsilon", 1e-5)))  # type: ignore[arg-type]
        out = node.output[0]
        weight = graph.add_constant(f"{out}_factor", factor.astype(np.float32).reshape(-1, 1, 1, 1))
        bias = graph.add_constant(f"{out}_offset", (beta - mean * factor).astype(np.float32))
        new.append(helper.make_node("Conv", [node.input[0], weight, bias], [out], name=out, group=factor.size))
    graph.replace_nodes(new)


def _check_opset(model: onnx.ModelProto) -> None:
    version = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if version < 13:
        raise BundleError(
            f"int8 needs ONNX opset 13 or later (per-channel scales), the network has {version}: export it again"
        )


def _positive(scale: float) -> float:
    """As float32, and never 0: a tensor that is always 0 still needs a scale."""
    value = float(np.float32(scale))
    return value if value > np.finfo(np.float32).tiny else 1.0


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    new = onnx.ModelProto()
    new.CopyFrom(model)
    return new
