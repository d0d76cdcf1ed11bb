"""ONNX export: the file computes the same as torch, holds its preprocessing digest, and a mismatch raises."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from cxr_edge.errors import ContractError
from cxr_edge.specs.preprocess import PreprocessSpec
from tests.tolerances import NETWORK, assert_close
from training.models import LungUNet, build_member
from training.models.onnx_export import DIGEST_KEY, SegmenterForExport, export

# torch announces another exporter; training/models/onnx_export.py says why it keeps to this one.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

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
    assert model.doc_string == ""


def test_the_exported_segmenter_outputs_probabilities(tmp_path: Path) -> None:
    spec = PreprocessSpec(region="frame", canvas_px=32, crop_px=32)
    export(SegmenterForExport(LungUNet()), spec, ["mask"], tmp_path / "s.onnx")
    x = 9 * np.random.default_rng(0).standard_normal((3, 1, 32, 32), dtype=np.float32)
    (mask,) = _session(tmp_path / "s.onnx").run(["mask"], {"image": x})
    assert mask.shape == (3, 1, 32, 32)
    assert 0 <= mask.min() < mask.max() <= 1


class _Unfaithful(nn.Module):
    """Computes other values after tracing than during tracing."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x.mean((2, 3)) * (1 if torch.jit.is_tracing() else 2)


@pytest.mark.filterwarnings("ignore")  # tracing warns of what this network does on purpose
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_a_file_that_differs_from_torch_is_deleted(tmp_path: Path, scale: float) -> None:
    with pytest.raises(ContractError, match=r"bad\.onnx: ONNX and torch differ"):
        export(_Unfaithful(scale), SPEC, ["logits"], tmp_path / "bad.onnx")
    assert not (tmp_path / "bad.onnx").exists()
