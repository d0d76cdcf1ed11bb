"""Penultimate features of exported members: the logits are a linear function of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from cxr_edge.errors import InputError
from cxr_edge.specs.preprocess import PreprocessSpec
from tests.tolerances import assert_close
from training.evaluation.onnx_features import member_cams, member_features
from training.evaluation.onnx_logits import member_logits
from training.models import NetworkSpec, build
from training.pruning.prune import export_network

SPEC = PreprocessSpec(canvas_px=32, crop_px=32, standardize="image")


def test_logits_are_a_linear_function_of_the_features(tmp_path: Path) -> None:
    torch.manual_seed(0)
    spec = NetworkSpec(architecture="narrow-vgg", labels=3, head_maps=0)
    network, file = build(spec).eval(), tmp_path / "member.onnx"
    export_network(network, spec, SPEC, file)
    lungs = np.random.default_rng(0).integers(0, 256, (70, 32, 32), dtype=np.uint8)
    features = member_features(file, lungs, SPEC, threads=1)
    weights = network.head.map.weight.detach().numpy()[:, :, 0, 0]
    expected = features @ weights.T + network.head.bias.detach().numpy()
    assert_close(member_logits([file], lungs, SPEC, threads=1)[:, 0], expected)
    cams = member_cams(file, lungs, SPEC, threads=1)
    assert_close(cams.mean(axis=(2, 3)) + network.head.bias.detach().numpy(), expected)


def test_a_member_without_a_map_raises(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["": 17]> g (float[N,1,32,32] image) => (float[N,1,1,1] logits) {
        logits = GlobalAveragePool(image)
    }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")
    lungs = np.zeros((1, 32, 32), np.uint8)
    with pytest.raises(InputError, match="no convolution computes the output cam"):
        member_features(tmp_path / "m.onnx", lungs, SPEC, threads=1)
    with pytest.raises(InputError, match="no output cam"):
        member_cams(tmp_path / "m.onnx", lungs, SPEC, threads=1)
