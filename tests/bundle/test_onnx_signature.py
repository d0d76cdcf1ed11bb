"""Inputs and outputs that other exporters give: each is refused with the call or the option that mends it."""

from __future__ import annotations

import re
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from cxr_edge.bundle.onnx_activation import last_activation
from cxr_edge.bundle.onnx_check import check_network
from cxr_edge.errors import BundleError, ContractError
from cxr_edge.specs.preprocess import PreprocessSpec

SPEC = PreprocessSpec(canvas_px=16, crop_px=16, region="frame")


def network(
    shape: list[object], kind: int = TensorProto.FLOAT, *, outputs: list[object] | None = None
) -> onnx.ModelProto:
    """A network that casts its input to float and averages it, whatever its shape."""
    nodes = [
        helper.make_node("Cast", ["image"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["x"], ["logits"], axes=[2, 3], keepdims=0),
    ]
    given = [helper.make_tensor_value_info("image", kind, shape)]
    found = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, outputs or [shape[0], shape[1]])]
    graph = helper.make_graph(nodes, "g", given, found)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def check(model: onnx.ModelProto, folder: Path, spec: PreprocessSpec = SPEC) -> None:
    onnx.save(model, folder / "net.onnx")
    check_network("net", folder / "net.onnx", spec, {"logits": ("N", None)}, digest_required=False)


def test_what_fits_is_accepted(tmp_path: Path) -> None:
    check(network(["N", 1, 16, 16]), tmp_path)
    check(network([None, 1, 16, 16]), tmp_path)


INPUTS = [
    (["N", 16, 16, 1], TensorProto.FLOAT, "its channels come last, as in Keras .*--inputs-as-nchw INPUT, or .*Permute"),
    ([1, 16, 16, 1], TensorProto.FLOAT, "its channels come last"),
    ([1, 1, 16, 16], TensorProto.FLOAT, r"dynamic batch, in PyTorch by torch.onnx.export\(.*dynamic_shapes=.*"),
    (["N", 1, 16, 16], TensorProto.DOUBLE, r"it is float64 .*network.float\(\)"),
    (["N", 1, 16, 16], TensorProto.UINT8, r"it is uint8 .*not bytes: .* without its own conversion .*standardize"),
    (["N", 1, 16, 16], TensorProto.FLOAT16, 'it is float16 .*state "dtype": "float16" in its preprocessing'),
    (["N", 1, "H", "W"], TensorProto.FLOAT, "for images of one size: only the first dimension may vary"),
    (
        ["N", 3, 16, 16],
        TensorProto.FLOAT,
        r"other preprocessing or labels than in the manifest \(or --spec, --preset\)",
    ),
    (["N", 1, 32, 32], TensorProto.FLOAT, "other preprocessing"),
]


@pytest.mark.parametrize(("shape", "kind", "message"), INPUTS)
def test_another_input_is_refused_with_its_remedy(tmp_path: Path, shape: list[object], kind: int, message: str) -> None:
    with pytest.raises(
        ContractError, match=rf"net.onnx \(net\): input image must be float32 \(N, 1, 16, 16\), N varying, .*{message}"
    ):
        check(network(shape, kind), tmp_path)


def test_a_spec_in_half_precision_takes_a_network_in_half_precision(tmp_path: Path) -> None:
    check(
        network(["N", 1, 16, 16], TensorProto.FLOAT16),
        tmp_path,
        PreprocessSpec.from_json({**SPEC.as_json(), "dtype": "float16"}),
    )


def test_another_name_of_the_input_is_refused_with_the_option(tmp_path: Path) -> None:
    model = network(["N", 1, 16, 16])
    model.graph.node[0].input[0] = model.graph.input[0].name = "input_1"
    with pytest.raises(ContractError, match=r"has 'input_1 float32 \(N, 1, 16, 16\)': .* input_names=\[\"image\"\]"):
        check(model, tmp_path)


def test_a_second_input_is_refused(tmp_path: Path) -> None:
    model = network(["N", 1, 16, 16])
    model.graph.input.append(helper.make_tensor_value_info("age", TensorProto.FLOAT, ["N", 1]))
    with pytest.raises(ContractError, match=r"'image .*, age float32 \(N, 1\)': .* its other inputs as constants"):
        check(model, tmp_path)


def test_a_network_without_an_input_is_refused(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Constant", [], ["logits"], value=helper.make_tensor("t", TensorProto.FLOAT, [1, 1], [0.0]))
    ]
    out = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 1])]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [], out), opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    )
    with pytest.raises((ContractError, BundleError), match="must have the input image, it has none"):
        check(model, tmp_path)


def test_outputs_without_a_column_are_refused_with_the_remedy(tmp_path: Path) -> None:
    model = network(["N", 1, 16, 16])
    model.graph.node[1].output[0] = "mean"
    model.graph.initializer.append(helper.make_tensor("flat", TensorProto.INT64, [1], [-1]))
    model.graph.node.append(helper.make_node("Reshape", ["mean", "flat"], ["logits"]))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N"]))
    with pytest.raises(ContractError, match=r"it is float32 \(N\): give it one row per image and one column per label"):
        check(model, tmp_path)


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        (["Softmax"], "softmax"),
        (["Sigmoid"], "sigmoid"),
        (["HardSigmoid"], "sigmoid"),
        (["Softmax", "Identity"], "softmax"),
        (["Sigmoid", "Flatten", "Cast"], "sigmoid"),
        (["Softmax", "Log"], None),
        (["LogSoftmax"], None),
        (["Softmax", "Neg"], None),
        ([], None),
    ],
)
def test_the_last_activation(ends: list[str], expected: str | None) -> None:
    nodes, name = [helper.make_node("ReduceMean", ["image"], ["mean"])], "mean"
    for i, end in enumerate(ends):
        attributes = {"to": TensorProto.FLOAT} if end == "Cast" else {}
        nodes.append(helper.make_node(end, [name], [f"end_{i}"], **attributes))
        name = f"end_{i}"
    model = helper.make_model(helper.make_graph(nodes, "g", [], []))
    found = last_activation(model, name)
    assert (found and found.kind) == expected
    if found:
        assert found.tensor == "mean"
        assert re.fullmatch("[A-Za-z]+", found.operator)


def test_a_cycle_has_no_last_activation() -> None:
    nodes = [helper.make_node("Identity", ["b"], ["a"]), helper.make_node("Identity", ["a"], ["b"])]
    assert last_activation(helper.make_model(helper.make_graph(nodes, "g", [], [])), "a") is None
