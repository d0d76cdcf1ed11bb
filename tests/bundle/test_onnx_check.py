"""Check of networks against the manifest: malformed files are BundleErrors, mismatches are ContractErrors."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from cxr_edge.bundle import Bundle, file_ref, onnx_check, write_bundle
from cxr_edge.bundle.onnx_check import DIGEST_KEY, check_network, check_networks
from cxr_edge.errors import BackendError, BundleError, ContractError
from cxr_edge.specs.preprocess import PreprocessSpec
from tests.builders.toy_bundle import (
    LABELS,
    MEMBER_SPECS,
    SEGMENTER_SPEC,
    Graph,
    build_toy_bundle,
    member_model,
    segmenter_model,
)

SPEC = MEMBER_SPECS["plain"]
OUTPUTS: dict[str, Any] = {"logits": ("N", 4), "cam": ("N", 4, None, None)}


@pytest.fixture
def model() -> onnx.ModelProto:
    return member_model("plain", SPEC)


def check(model: onnx.ModelProto | bytes, folder: Path, **changes: Any) -> onnx_check.Network:
    """Run check_network on a model saved in `folder`."""
    path = folder / "plain.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return check_network("plain", path, **{"spec": SPEC, "outputs": OUTPUTS, **changes})


def test_facts_of_every_network(toy_bundle: Path) -> None:
    networks = check_networks(Bundle.open(toy_bundle))
    assert [n.name for n in networks] == ["segmenter", "plain", "depthwise", "residual"]
    plain = networks[1]
    weights = (8 * 9 + 8) + (16 * 8 * 9 + 16) + 4 * 16 + 4
    macs = 24 * 24 * 8 * 9 + 12 * 12 * 16 * 8 * 9 + 12 * 12 * 4 * 16
    assert (plain.parameters, plain.macs, plain.opset) == (weights, macs, 17)
    assert plain.size_bytes == (toy_bundle / "plain.onnx").stat().st_size


def test_macs_of_transposed_convolutions_and_matrix_products() -> None:
    shapes: dict[str, Any] = {
        "x": (1, 3, 5, 5),
        "w": (3, 2, 4, 4),
        "y": (1, 2, 10, 10),
        "m": (7, 6),
        "n": (1, 6),
        "z": (1, 7),
    }
    up = helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2])
    gemm = helper.make_node("Gemm", ["n", "m"], ["z"], transB=1)
    assert onnx_check._node_macs(up, shapes) == 3 * 5 * 5 * 2 * 4 * 4
    assert onnx_check._node_macs(gemm, shapes) == 7 * 6
    assert onnx_check._node_macs(helper.make_node("Relu", ["x"], ["r"]), shapes) == 0


def test_a_bundle_without_segmenter_and_cam(tmp_path: Path) -> None:
    bundle = build_toy_bundle(tmp_path, segmenter=False, cam=False, known_answers=False)
    assert [n.name for n in check_networks(bundle)] == list(MEMBER_SPECS)


def test_a_network_with_another_number_of_labels_is_rejected(toy_bundle_copy: Path) -> None:
    """The manifest has four labels; the network has three."""
    onnx.save(member_model("plain", SPEC, labels=3), toy_bundle_copy / "plain.onnx")
    bundle = _update_manifest(toy_bundle_copy)
    with pytest.raises(
        ContractError, match=r"plain\.onnx \(plain\): output \w+ must be float32 \(N, 4.*it is float32 \(N, 3"
    ):
        check_networks(bundle)


def test_a_cam_output_without_has_cam_is_rejected(toy_bundle_copy: Path) -> None:
    bundle = Bundle.open(toy_bundle_copy)
    members = (dataclasses.replace(bundle.manifest.members[0], has_cam=False), *bundle.manifest.members[1:])
    bundle = write_bundle(toy_bundle_copy, dataclasses.replace(bundle.manifest, members=members))
    with pytest.raises(
        ContractError, match=r"must have the outputs logits, it has 'logits float32 \(N, 4\), cam .*has_cam"
    ):
        check_networks(bundle)


def test_a_segmenter_with_another_mask_size_is_rejected(tmp_path: Path) -> None:
    onnx.save(segmenter_model(SEGMENTER_SPEC), tmp_path / "s.onnx")
    with pytest.raises(ContractError, match=r"output mask must be float32 \(N, 1, 32, 32\)"):
        check_network("segmenter", tmp_path / "s.onnx", SEGMENTER_SPEC, {"mask": ("N", 1, 32, 32)})


@pytest.mark.parametrize(("end", "axis"), [("Softmax", {"axis": 1}), ("Sigmoid", {})])
def test_a_member_that_ends_in_probabilities_is_rejected(toy_bundle_copy: Path, end: str, axis: dict[str, int]) -> None:
    """The combination would take their softmax: 0.99 becomes 0.47."""
    model = member_model("plain", SPEC)
    last = next(n for n in model.graph.node if n.output[0] == "logits")
    last.output[0] = "before"
    model.graph.node.append(helper.make_node(end, ["before"], ["logits"], **axis))
    onnx.save(model, toy_bundle_copy / "plain.onnx")
    with pytest.raises(
        ContractError,
        match=rf"plain.onnx \(plain\): its output logits ends in a {end}.*without its {end} .*'before' has",
    ):
        check_networks(_update_manifest(toy_bundle_copy))


def _update_manifest(root: Path) -> Bundle:
    """Write the current SHA-256 of the first member into the manifest and open the bundle."""
    text = json.loads((root / "manifest.json").read_text(encoding="utf-8"))
    text["members"][0]["file"] = file_ref(root, "plain.onnx").as_json()
    (root / "manifest.json").write_text(json.dumps(text), encoding="utf-8")
    return Bundle.open(root)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has 0 bytes"),
        (b"not a network", "is not an ONNX file, or is truncated"),
        (b"\x08\x09", "has opset 0"),
        (b"\x89PNG\r\n\x1a\n" * 100, "is not an ONNX file, or is truncated"),
    ],
)
def test_a_file_that_is_not_a_network_is_rejected(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        check(content, tmp_path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_truncated_network_is_rejected(tmp_path: Path, model: onnx.ModelProto, share: float) -> None:
    content = model.SerializeToString()
    with pytest.raises((BundleError, ContractError)):
        check(content[: int(len(content) * share)], tmp_path)


def test_an_altered_byte_raises_only_our_own_errors(tmp_path: Path, model: onnx.ModelProto) -> None:
    """A file that was written to break the parser must end in an error of ours, whichever byte is altered."""
    content = model.SerializeToString()
    rejected = 0
    for index in np.random.default_rng(5).integers(0, len(content), 150):
        altered = bytearray(content)
        altered[index] ^= 0xFF
        try:
            check(bytes(altered), tmp_path)
        except (BundleError, ContractError):
            rejected += 1
    assert rejected > 0


def test_a_network_that_is_too_large_is_not_read(
    tmp_path: Path, model: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_check, "_MAX_ONNX_BYTES", 1000)
    with pytest.raises(BundleError, match="an ONNX file of a bundle has 1 to 1000"):
        check(model, tmp_path)


EXTERNAL_PATHS = ["../../etc/passwd", "/etc/passwd", "weights.bin", "..\\..\\boot.ini", ""]


def _external(name: str, location: str) -> onnx.TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


def _in_initializer(model: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    model.graph.initializer.append(tensor)


def _in_node(model: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))


def _in_sparse_initializer(model: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    model.graph.sparse_initializer.add(dims=[1]).values.CopyFrom(tensor)


def _in_subgraph(model: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    inner = helper.make_graph([], "inner", [], [], [tensor])
    model.graph.node.append(helper.make_node("If", ["c"], ["d"], then_branch=inner, else_branch=inner))


def _in_function(model: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    model.functions.add(name="f", domain="d").node.append(helper.make_node("Constant", [], ["c"], value=tensor))


def _in_training_info(model: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    model.training_info.add().initialization.initializer.append(tensor)


INSERTIONS = [_in_initializer, _in_node, _in_sparse_initializer, _in_subgraph, _in_function, _in_training_info]


@pytest.mark.parametrize("insert", INSERTIONS)
@pytest.mark.parametrize("location", EXTERNAL_PATHS)
def test_external_data_is_rejected_in_every_part_of_the_model(
    tmp_path: Path, model: onnx.ModelProto, insert: Callable[[onnx.ModelProto, onnx.TensorProto], None], location: str
) -> None:
    insert(model, _external("external", location))
    with pytest.raises(BundleError) as caught:
        check(model, tmp_path)
    assert "tensor 'external' has its data outside the file" in str(caught.value)
    assert ascii(location) in str(caught.value)
    assert "export again without external data" in str(caught.value)
    assert "torch.onnx.export(..., external_data=False)" in str(caught.value)
    assert "onnx.save(onnx.load('plain.onnx'), " in str(caught.value)


def test_external_data_without_the_location_flag_is_rejected(tmp_path: Path, model: onnx.ModelProto) -> None:
    model.graph.initializer[0].external_data.add(key="location", value="/etc/passwd")
    with pytest.raises(BundleError, match="/etc/passwd"):
        check(model, tmp_path)


def test_messages_hold_no_control_characters_of_a_file(tmp_path: Path, model: onnx.ModelProto) -> None:
    _in_initializer(model, _external("a\x1b[31m" + "b" * 5000, "\x1b[2J"))
    with pytest.raises(BundleError) as caught:
        check(model, tmp_path)
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("opset", [9, 12, 24, 99])
def test_an_unsupported_opset_is_rejected(tmp_path: Path, model: onnx.ModelProto, opset: int) -> None:
    model.opset_import[0].version = opset
    with pytest.raises(BundleError, match=f"has opset {opset}, supported are 13 to 23: export again"):
        check(model, tmp_path)


def test_an_onnx_package_older_than_the_files_ir_version_is_reported(tmp_path: Path, model: onnx.ModelProto) -> None:
    newest = onnx.IR_VERSION
    model.ir_version = newest
    check(model, tmp_path)
    model.ir_version = newest + 1
    expected = rf"IR version {newest + 1}, the installed onnx {onnx.__version__} reads up to {newest}: .*--upgrade onnx"
    with pytest.raises(BackendError, match=expected):
        check(model, tmp_path)


def test_an_onnx_package_older_than_the_files_opset_is_reported(
    tmp_path: Path, model: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx.defs, "onnx_opset_version", lambda: 16)
    with pytest.raises(BackendError, match=r"has opset 17, the installed onnx .* reads up to 16: .* opset 16 or older"):
        check(model, tmp_path)


def test_operators_of_another_domain_are_rejected(tmp_path: Path, model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.evil", 1))
    model.graph.node[0].domain = "com.evil"
    with pytest.raises(BundleError, match=r"operators of the domain 'com\.evil'; only the standard ones"):
        check(model, tmp_path)


def test_a_graph_with_a_missing_tensor_is_rejected(tmp_path: Path, model: onnx.ModelProto) -> None:
    model.graph.node[1].input[0] = "nothing"
    with pytest.raises(BundleError, match=r"plain\.onnx is not a valid ONNX model: .*; export it again"):
        check(model, tmp_path)


def test_weights_of_inconsistent_shapes_are_rejected(tmp_path: Path, model: onnx.ModelProto) -> None:
    bias = model.graph.initializer[-1]
    bias.CopyFrom(numpy_helper.from_array(np.zeros(5, np.float32), bias.name))
    with pytest.raises(BundleError, match="is not a valid ONNX model"):
        check(model, tmp_path)


def test_text_that_is_not_utf8_is_rejected(tmp_path: Path, model: onnx.ModelProto) -> None:
    content = model.SerializeToString().replace(SPEC.digest().encode(), b"\xff" * 64)
    with pytest.raises(BundleError, match="has a value that is not UTF-8 text"):
        check(content, tmp_path)


def test_another_preprocessing_digest_is_rejected(tmp_path: Path, model: onnx.ModelProto) -> None:
    other = dataclasses.replace(SPEC, median=True)
    with pytest.raises(ContractError) as caught:
        check(model, tmp_path, spec=other)
    assert other.digest() in str(caught.value)
    assert SPEC.digest() in str(caught.value)
    assert "export it again with its own spec" in str(caught.value)


def test_a_missing_digest_is_rejected(tmp_path: Path, model: onnx.ModelProto) -> None:
    del model.metadata_props[:]
    with pytest.raises(ContractError, match=rf"in its metadata \({DIGEST_KEY}\), it has none"):
        check(model, tmp_path)


def test_two_digests_are_rejected(tmp_path: Path, model: onnx.ModelProto) -> None:
    model.metadata_props.add(key=DIGEST_KEY, value="0" * 64)
    with pytest.raises((BundleError, ContractError), match=r"duplicate keys in metadata_props|it has .*0000"):
        check(model, tmp_path)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (PreprocessSpec(canvas_px=64, crop_px=64), r"input image must be float32 \(N, 1, 64, 64\).*\(N, 1, 48, 48\)"),
        (PreprocessSpec(canvas_px=48, crop_px=48, channels=3), r"must be float32 \(N, 3, 48, 48\)"),
        (PreprocessSpec(canvas_px=48, crop_px=48, dtype="float16"), r"must be float16 \(N, 1, 48, 48\).*is float32"),
    ],
)
def test_an_input_that_does_not_match_the_preprocessing_is_rejected(
    tmp_path: Path, model: onnx.ModelProto, spec: PreprocessSpec, message: str
) -> None:
    with pytest.raises(ContractError, match=message):
        check(model, tmp_path, spec=spec)


def test_an_input_with_another_name_is_rejected(tmp_path: Path, model: onnx.ModelProto) -> None:
    model.graph.input[0].name = "x"
    model.graph.node[0].input[0] = "x"
    with pytest.raises(
        ContractError, match=r"must have the input image, it has 'x float32 \(N, 1, 48, 48\)': give it this name"
    ):
        check(model, tmp_path)


@pytest.mark.parametrize("where", ["input", "output"])
def test_a_fixed_batch_is_rejected(tmp_path: Path, model: onnx.ModelProto, where: str) -> None:
    getattr(model.graph, where)[0].type.tensor_type.shape.dim[0].dim_value = 1
    with pytest.raises((ContractError, BundleError)) as caught:
        check(model, tmp_path)
    assert "(N, " in str(caught.value) or "dynamic batch" in str(caught.value)


def test_a_batch_fixed_inside_the_graph_is_rejected(tmp_path: Path) -> None:
    g = Graph(seed=1)
    pooled = g.op("GlobalAveragePool", g.conv("image", 1, len(LABELS), 3))
    g.op("Reshape", pooled, g.constant([1, len(LABELS)], np.int64), name="logits")
    with pytest.raises(
        ContractError,
        match=r"must take any number of images at once, and its graph has a fixed batch .* export it again with a dynamic batch",
    ):
        check(g.model(SPEC, {"logits": ("N", 4)}), tmp_path, outputs={"logits": ("N", 4)})


def test_a_cam_of_dynamic_size_is_rejected(tmp_path: Path, model: onnx.ModelProto) -> None:
    model.graph.output[1].type.tensor_type.shape.dim[2].dim_param = "h"
    with pytest.raises(
        ContractError, match=r"output cam must be float32 \(N, 4, \?, \?\), .* it is float32 \(N, 4, h, 12\)"
    ):
        check(model, tmp_path)


def test_an_input_that_is_not_a_tensor_is_rejected(tmp_path: Path, model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_sequence_value_info("more", TensorProto.FLOAT, None))
    with pytest.raises(
        ContractError, match=r"must have the input image, it has 'image .*, more of type 0 .*other inputs as constants"
    ):
        check(model, tmp_path)
