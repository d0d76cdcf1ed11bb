"""Rewriting to float16 and bfloat16: the nodes in half and in float32, the number of casts, the change of the outputs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper, numpy_helper, version_converter

import cxr_edge
from cxr_edge.compiler.graph.dtypes import element_types
from cxr_edge.compiler.graph.graph import Graph as Lookups
from cxr_edge.compiler.graph.graph import copied
from cxr_edge.compiler.graph.half import HALF_TYPES, half_layers, round_to_half, to_half
from cxr_edge.compiler.graph.half_emulation import emulate_half
from cxr_edge.compiler.graph.simplify import simplify
from cxr_edge.errors import BundleError
from tests.builders.toy_bundle import MEMBER_SPECS, SEGMENTER_SPEC, Graph, member_model, segmenter_model
from tests.compiler.networks import SPEC, chain, deep, engine_of, images
from tests.tolerances import HALF

FLOAT, FP16 = TensorProto.FLOAT, TensorProto.FLOAT16
STARTER = Path(cxr_edge.__file__).parent / "starter"


def unet():
    """Stride, depthwise, PRelu, batch norm, transposed convolution, Resize, Concat, Sigmoid."""
    g = Graph(21)
    skip = g.op("PRelu", g.conv("image", 1, 8), g.constant(np.full((8, 1, 1), 0.2)))
    deep = g.op("Clip", g.conv(skip, 8, 8, stride=2, groups=8), g.constant(-6.0), g.constant(6.0))
    up = g.op("ConvTranspose", deep, g.constant(np.random.default_rng(1).normal(0, 0.3, (8, 4, 3, 3))), strides=[2, 2])
    up = g.op("Slice", up, *(g.constant(v, np.int64) for v in ([0, 0], [16, 16], [2, 3])))
    wide = g.op("Resize", deep, "", g.constant([1, 1, 2, 2]), mode="linear")
    both = normed(g, g.op("Concat", skip, up, wide, axis=1), 20)
    g.op("Sigmoid", g.conv(g.op("LeakyRelu", both), 20, 1, 1), name="mask")
    return g.model(SPEC, {"mask": ("N", 1, 16, 16)})


def dense():
    """DenseNet's pattern: norms that no convolution absorbs, growing concats, a pooled vector and a Gemm."""
    g = Graph(22)
    x, channels = g.conv("image", 1, 8), 8
    for _ in range(3):
        x = g.op("Concat", x, g.conv(g.op("Relu", normed(g, x, channels)), channels, 4), axis=1)
        channels += 4
    x = g.op("AveragePool", g.op("Relu", normed(g, x, channels)), kernel_shape=[2, 2], strides=[2, 2])
    x = g.op("Flatten", g.op("GlobalAveragePool", x), axis=1)
    weight = np.random.default_rng(2).normal(0, 1, (4, channels))
    g.op("Gemm", x, g.constant(weight), g.constant(np.ones(4)), transB=1, name="logits")
    return g.model(SPEC, {"logits": ("N", 4)})


def normed(g, x, channels):
    rng = np.random.default_rng(channels)
    values = rng.uniform(0.5, 2, channels), rng.normal(0, 1, channels), rng.normal(0, 1, channels), np.ones(channels)
    return g.op("BatchNormalization", x, *(g.constant(v) for v in values))


def gated():
    """Adds, a squeeze-and-excitation gate in the middle, a hidden dense layer at the end."""
    g = Graph(23)
    x = g.op("Relu", g.conv("image", 1, 8))
    gate = g.op("Sigmoid", g.conv(g.op("GlobalAveragePool", x), 8, 8, 1))
    x = g.op("Relu", g.op("Add", x, g.conv(g.op("Mul", x, gate), 8, 8)))
    x = g.op("Flatten", g.op("ReduceMean", x, axes=[2, 3], keepdims=1), axis=1)
    hidden = g.op("Relu", g.op("Gemm", x, g.constant(np.random.default_rng(3).normal(0, 1, (8, 16)))))
    g.op("MatMul", hidden, g.constant(np.random.default_rng(4).normal(0, 1, (16, 4))), name="logits")
    return g.model(SPEC, {"logits": ("N", 4)})


NETWORKS = {
    "chain": (chain, SPEC),
    "unet": (unet, SPEC),
    "dense": (dense, SPEC),
    "gated": (gated, SPEC),
    "segmenter": (lambda: segmenter_model(SEGMENTER_SPEC), SEGMENTER_SPEC),
    **{name: (lambda n=name, s=spec: member_model(n, s), spec) for name, spec in MEMBER_SPECS.items()},
}


@pytest.fixture(params=NETWORKS)
def network(request):
    model_of, spec = NETWORKS[request.param]
    return model_of(), spec


def types_of(model):
    return element_types(Lookups(copied(model)))


def op_counts(model):
    return Counter(node.op_type for node in model.graph.node)


def node_of(model, output):
    return next(n for n in model.graph.node if output in n.output)


def outputs_of(model, folder, inputs):
    engine = engine_of(model, folder)
    return [engine.run({"image": x}) for x in inputs]


def largest_change(expected, actual):
    """Return the largest change of any output, relative to that output's largest value."""
    largest = {n: max(np.abs(e[n]).max() for e in expected) for n in expected[0]}
    pairs = list(zip(expected, actual, strict=True))
    return max(float(np.abs(e[n] - a[n]).max() / largest[n]) for e, a in pairs for n in largest)


@pytest.mark.parametrize("dtype", HALF_TYPES)
def test_inputs_and_outputs_do_not_change(network, dtype):
    model, _ = network
    before = model.SerializeToString()
    half = to_half(model, dtype)
    assert list(half.graph.input) == list(model.graph.input)
    assert list(half.graph.output) == list(model.graph.output)
    assert list(half.metadata_props) == list(model.metadata_props)
    assert list(half.opset_import) == list(model.opset_import)
    assert model.SerializeToString() == before
    assert {types_of(half)[o.name] for o in half.graph.output} == {FLOAT}


def test_every_layer_takes_and_gives_half(network):
    model, _ = network
    half = to_half(model, "fp16")
    onnx.checker.check_model(half, full_check=True)
    types, layers = types_of(half), half_layers(model)
    produced = {name for node in half.graph.node for name in node.output}
    assert layers
    for layer in layers:
        node = node_of(half, layer if layer in produced and types[layer] == FP16 else f"{layer}_fp16")
        assert {types[name] for name in (*node.input, *node.output)} == {FP16}
    convolutions = [n for n in half.graph.node if n.op_type in ("Conv", "ConvTranspose", "BatchNormalization")]
    assert all(types[name] == FP16 for n in convolutions for name in n.input)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_number_of_casts_is_minimal(name):
    """One after the image, one after the last layer; two more for a mean in between and for a hidden dense layer."""
    expected = {"gated": 2 + 2 + 2}
    assert op_counts(to_half(NETWORKS[name][0](), "fp16"))["Cast"] == expected.get(name, 2)


def test_outputs_in_float16(network, tmp_path):
    model, spec = network
    inputs = images(4, spec)
    expected, actual = (
        outputs_of(model, tmp_path / "fp32", inputs),
        outputs_of(to_half(model, "fp16"), tmp_path / "half", inputs),
    )
    assert largest_change(expected, actual) < HALF["fp16"]


@pytest.mark.parametrize("dtype", HALF_TYPES)
def test_outputs_with_every_value_rounded(network, dtype, tmp_path):
    model, spec = network
    inputs = images(4, spec)
    rounded = emulate_half(to_half(model, dtype))
    onnx.checker.check_model(rounded, full_check=True)
    expected, actual = outputs_of(model, tmp_path / "fp32", inputs), outputs_of(rounded, tmp_path / "half", inputs)
    assert 0 < largest_change(expected, actual) < HALF[dtype]


@pytest.mark.parametrize("name", ["lite0", "plain", "inverted", "segmenter"])
def test_the_starter_bundle(name, tmp_path):
    model = simplify(STARTER / f"{name}.onnx").model
    shape = [d.dim_value or 1 for d in model.graph.input[0].type.tensor_type.shape.dim]
    inputs = [np.random.default_rng(i).standard_normal(shape).astype(np.float32) for i in range(2)]
    expected = outputs_of(model, tmp_path / "fp32", inputs)
    half = to_half(model, "fp16")
    onnx.checker.check_model(half, full_check=True)
    assert op_counts(half)["Cast"] == 2
    assert largest_change(expected, outputs_of(half, tmp_path / "fp16", inputs)) < HALF["fp16"]
    for dtype in HALF_TYPES:
        actual = outputs_of(emulate_half(to_half(model, dtype)), tmp_path / dtype, inputs)
        assert largest_change(expected, actual) < HALF[dtype]


@pytest.mark.parametrize("dtype", HALF_TYPES)
def test_a_half_graph_is_not_changed_again(network, dtype):
    once = to_half(network[0], dtype)
    assert to_half(once, dtype) == once


def test_neighbouring_float32_layers_share_their_casts():
    """Two neighbours in float32: one cast before, none between, one after; the Relu between them is float32 too."""
    model = deep(5)
    half = to_half(model, "fp16", keep_float=frozenset(["layer_1", "layer_2"]))
    onnx.checker.check_model(half, full_check=True)
    types = types_of(half)
    assert {types[f"{kind}_{i}"] for kind in ("layer", "relu") for i in (1, 2)} == {FLOAT}
    assert {types[f"{kind}_{i}"] for kind in ("layer", "relu") for i in (0, 3, 4)} == {FP16}
    assert op_counts(half)["Cast"] == 4
    assert node_of(half, "layer_1").input[0] == "relu_0_fp32"
    assert node_of(half, "layer_2").input[0] == "relu_1"
    assert node_of(half, "layer_3").input[0] == "relu_2_fp16"


def test_one_cast_serves_all_consumers():
    g = Graph(24)
    x = g.op("Relu", g.conv("image", 1, 8), name="shared")
    branches = [g.conv(x, 8, 8) for _ in range(4)]
    x = g.op("Concat", *branches, axis=1)
    g.op("ReduceMean", g.conv(x, 32, 4, 1), axes=[2, 3], keepdims=0, name="logits")
    half = to_half(g.model(SPEC, {"logits": ("N", 4)}), "fp16", keep_float=frozenset(branches[1:3]))
    onnx.checker.check_model(half, full_check=True)
    casts = Counter(n.input[0] for n in half.graph.node if n.op_type == "Cast")
    assert casts["shared"] == 1  # for two float32 layers
    assert casts == {
        "image": 1,
        "shared": 1,
        **dict.fromkeys(branches[1:3], 1),
        node_of(half, "logits").input[0][:-5]: 1,
    }


def test_with_everything_in_float32_the_network_does_not_change(network):
    model, _ = network
    names = frozenset(name for node in model.graph.node for name in node.output)
    same = to_half(model, "fp16", keep_float=names)
    assert "Cast" not in op_counts(same)
    assert set(types_of(same).values()) <= {FLOAT, TensorProto.INT64}


def test_an_output_with_further_consumers(tmp_path):
    """Such as a heat map, from which the logits are computed: half layers take the half tensor."""
    g = Graph(25)
    g.nodes.append(helper.make_node("Relu", [g.conv("image", 1, 4)], ["cam"]))
    g.op("ReduceMean", g.conv("cam", 4, 4, 1), axes=[2, 3], keepdims=0, name="logits")
    model = g.model(SPEC, {"logits": ("N", 4), "cam": ("N", 4, 16, 16)})
    half = to_half(model, "fp16")
    onnx.checker.check_model(half, full_check=True)
    assert node_of(half, "cam").op_type == "Cast"
    assert next(n for n in half.graph.node if n.op_type == "Conv" and "cam" in n.input[0]).input[0] == "cam_fp16"
    inputs = images(2)
    assert (
        largest_change(outputs_of(model, tmp_path / "a", inputs), outputs_of(half, tmp_path / "b", inputs))
        < HALF["fp16"]
    )


@pytest.mark.parametrize("kind", ["Softmax", "Exp", "ReduceMean", "GlobalAveragePool"])
def test_sensitive_operators_compute_in_float32(kind):
    g = Graph(26)
    axes = {"ReduceMean": {"axes": [2, 3]}, "Softmax": {"axis": 1}}.get(kind, {})
    x = g.op(kind, g.conv("image", 1, 4), name="sensitive", **axes)
    g.op("Relu", g.conv(x, 4, 4, 1), name="logits")
    model = g.model(SPEC, {"logits": ("N", 4, None, None)})
    half = to_half(model, "fp16")
    onnx.checker.check_model(half, full_check=True)
    node = node_of(half, "sensitive")
    assert {types_of(half)[name] for name in (node.input[0], "sensitive")} == {FLOAT}
    pooled = "Reduce" in kind or "Pool" in kind  # then the last layer is float32 too
    assert len(half_layers(model)) == (1 if pooled else 2)


def test_batch_norms_are_folded_in_float64_before_rounding():
    """Mean and variance far beyond float16's range, of a channel whose normalised values are small."""
    g = Graph(27)
    values = [1.0, 2.0], [0.5, 0.25], [1e6, -1e6], [1e10, 4e10]
    x = g.op("BatchNormalization", g.conv("image", 1, 2), *(g.constant(v) for v in values), name="norm")
    g.op("ReduceMean", g.conv(x, 2, 4, 1), axes=[2, 3], keepdims=0, name="logits")
    half = to_half(g.model(SPEC, {"logits": ("N", 4)}), "fp16")
    constants = {i.name: numpy_helper.to_array(i) for i in half.graph.initializer}
    factor, offset, mean, variance = (constants[name].astype(np.float64) for name in node_of(half, "norm").input[1:])
    assert np.allclose(factor, [1e-5, 1e-5], rtol=0.01)
    assert np.allclose(offset, [0.5 - 10, 0.25 + 10], rtol=1e-3)
    assert (mean.tolist(), variance.tolist()) == ([0, 0], [1, 1])


def test_positions_stay_float32():
    half = to_half(unet(), "fp16")
    resize = next(n for n in half.graph.node if n.op_type == "Resize")
    types = types_of(half)
    assert (types[resize.input[0]], types[resize.input[2]]) == (FP16, FLOAT)


def test_a_constant_used_in_both_types_is_stored_twice():
    g = Graph(28)
    both = g.constant(np.full((4, 1, 1), 0.3))
    x = g.op("Mul", g.conv("image", 1, 4), both, name="scaled")
    g.op("Mul", g.op("ReduceMean", g.conv(x, 4, 4, 1), axes=[2, 3], keepdims=1), both, name="logits")
    half = to_half(g.model(SPEC, {"logits": ("N", 4, 1, 1)}), "fp16")
    onnx.checker.check_model(half, full_check=True)
    assert node_of(half, "scaled").input[1] == f"{both}_fp16"
    assert node_of(half, "logits").input[1] == both


def test_shape_arithmetic_stays_float32(tmp_path):
    """Sizes of 70000 would be infinite in float16, and odd ones wrong from 2049 on."""
    g = Graph(29)
    x = g.conv("image", 1, 4)
    size = g.op("Cast", g.op("Shape", x), to=FLOAT)
    doubled = g.op("Cast", g.op("Mul", size, g.constant([1, 1, 2, 2])), to=TensorProto.INT64, name="sizes")
    x = g.op("Resize", x, "", "", doubled, mode="nearest")
    g.op("ReduceMean", g.conv(x, 4, 4, 1), axes=[2, 3], keepdims=0, name="logits")
    model = g.model(SPEC, {"logits": ("N", 4)})
    half = to_half(model, "fp16")
    onnx.checker.check_model(half, full_check=True)
    types = types_of(half)
    shape = next(n for n in half.graph.node if n.op_type == "Shape")
    assert types[shape.input[0]] == FP16  # no cast before a Shape
    assert types[node_of(half, "sizes").input[0]] == FLOAT
    inputs = images(2)
    assert (
        largest_change(outputs_of(model, tmp_path / "a", inputs), outputs_of(half, tmp_path / "b", inputs))
        < HALF["fp16"]
    )


@pytest.mark.parametrize(("dtype", "casts"), [("fp16", 1), ("bf16", 2)])
def test_a_network_that_takes_float16_images(dtype, casts, tmp_path):
    """Its cast to float32 is removed: float16 layers take the image directly, bfloat16 ones through one cast."""
    g = Graph(30)
    g.op("ReduceMean", g.conv(g.op("Relu", g.conv(g.op("Cast", "image", to=FLOAT), 1, 8)), 8, 4, 1), axes=[2, 3],
         keepdims=0, name="logits")  # fmt: skip
    model = g.model(SPEC, {"logits": ("N", 4)})
    model.graph.input[0].type.tensor_type.elem_type = FP16
    half = to_half(model, dtype)
    assert list(half.graph.input) == list(model.graph.input)
    assert op_counts(half)["Cast"] == casts
    inputs = [x.astype(np.float16) for x in images(2)]
    actual = outputs_of(emulate_half(half), tmp_path / "b", inputs)
    assert largest_change(outputs_of(model, tmp_path / "a", inputs), actual) < HALF[dtype]


def test_constants_that_are_nodes(tmp_path):
    """`Constant` with a plain number in an attribute, as exporters write scalars."""
    g = Graph(31)
    g.nodes.append(helper.make_node("Constant", [], ["two"], value_float=2.0))
    x = g.op("Mul", g.conv("image", 1, 4), "two", name="doubled")
    g.op("ReduceMean", g.conv(x, 4, 4, 1), axes=[2, 3], keepdims=0, name="logits")
    half = to_half(g.model(SPEC, {"logits": ("N", 4)}), "fp16")
    assert types_of(half)[node_of(half, "doubled").input[1]] == FP16
    assert "Constant" not in op_counts(half)


def with_constant(value):
    g = Graph(32)
    x = g.op("Clip", g.conv("image", 1, 4), g.constant(0.0), g.constant(value), name="clipped")
    g.op("ReduceMean", g.conv(x, 4, 4, 1), axes=[2, 3], keepdims=0, name="logits")
    return g.model(SPEC, {"logits": ("N", 4)})


def test_a_constant_beyond_the_range_is_named():
    with pytest.raises(
        BundleError, match=r"'constant_3' holds 70000, the largest value of fp16 is 65504: keep the layer"
    ):
        to_half(with_constant(7e4), "fp16")
    assert to_half(with_constant(7e4), "bf16")
    assert to_half(with_constant(7e4), "fp16", keep_float=frozenset(["clipped"]))
    assert to_half(with_constant(np.inf), "fp16")
    with pytest.raises(BundleError, match=r"holds 3\.4028\S*, the largest value of bf16 is 3\.38953e\+38"):
        to_half(with_constant(np.finfo(np.float32).max), "bf16")


def test_unsupported_networks_are_refused():
    old = chain()
    old.opset_import[0].version = 12
    with pytest.raises(BundleError, match=r"opset 13 or later, the network has 12"):
        to_half(old, "fp16")
    foreign = chain()
    foreign.graph.node[1].domain = "com.example"
    with pytest.raises(BundleError, match=r"com\.example:Relu that makes 'features' is not in ONNX opset 17"):
        to_half(foreign, "fp16")
    g = Graph(33)
    g.op("Relu", "image", name="logits")
    with pytest.raises(BundleError, match=r"no layer of the network can compute in bf16"):
        to_half(g.model(SPEC, {"logits": ("N", 1, 16, 16)}), "bf16")


def test_branches_are_refused():
    g = Graph(34)
    x = g.conv("image", 1, 4)
    body = helper.make_graph([helper.make_node("Identity", [x], ["out"])], "b", [],
                             [helper.make_tensor_value_info("out", FLOAT, None)])  # fmt: skip
    g.op("If", g.constant(True, np.bool_), name="logits", then_branch=body, else_branch=body)
    with pytest.raises(BundleError, match=r"'logits' is produced by If: export it with fixed shapes"):
        to_half(g.model(SPEC, {"logits": ("N", 4, 16, 16)}), "fp16")


@pytest.mark.skipif(onnx.defs.onnx_opset_version() < 22, reason="this onnx knows no opset 22")
def test_bfloat16_follows_the_schema_from_opset_22_on(network):
    """Older schemas have no bfloat16 convolution; such a graph is for runtimes that do not check the schema."""
    model, _ = network
    newer = to_half(version_converter.convert_version(model, 22), "bf16")
    onnx.checker.check_model(newer, full_check=True)
    older = to_half(model, "bf16")
    onnx.checker.check_model(older)
    with pytest.raises(onnx.shape_inference.InferenceError, match="bfloat16"):
        onnx.checker.check_model(older, full_check=True)


@pytest.mark.parametrize("dtype", HALF_TYPES)
@given(values=hnp.arrays(np.float32, 32, elements=st.floats(width=32, allow_nan=False)))
def test_rounding_equals_the_runtimes(dtype, values):
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=HALF_TYPES[dtype]),
        helper.make_node("Cast", ["h"], ["y"], to=FLOAT),
    ]
    x, y = (helper.make_tensor_value_info(n, FLOAT, [32]) for n in "xy")
    graph = helper.make_graph(nodes, "round", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert np.array_equal(round_to_half(values, dtype), session.run(None, {"x": values})[0])


@pytest.mark.parametrize("dtype", HALF_TYPES)
def test_emulation_equals_a_numpy_model(dtype, tmp_path):
    """Weights and image rounded, sums in float32, every result rounded; the mean in float32."""
    model, image = chain(), images(1)[0]
    weight, bias, head, head_bias = (numpy_helper.to_array(i) for i in model.graph.initializer)

    def rounded(v):
        return round_to_half(np.asarray(v, np.float32), dtype)

    padded = np.pad(rounded(image)[0, 0], 1)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3)).astype(np.float64)
    sums = np.einsum("hwij,oij->ohw", windows, rounded(weight)[:, 0].astype(np.float64))
    features = np.maximum(rounded(sums + rounded(bias)[:, None, None]), 0).astype(np.float64)
    maps = np.einsum("chw,kc->khw", features, rounded(head)[:, :, 0, 0].astype(np.float64))
    expected = rounded(maps + rounded(head_bias)[:, None, None]).astype(np.float64).mean(axis=(1, 2))
    actual = outputs_of(emulate_half(to_half(model, dtype)), tmp_path, [image])[0]["logits"][0]
    assert np.abs(actual - expected).max() < 2e-3 * HALF[dtype] * np.abs(expected).max()


def test_emulation_shows_overflow(tmp_path):
    model = deep(4, bad=2, how="fp16")
    image = images(1)
    assert np.isfinite(outputs_of(model, tmp_path / "fp32", image)[0]["logits"]).all()
    assert not np.isfinite(
        outputs_of(emulate_half(to_half(model, "fp16")), tmp_path / "fp16", image)[0]["logits"]
    ).all()
    assert np.isfinite(outputs_of(emulate_half(to_half(model, "bf16")), tmp_path / "bf16", image)[0]["logits"]).all()


def test_emulation_does_not_change_other_graphs(network):
    assert emulate_half(network[0]).graph.node == network[0].graph.node
