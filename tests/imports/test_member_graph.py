"""A member computes what its original computes, whatever the original's layout, head, end, precision and opset."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from cxr_edge.errors import BundleError, ContractError, InputError
from cxr_edge.imports.member_graph import member_graph, without_cam
from cxr_edge.imports.trained_input import PRESETS, TrainedInput
from tests.imports.networks import Design, compared, network, saved

LABELS = ("a", "b", "c")
UNIT = PRESETS["unit"]
EXACT = 2e-6  # float32 sums in another order, of probabilities


def op_types(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def set_shape(value, shape):
    value.CopyFrom(helper.make_tensor_value_info(value.name, TensorProto.FLOAT, shape))


def case(tmp_path, labels=LABELS, trained=UNIT, declared=None, **design):
    declared = {"choice": "softmax-logits"} if declared is None else declared
    return compared(saved(network(Design(**design)), tmp_path), trained, labels, **declared)


@pytest.mark.parametrize(
    "design",
    [
        {},
        {"nhwc": True},
        {"nhwc": True, "channels": 3, "scale": 0.3},
        {"channels": 3, "scale": 0.3},
        {"batch": 1},
        {"batch": 2},
        {"side": "S"},
        {"bias": False},
        {"head": "matmul"},
        {"head": "matmul-add"},
        {"head": "conv"},
        {"head": "first"},
        {"head": "nhwc-mean"},
        {"head": "nhwc-mean", "nhwc": True, "end": "Softmax"},
        {"end": "Softmax"},
        {"end": "LogSoftmax"},
        {"opset": 9},
        {"opset": 9, "end": "Softmax", "batch": 1},
        {"opset": 13},
        {"opset": 18, "batch": 1},
        {"input": "float64"},
        {"names": ("image", "logits")},
        {"names": ("logits", "image")},
        {"names": ("cam", "import_columns")},
    ],
    ids=str,
)
def test_a_network_with_pooling_and_dense_layer(tmp_path, design):
    trained = TrainedInput(size=16) if "side" in design else UNIT
    result = case(tmp_path, trained=trained, declared={} if design.get("end") == "Softmax" else None, **design)
    assert np.ptp(result.expected, axis=0).max() > 0.02  # it sees the images
    assert result.difference < EXACT
    assert result.member.has_cam
    assert result.cam.shape == (4, 3, 4, 4)
    bias = result.logits - result.cam.mean(axis=(2, 3))
    np.testing.assert_allclose(bias, np.repeat(bias[:1], 4, axis=0), atol=1e-5)
    assert not {"Softmax", "LogSoftmax"} & set(op_types(result.member.model))


@pytest.mark.parametrize("head", ["flatten", "norm"])
def test_other_heads_have_no_map(tmp_path, head):
    result = case(tmp_path, head=head)
    assert result.difference < EXACT
    assert not result.member.has_cam
    assert [o.name for o in result.member.model.graph.output] == ["logits"]


def test_logits_stay_bit_equal(tmp_path):
    result = case(tmp_path)
    image = np.random.default_rng(0).random((2, 1, 16, 16), np.float32)
    session = onnxruntime.InferenceSession(result.member.model.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = result.original.session.run(None, {"input_1": image})
    assert np.array_equal(session.run(["logits"], {"image": image})[0], expected)


def test_transposes_at_the_input_cancel_out(tmp_path):
    assert "Transpose" not in op_types(case(tmp_path, nhwc=True).member.model)


def test_a_fixed_batch_as_torch_export_writes_it(tmp_path):
    model = network(Design(batch=1))
    reshape = next(n for n in model.graph.node if n.op_type == "Reshape")
    reshape.attribute.append(helper.make_attribute("allowzero", 1))
    result = compared(saved(model, tmp_path), UNIT, LABELS, choice="softmax-logits")
    assert result.difference < EXACT  # of four images at once
    assert "The fixed batch of 1 was made dynamic (1 Reshape nodes changed)." in result.member.changes


@pytest.mark.parametrize("given", ["float32", "float16"])
def test_half_precision_is_widened(tmp_path, given):
    result = case(tmp_path, weights="float16", input=given)
    assert result.difference < 5e-3
    assert {t.data_type for t in result.member.model.graph.initializer} <= {TensorProto.FLOAT, TensorProto.INT64}
    assert "Weights and activations were widened to single precision." in result.member.changes


def test_whole_numbers_as_input(tmp_path):
    result = case(tmp_path, trained=PRESETS["bytes"], input="uint8", scale=1 / 255)
    assert result.difference < EXACT
    assert op_types(result.member.model)[:2] == ["Round", "Cast"]


@pytest.mark.parametrize("end", [None, "Sigmoid", "HardSigmoid"])
def test_one_finding_becomes_two_labels(tmp_path, end):
    declared = {} if end else {"choice": "logit"}
    result = case(tmp_path, labels=("absent", "present"), declared=declared, columns=1, end=end)
    assert np.ptp(result.expected[:, 1]) > 0.02
    assert result.difference < EXACT
    assert not result.logits[:, 0].any() or end == "HardSigmoid"
    assert result.member.has_cam == (end != "HardSigmoid")  # whose inverse is not a dense layer
    if result.cam is not None:
        assert not result.cam[:, 0].any()
        assert result.cam[:, 1].any()


@pytest.mark.parametrize(("end", "kind"), [(None, "multi-label-logits"), ("Sigmoid", "multi-label-probabilities")])
def test_one_finding_of_several(tmp_path, end, kind):
    result = case(tmp_path, labels=("absent", "present"), declared={"column": 2}, end=end, columns=5, scale=20.0)
    assert result.read.columns.kind == kind
    assert result.difference < EXACT
    raw = result.read.raw[:, 2]
    np.testing.assert_allclose(result.expected[:, 1], raw if end else 1 / (1 + np.exp(-raw)), atol=1e-6)
    assert result.cam[:, 1].any()


def test_probabilities_without_a_softmax_at_the_end(tmp_path):
    model = network(Design(end="Softmax"))
    model.graph.node[-1].output[0] = "soft"
    model.graph.node.append(helper.make_node("Clip", ["soft"], ["output_1"], name="clip"))
    result = compared(saved(model, tmp_path), UNIT, LABELS)
    assert result.difference < EXACT
    assert op_types(result.member.model)[-2:] == ["Log", "Flatten"]
    assert not result.member.has_cam


def test_a_second_output_is_left_out(tmp_path):
    model = network(Design())
    model.graph.node.append(helper.make_node("Exp", ["output_1"], ["other"], name="other"))
    model.graph.output.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, ["N", 3]))
    path = saved(model, tmp_path)
    with pytest.raises(InputError, match="has the outputs 'output_1', 'other': name the one with the labels"):
        compared(path, UNIT, LABELS, choice="softmax-logits")
    result = compared(path, UNIT, LABELS, choice="softmax-logits", output_name="output_1")
    assert "Exp" not in op_types(result.member.model)
    with pytest.raises(InputError, match="no output 'x'"):
        compared(path, UNIT, LABELS, output_name="x")


def test_inner_tensors_with_reserved_names(tmp_path):
    model = network(Design())
    for node, name in zip(model.graph.node, ("image", "logits", "cam"), strict=False):
        old, node.output[0] = node.output[0], name
        for other in model.graph.node:
            other.input[:] = [name if i == old else i for i in other.input]
    assert compared(saved(model, tmp_path), UNIT, LABELS, choice="softmax-logits").difference < EXACT


def test_an_imported_network_can_be_imported(tmp_path):
    first = case(tmp_path, labels=("absent", "present"), declared={"column": 1}, end="Sigmoid", nhwc=True)
    path = saved(first.member.model, tmp_path, "again.onnx")
    again = compared(path, UNIT, ("absent", "present"), choice="softmax-logits", output_name="logits")
    np.testing.assert_allclose(again.logits, first.logits, atol=1e-6)


def test_texts_of_the_exporter_are_removed(tmp_path):
    model = network(Design())
    model.graph.node[0].doc_string = model.doc_string = "/home/someone/train.py"
    helper.set_model_props(model, {"path": "/home/someone"})
    result = compared(saved(model, tmp_path), UNIT, LABELS, choice="softmax-logits")
    assert b"someone" not in result.member.model.SerializeToString()


def test_without_cam(tmp_path):
    member = without_cam(case(tmp_path).member, "a reason")
    assert (member.has_cam, member.changes[-1]) == (False, "a reason")
    assert [o.name for o in member.model.graph.output] == ["logits"]
    assert sum(kind == "Conv" for kind in op_types(member.model)) == 2


def test_falling_brightness_becomes_nodes(tmp_path):
    result = case(tmp_path, trained=TrainedInput(range=(1.0, -1.0), mean=(0.1,), std=(0.5,)))
    assert op_types(result.member.model)[:2] == ["Mul", "Add"]
    assert result.difference < EXACT
    assert result.original.deployed().spec.standardize == "none"


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset(tmp_path, name):
    channels = 3 if name == "imagenet" else 1
    scale = 1 / max(map(abs, PRESETS[name].range))
    result = case(tmp_path, trained=PRESETS[name], channels=channels, scale=scale)
    assert np.ptp(result.expected, axis=0).max() > 0.02
    assert result.difference < EXACT


def test_external_data_are_refused(tmp_path):
    model = network(Design())
    onnx.save(model, tmp_path / "net.onnx", save_as_external_data=True, size_threshold=0)
    with pytest.raises(BundleError, match="has its data outside the file"):
        compared(tmp_path / "net.onnx", UNIT, LABELS)


def test_a_file_of_another_format(tmp_path):
    (tmp_path / "net.pt").write_bytes(b"\x80\x02...")
    with pytest.raises(BundleError, match="a Python pickle, as torch"):
        compared(tmp_path / "net.pt", UNIT, LABELS)


def test_operators_of_other_domains(tmp_path):
    model = network(Design())
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))  # as tf2onnx writes
    assert compared(saved(model, tmp_path), UNIT, LABELS, choice="softmax-logits").difference < EXACT
    model.graph.node[0].domain = "ai.onnx.ml"
    with pytest.raises(BundleError, match="uses operators of the domain 'ai"):
        compared(saved(model, tmp_path), UNIT, LABELS)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (["N", 16], "expected a batch of images"),
        (["N", 2, 16, 16], "does not say where the channels are"),
        (["N", "C", "H", "W"], "does not say where the channels are"),
        (["N", 1, 16, 20], "members take squares only"),
        (["N", 1, "H", "W"], "takes any size: give the size of training"),
    ],
)
def test_inputs_that_are_no_x_ray(tmp_path, shape, message):
    model = network(Design())
    set_shape(model.graph.input[0], shape)
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.append(helper.make_node("Identity", ["input_1"], ["output_1"]))
    set_shape(model.graph.output[0], [None] * len(shape))
    with pytest.raises((ContractError, InputError), match=message):
        compared(saved(model, tmp_path), UNIT, LABELS)


@pytest.mark.parametrize(
    ("trained", "message"),
    [
        (TrainedInput(size=20), "has 16 pixels per side, --preprocess states 20"),
        (TrainedInput(channels=3), "has 1 channels"),
        (TrainedInput(layout="nhwc"), "has 16 channels"),
        (PRESETS["imagenet"], "mean has 3 numbers, and the network's input has 1 channel"),
    ],
)
def test_preprocessing_that_does_not_fit(tmp_path, trained, message):
    with pytest.raises(InputError, match=message):
        case(tmp_path, trained=trained)


def test_two_inputs(tmp_path):
    model = network(Design())
    model.graph.input.append(helper.make_tensor_value_info("age", TensorProto.FLOAT, ["N", 1]))
    with pytest.raises(ContractError, match="must have one input, an image; it has 'input_1', 'age'"):
        compared(saved(model, tmp_path), UNIT, LABELS)


def test_an_output_that_is_no_row_of_labels(tmp_path):
    model = network(Design(head="first"))
    flat = model.graph.node[-1]
    del model.graph.node[-1]
    model.graph.node.append(helper.make_node("Identity", [flat.input[0]], ["output_1"]))
    set_shape(model.graph.output[0], [None] * 4)
    assert compared(saved(model, tmp_path), UNIT, LABELS, choice="softmax-logits").difference < EXACT  # (N, 3, 1, 1)
    model.graph.node[-1].input[0] = model.graph.node[-2].input[0]  # the maps
    with pytest.raises(ContractError, match=r"has the shape \(1, 3, 4, 4\).*choose another output with --output-name"):
        compared(saved(model, tmp_path), UNIT, LABELS)


def test_the_original_stays_as_it_is(tmp_path):
    result = case(tmp_path, nhwc=True, end="Softmax", declared={})
    before = result.original.model.SerializeToString()
    member_graph(result.original, result.read.columns)
    assert result.original.model.SerializeToString() == before
