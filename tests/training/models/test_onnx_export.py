"""ONNX export: the file computes the same as torch, holds its preprocessing digest, and a mismatch raises."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import onnxslim
import pytest
import torch
from torch import Tensor, nn

from cxr_edge.errors import ContractError, InputError
from cxr_edge.specs.preprocess import PreprocessSpec
from tests.tolerances import NETWORK, assert_close
from training.models import LungUNet, NetworkSpec, build, build_member
from training.models.onnx_export import DIGEST_KEY, SegmenterForExport, export

SPEC = PreprocessSpec(canvas_px=32, crop_px=32)


def _session(file: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])


def test_an_exported_member_equals_torch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    member = build_member("inverted", 4).train()  # export has to switch dropout and batch statistics off
    assert export(member, SPEC, ["logits", "cam"], tmp_path / "m.onnx") < NETWORK
    x = np.random.default_rng(0).standard_normal((5, 1, 32, 32), dtype=np.float32)
    logits, cam = _session(tmp_path / "m.onnx").run(["logits", "cam"], {"image": x})
    with torch.no_grad():
        expected = member(torch.from_numpy(x))
    assert_close(logits, expected.logits)
    assert_close(cam, expected.cam)


def test_the_file_has_the_preprocessing_digest(tmp_path: Path) -> None:
    export(build_member("plain", 4), SPEC, ["logits", "cam"], tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx")
    assert {p.key: p.value for p in model.metadata_props} == {DIGEST_KEY: SPEC.digest()}
    shapes = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.output}
    assert shapes["logits"] == ["N", 4]
    assert (model.doc_string, model.ir_version, model.opset_import[0].version) == ("", 8, 18)


def test_the_file_has_nothing_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporter notes the Python lines that made each node, with their folders; onnxslim, if installed, drops them too."""
    monkeypatch.setitem(sys.modules, "onnxslim", None)
    export(build_member("plain", 4), SPEC, ["logits", "cam"], tmp_path / "m.onnx")
    content = (tmp_path / "m.onnx").read_bytes()
    assert b".py" not in content
    assert b"stack_trace" not in content


class _Deciding(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) if x.sum() > 0 else x.amax((2, 3))


def test_a_network_that_looks_at_its_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"_Deciding cannot be exported to ONNX, because torch\.export cannot follow it"
    ):
        export(_Deciding(), SPEC, ["logits"], tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_a_compiled_network_is_exported_as_itself(tmp_path: Path) -> None:
    member = torch.compile(build_member("plain", 4), backend="eager")
    assert export(member, SPEC, ["logits", "cam"], tmp_path / "m.onnx") < NETWORK


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the exporter that is compared with
@pytest.mark.parametrize("name", ["plain", "inverted", "inception", "lung-unet", "custom"])
def test_the_graph_is_that_of_the_exporter_before(name: str, tmp_path: Path) -> None:
    """Until torch.export, TorchScript traced the networks: bundles must not become other files in anything but names."""
    torch.manual_seed(0)
    network = build(NetworkSpec(architecture=name, labels=4)).eval()
    outputs = ["mask"] if name == "lung-unet" else ["logits", "cam"]
    export(network, SPEC, outputs, tmp_path / "now.onnx")
    names = {
        "input_names": ["image"],
        "output_names": outputs,
        "dynamic_axes": {n: {0: "N"} for n in ("image", *outputs)},
    }
    image = torch.randn(2, 1, 32, 32)
    torch.onnx.export(network, (image,), str(tmp_path / "before.onnx"), opset_version=17, dynamo=False, **names)
    before = onnxslim.slim(onnx.load(tmp_path / "before.onnx"))
    onnx.save(before, tmp_path / "before.onnx")
    assert _operators(onnx.load(tmp_path / "now.onnx")) == _operators(before)
    results = (_session(tmp_path / f"{file}.onnx").run(outputs, {"image": image.numpy()}) for file in ("now", "before"))
    for now, then in zip(*results, strict=True):
        assert_close(now, then)


def _operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def test_the_exported_segmenter_outputs_probabilities(tmp_path: Path) -> None:
    spec = PreprocessSpec(region="frame", canvas_px=32, crop_px=32)
    export(SegmenterForExport(LungUNet()), spec, ["mask"], tmp_path / "s.onnx")
    x = 9 * np.random.default_rng(0).standard_normal((3, 1, 32, 32), dtype=np.float32)
    (mask,) = _session(tmp_path / "s.onnx").run(["mask"], {"image": x})
    assert mask.shape == (3, 1, 32, 32)
    assert 0 <= mask.min() < mask.max() <= 1


class _Unfaithful(nn.Module):
    """Computes other values than those that it is exported with."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x.mean((2, 3)) * (1 if torch.compiler.is_exporting() else 2)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_a_file_that_differs_from_torch_is_deleted(tmp_path: Path, scale: float) -> None:
    with pytest.raises(ContractError, match=r"bad\.onnx: ONNX and torch differ"):
        export(_Unfaithful(scale), SPEC, ["logits"], tmp_path / "bad.onnx")
    assert not (tmp_path / "bad.onnx").exists()
