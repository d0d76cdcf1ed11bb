"""Rewriting to int8, against arithmetic in NumPy and in the operators of the compiled engine."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper, numpy_helper

from cxr_edge.compiler.calibrate import measure_ranges
from cxr_edge.compiler.candidates import scheme_for_processor
from cxr_edge.compiler.graph.int8 import SCHEMES, first_layer, quantize, quantize_weight
from cxr_edge.compiler.graph.simplify import simplify
from cxr_edge.errors import BundleError
from tests.builders.toy_bundle import MEMBER_SPECS, SEGMENTER_SPEC, Graph, member_model, segmenter_model
from tests.compiler.networks import SPEC, chain, compiled, deep, engine_of, images, op_types, saved

UINT8, INT8 = SCHEMES["uint8"], SCHEMES["int8"]
UINT8_HERE = scheme_for_processor(UINT8)  # for numeric comparisons: 8-bit weights saturate without VNNI

# Float operators of a fully quantised engine: the last layer and all after it, and conversions at the borders.
BORDER_OPS = {"QuantizeLinear", "DequantizeLinear", "Transpose", "ReorderInput", "ReorderOutput"}
HEAD_OPS = {"Conv", "ReduceMean", "GlobalAveragePool", "Flatten", "Reshape", "Squeeze", "Add", "Sigmoid", "Identity"}
INT8_OPS = {"QLinearConv", "QLinearAdd", "QLinearConcat", "NhwcMaxPool", "MaxPool", "Resize"}


def ranges_of(model, folder, spec, count=4):
    return measure_ranges(saved(model, folder), images(count, spec), source="test", method="minmax").tensors


def initializers(model):
    return {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}


@pytest.mark.parametrize("scheme", [UINT8, INT8], ids=lambda s: s.name)
@given(low=st.floats(-1e4, 1e4), high=st.floats(-1e4, 1e4))
def test_scales_represent_the_range_and_zero_exactly(scheme, low, high):
    low, high = min(low, high), max(low, high)
    p = scheme.params((low, high))
    limits = np.iinfo(p.dtype)
    assert limits.min <= p.zero_point <= limits.max
    assert p.scale > 0
    lowest, highest = ((q - p.zero_point) * p.scale for q in (limits.min, limits.max))
    assert lowest - 0.51 * p.scale <= min(low, 0) or scheme.symmetric
    assert highest + 0.51 * p.scale >= max(high, 0)
    assert not scheme.symmetric or p.zero_point == 0


@given(
    weight=hnp.arrays(np.float32, (5, 3, 2, 2), elements=st.floats(-8, 8, width=32)),
    limit=st.sampled_from([127, 63]),
    axis=st.sampled_from([0, 1]),
)
def test_each_output_channel_has_its_own_scale(weight, limit, axis):
    quantised, scale = quantize_weight(weight, axis, limit=limit)
    assert quantised.dtype == np.int8
    assert scale.shape == (weight.shape[axis],)
    assert np.abs(quantised.astype(int)).max() <= limit
    for channel in range(weight.shape[axis]):
        w, q = (np.take(a, channel, axis).astype(np.float64) for a in (weight, quantised))
        assert np.abs(w - q * scale[channel]).max() <= 0.5001 * scale[channel]
        if np.abs(w).max() > 1e-30:  # the full resolution of the channel is used
            assert np.abs(q).max() == limit


def test_per_channel_scales_preserve_a_channel_of_small_weights():
    weight = np.ones((2, 1, 1, 4), np.float32)
    weight[0] *= [[0.001, -0.002, 0.003, 0.0007]]
    weight[1] *= 100
    quantised, scale = quantize_weight(weight, 0)
    assert np.allclose(quantised[0] * scale[0], weight[0], rtol=0.02)


@pytest.mark.parametrize("scheme", [UINT8, INT8], ids=lambda s: s.name)
def test_outputs_equal_a_numpy_model_of_quantisation(scheme, tmp_path):
    model, image = chain(), images(1)[0]
    ranges = ranges_of(model, tmp_path, SPEC)
    constants = initializers(model)
    weight, bias, head, head_bias = constants.values()
    x, y = scheme.params(ranges["image"]), scheme.params(ranges["features"])

    x_q = quantise(image, x)
    w_q, s_w = quantize_weight(weight, 0)
    padded = np.pad(x_q - x.zero_point, ((0, 0), (0, 0), (1, 1), (1, 1)))[0, 0]
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3))
    sums = np.einsum("hwij,oij->ohw", windows, w_q[:, 0].astype(np.int64))
    s_b = x.scale * s_w.astype(np.float64)
    b = bias if scheme.symmetric else np.rint(bias / s_b) * s_b
    features = np.maximum(sums * s_b[:, None, None] + b[:, None, None], 0)
    features = (quantise(features, y) - y.zero_point) * y.scale
    expected = np.einsum("chw,kc->k", features, head[:, :, 0, 0].astype(np.float64)) / 256 + head_bias

    actual = engine_of(quantize(model, ranges, scheme), tmp_path).run({"image": image})["logits"][0]
    # Values that lie on a rounding boundary may fall to either side: a few of 256 pixels by one step.
    assert np.abs(actual - expected).max() < 0.02 * y.scale * np.abs(head).sum()


def quantise(values, params):
    limits = np.iinfo(params.dtype)
    return np.clip(np.rint(values / params.scale) + params.zero_point, limits.min, limits.max).astype(np.int64)


@pytest.mark.parametrize("name", MEMBER_SPECS)
def test_members_are_int8_to_the_last_layer(name, tmp_path):
    spec = MEMBER_SPECS[name]
    model = member_model(name, spec)
    simple = simplify(saved(model, tmp_path)).model
    path = compiled(quantize(simple, ranges_of(model, tmp_path, spec), UINT8), tmp_path)
    operators = op_types(path)
    assert operators.count("Conv") + operators.count("FusedConv") == 1  # of the activation map
    assert operators.count("QLinearConv") == [n.op_type for n in simple.graph.node].count("Conv") - 1
    assert set(operators) <= BORDER_OPS | HEAD_OPS | INT8_OPS
    assert operators.count("QuantizeLinear") == operators.count("DequantizeLinear") == 1


def test_the_segmenter_is_int8_to_the_last_layer(tmp_path):
    model = segmenter_model(SEGMENTER_SPEC)
    simple = simplify(saved(model, tmp_path)).model
    operators = op_types(compiled(quantize(simple, ranges_of(model, tmp_path, SEGMENTER_SPEC), UINT8), tmp_path))
    assert set(operators) <= BORDER_OPS | HEAD_OPS | INT8_OPS
    assert {"QLinearConv", "QLinearConcat"} <= set(operators)


@pytest.mark.parametrize("scheme", [UINT8, INT8], ids=lambda s: s.name)
@pytest.mark.parametrize("name", MEMBER_SPECS)
def test_int8_stays_close_to_fp32(name, scheme, tmp_path):
    spec = MEMBER_SPECS[name]
    model = member_model(name, spec)
    quantised = quantize(simplify(saved(model, tmp_path)).model, ranges_of(model, tmp_path, spec), scheme)
    image = images(1, spec)[0]
    expected = engine_of(model, tmp_path / "fp32").run({"image": image})
    actual = engine_of(quantised, tmp_path / "int8").run({"image": image})
    assert actual["cam"].dtype == actual["logits"].dtype == np.float32
    assert np.abs(actual["cam"] - expected["cam"]).mean() < 0.05 * np.abs(expected["cam"]).mean()


def test_int8_is_portable():
    """TensorRT takes zero point 0 only, and neither int32 nor quantised bias."""
    model = chain()
    ranges = {"image": (-1.0, 3.0), "features": (0.0, 2.0)}
    quantised = quantize(model, ranges, INT8)
    constants = initializers(quantised)
    zeros = [constants[n.input[2]] for n in quantised.graph.node if n.op_type.endswith("QuantizeLinear")]
    assert zeros
    assert all(z.dtype == np.int8 and not z.any() for z in zeros)
    assert not [c for c in constants.values() if c.dtype == np.int32]
    assert "Relu" in [n.op_type for n in quantised.graph.node]


def test_uint8_folds_the_relu_and_quantises_the_bias():
    quantised = quantize(chain(), {"image": (-1.0, 3.0), "features": (0.0, 2.0)}, UINT8)
    assert "Relu" not in [n.op_type for n in quantised.graph.node]
    assert [c for c in initializers(quantised).values() if c.dtype == np.int32 and c.size == 8]


def test_a_clip_that_does_not_start_at_zero_remains():
    g = Graph(5)
    x = g.op("Clip", g.conv("image", 1, 4), g.constant(-1.0), g.constant(1.0), name="features")
    g.op("ReduceMean", g.conv(x, 4, 4, 1), axes=[2, 3], keepdims=0, name="logits")
    quantised = quantize(
        g.model(SPEC, {"logits": ("N", 4)}),
        {"image": (-1.0, 1.0), "features": (-1.0, 1.0), "conv_0": (-2.0, 2.0)},
        UINT8,
    )
    assert "Clip" in [n.op_type for n in quantised.graph.node]


def test_the_original_does_not_change_and_metadata_is_copied():
    model = chain()
    before = model.SerializeToString()
    quantised = quantize(model, {"image": (-1.0, 3.0), "features": (0.0, 2.0)}, UINT8)
    assert model.SerializeToString() == before
    assert list(quantised.metadata_props) == list(model.metadata_props)
    assert [o.name for o in quantised.graph.output] == ["logits"]


def test_a_layer_can_stay_float32(tmp_path):
    model = member_model("plain", MEMBER_SPECS["plain"])
    quantised = quantize(
        model, ranges_of(model, tmp_path, MEMBER_SPECS["plain"]), UINT8, keep_float=frozenset([first_layer(model)])
    )
    first = quantised.graph.node[0]
    assert (first.op_type, list(first.output)) == ("Conv", [first_layer(model)])
    assert initializers(quantised)[first.input[1]].dtype == np.float32


@pytest.mark.parametrize("scheme", [UINT8, INT8], ids=lambda s: s.name)
def test_a_float32_layer_in_the_middle_is_float32_in_the_engine_too(scheme, tmp_path):
    """ONNX Runtime would quantise it itself, with one scale for all channels, and the outputs would be wrong."""
    model, inputs = deep(6, bad=3, how="int8"), images(4)
    ranges = ranges_of(model, tmp_path, SPEC)
    mixed = quantize(model, ranges, scheme, keep_float=frozenset(["layer_3"]))
    assert op_types(compiled(mixed, tmp_path / "int8")).count("Conv") == 2  # it and the last one
    expected, actual, all_int8 = (
        np.stack([engine_of(m, tmp_path / "run").run({"image": x})["logits"] for x in inputs])
        for m in (model, mixed, quantize(model, ranges, scheme))
    )
    assert np.abs(actual - expected).max() < 0.1 * np.abs(all_int8 - expected).max()


def test_a_float32_layer_takes_exactly_the_dequantised_values():
    quantised = quantize(deep(4), {n: (-1.0, 3.0) for n in ("image", *(f"relu_{i}" for i in range(4)))}, UINT8,
                         keep_float=frozenset(["layer_2"]))  # fmt: skip
    constants = initializers(quantised)
    guard = next(n for n in quantised.graph.node if n.op_type == "Clip")
    pair = next(n for n in quantised.graph.node if n.output[0] == guard.input[0])
    scale, zero = (constants[name] for name in pair.input[1:])
    levels = (np.arange(256, dtype=np.float32) - np.float32(zero)) * scale
    assert (pair.op_type, guard.output[0]) == ("DequantizeLinear", "layer_2_input")
    assert [constants[n] for n in guard.input[1:]] == [levels.min(), levels.max()]


def test_a_norm_after_a_concat_becomes_int8(tmp_path):
    """DenseNet's pattern: no convolution can absorb the batch norm."""
    g = Graph(6)
    x = g.op("Relu", g.conv("image", 1, 4))
    both = g.op("Concat", x, g.op("Relu", g.conv(x, 4, 4)), axis=1)
    scale = [g.constant(v) for v in (np.linspace(0.5, 2, 8), np.linspace(-1, 1, 8), np.zeros(8), np.ones(8))]
    x = g.op("Relu", g.op("BatchNormalization", both, *scale))
    g.op("ReduceMean", g.conv(g.op("Relu", g.conv(x, 8, 8)), 8, 4, 1), axes=[2, 3], keepdims=0, name="logits")
    model = g.model(SPEC, {"logits": ("N", 4)})
    quantised = quantize(model, ranges_of(model, tmp_path, SPEC), UINT8_HERE)
    operators = op_types(compiled(quantised, tmp_path / "int8"))
    assert "BatchNormalization" not in operators
    assert "Relu" not in operators
    image = images(1)[0]
    expected, actual = (engine_of(m, tmp_path / "run").run({"image": image})["logits"] for m in (model, quantised))
    assert np.allclose(actual, expected, atol=0.05 * np.abs(expected).max())


@pytest.mark.parametrize("kind", ["Gemm", "MatMul"])
def test_dense_layers(kind, tmp_path):
    rng = np.random.default_rng(8)
    g = Graph(8)
    x = g.op("Flatten", g.op("GlobalAveragePool", g.op("Relu", g.conv("image", 1, 8))), axis=1)
    hidden = (
        g.op("Gemm", x, g.constant(rng.normal(0, 1, (16, 8))), g.constant(rng.normal(0, 1, 16)), transB=1)
        if kind == "Gemm"
        else g.op("MatMul", x, g.constant(rng.normal(0, 1, (8, 16))))
    )
    g.op("MatMul", g.op("Relu", hidden), g.constant(rng.normal(0, 1, (16, 4))), name="logits")
    model = g.model(SPEC, {"logits": ("N", 4)})
    quantised = quantize(model, ranges_of(model, tmp_path, SPEC), UINT8_HERE)
    assert sum(i.dtype == np.int8 and i.ndim == 2 for i in initializers(quantised).values()) == 1
    image = images(1)[0]
    expected, actual = (engine_of(m, tmp_path / "run").run({"image": image})["logits"] for m in (model, quantised))
    assert np.allclose(actual, expected, atol=0.05 * np.abs(expected).max())


def test_a_large_bias_on_a_dead_channel_is_preserved(tmp_path):
    """Batch norms folded into a pruned or dead channel leave weights near 0 under a bias that int32 could not hold."""
    model = chain()
    weight, bias = (next(i for i in model.graph.initializer if i.name == n) for n in model.graph.node[0].input[1:])
    w, b = (np.array(numpy_helper.to_array(i)) for i in (weight, bias))
    w[2], b[2] = 1e-12, 3.0
    weight.CopyFrom(numpy_helper.from_array(w, weight.name))
    bias.CopyFrom(numpy_helper.from_array(b, bias.name))
    quantised = quantize(model, ranges_of(model, tmp_path, SPEC), UINT8)
    image = images(1)[0]
    expected, actual = (engine_of(m, tmp_path / "run").run({"image": image})["logits"] for m in (model, quantised))
    assert np.allclose(actual, expected, atol=0.05 * np.abs(expected).max())


def test_seven_bit_weights_for_processors_without_vnni():
    quantised = quantize(chain(), {"image": (-1.0, 3.0), "features": (0.0, 2.0)}, UINT8.with_7_bit_weights())
    weights = [c for c in initializers(quantised).values() if c.dtype == np.int8 and c.ndim == 4]
    assert np.abs(weights[0].astype(int)).max() == 63


def test_a_missing_range_is_named():
    with pytest.raises(BundleError, match=r"no tensor 'features'.*--calibration DIR"):
        quantize(chain(), {"image": (-1.0, 1.0)}, UINT8)


def test_an_old_opset_is_an_error():
    model = chain()
    model.opset_import[0].version = 12
    with pytest.raises(BundleError, match=r"opset 13 or later .* has 12"):
        quantize(model, {}, UINT8)


def test_a_network_of_one_layer_is_an_error():
    node = helper.make_node("Conv", ["image", "w"], ["logits"])
    weight = numpy_helper.from_array(np.ones((4, 1, 16, 16), np.float32), "w")
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, 16, 16])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 4, 1, 1])
    graph = helper.make_graph([node], "one", [image], [logits], [weight])
    with pytest.raises(BundleError, match="no layer of the network can be quantised"):
        quantize(onnx.helper.make_model(graph), {"image": (0.0, 1.0)}, UINT8)


def test_a_network_that_takes_float16_images(tmp_path):
    """Its first node is a cast: the nodes after it are quantised, the input is not."""
    g = Graph(9)
    x = g.op("Cast", "image", to=TensorProto.FLOAT)
    x = g.op("Relu", g.conv(g.op("Relu", g.conv(x, 1, 8)), 8, 8))
    g.op("ReduceMean", g.conv(x, 8, 4, 1), axes=[2, 3], keepdims=0, name="logits")
    model = g.model(SPEC, {"logits": ("N", 4)})
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    half = [x.astype(np.float16) for x in images(3)]
    ranges = measure_ranges(saved(model, tmp_path), half, source="test").tensors
    quantised = quantize(simplify(saved(model, tmp_path)).model, ranges, UINT8)
    expected, actual = (engine_of(m, tmp_path / "run").run({"image": half[0]})["logits"] for m in (model, quantised))
    assert np.allclose(actual, expected, atol=0.05 * np.abs(expected).max())
