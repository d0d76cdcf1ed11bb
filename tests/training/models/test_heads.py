"""R20's head convolutions: parameter counts of the paper, computation of its code, pruning, transfer and configuration."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional

from cxr_edge.errors import InputError
from cxr_edge.specs.preprocess import PreprocessSpec
from tests.tolerances import assert_close
from training.evaluation.gradcam import agreement, grad_cam
from training.models import NetworkSpec, build, load_network, save_network, shapes_of
from training.models.head import HEADS, TaskHead
from training.models.onnx_export import export
from training.models.transfer import transfer_trunk
from training.pruning import cost
from training.pruning.apoz import zero_shares
from training.pruning.channels import prunable, remove
from training.recipes.r20.config import load_r20

torch.set_num_threads(1)

SPEC = NetworkSpec(architecture="narrow-vgg", labels=3, head_maps=16)
KINDS = pytest.mark.parametrize("kind", list(HEADS))


def _network(kind: str) -> nn.Module:
    torch.manual_seed(0)
    network = build(replace(SPEC, head=kind))
    network.train()(torch.rand(4, 1, 128, 128))  # statistics that are not those of a fresh network
    nn.init.normal_(network.head.map.weight)
    return network.eval()


# R20's text and code count so for VGG-16 and three classes; its Table 4 prints the first.
@pytest.mark.parametrize(
    ("kind", "count"), [("conv-3x3", 19_437_379), ("separable-5x5", 15_255_875), ("conv-5x5", 27_825_987)]
)
def test_parameters_of_vgg16_with_each_head(kind: str, count: int) -> None:
    with torch.device("meta"):
        network = build(NetworkSpec(architecture="vgg16", labels=3, channels=3, head=kind))
    assert cost.parameters(network) == count


@pytest.mark.parametrize(("kind", "side"), [("conv-3x3", 8), ("separable-5x5", 3), ("conv-5x5", 3)])
def test_a_head_equals_the_papers_code(kind: str, side: int) -> None:
    """ZeroPadding2D(1), then (Separable)Conv2D without padding of its own, with strides=2 where it has 5x5; ReLU, GAP, dense."""
    torch.manual_seed(1)
    head, features = TaskHead(6, 4, 3, 0.5, kind=kind).eval(), torch.randn(2, 6, 8, 8)
    padded, stride = functional.pad(features, (1, 1, 1, 1)), 1 if kind == "conv-3x3" else 2
    if kind == "separable-5x5":
        each = functional.conv2d(padded, head.depth.weight, stride=stride, groups=6)
        maps = torch.einsum("mc,nchw->nmhw", head.conv.weight[:, :, 0, 0], each) + head.conv.bias[:, None, None]
    else:
        maps = functional.conv2d(padded, head.conv.weight, head.conv.bias, stride=stride)
    dense = maps.relu().mean((2, 3)) @ head.map.weight[:, :, 0, 0].T + head.bias
    with torch.no_grad():
        logits, cam = head(features)
    assert_close(logits, dense.detach())
    assert cam.shape == (2, 3, side, side)


@KINDS
def test_channels_of_trunk_and_head_can_be_pruned(kind: str, tmp_path: Path) -> None:
    network, image = _network(kind), torch.rand(1, 1, 128, 128)
    units = {u.root: u for u in prunable(network, image)}
    last = [root for root in units if root.startswith("trunk.")][-1]
    removed = {last: (0, 5, 7), "head.conv": (1, 2)}
    assert "head.depth" not in units, "what a depthwise layer filters goes with what makes it"
    conv, names = network.get_submodule(last), dict(network.named_modules())
    norm = (
        names[last[:-2] + str(int(last[-2:]) + 1)] if last[-2:].isdigit() else names[last[:-1] + str(int(last[-1]) + 1)]
    )
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.num_features == conv.out_channels
    norm.weight.data[list(removed[last])], norm.bias.data[list(removed[last])] = 0, -1
    network.head.conv.weight.data[list(removed["head.conv"])] = 0
    network.head.conv.bias.data[list(removed["head.conv"])] = -1
    shares = zero_shares(network, [image])
    assert all((shares[root][list(gone)] == 1).all() for root, gone in removed.items())
    with torch.no_grad():
        before = network(image)
        remove(network, image, removed)
        after = network(image)
    for a, b in zip(after, before, strict=True):
        assert_close(a, b)
    spec = save_network(network, replace(SPEC, head=kind), tmp_path)
    assert spec.head == kind
    loaded, spec = load_network(tmp_path)
    assert spec.head == kind
    with torch.no_grad():
        assert torch.equal(loaded(image).logits, after.logits)


@KINDS
def test_a_pruned_trunk_gets_a_new_head(kind: str) -> None:
    source, image = _network("conv-3x3"), torch.rand(1, 1, 128, 128)
    last = [u.root for u in prunable(source, image) if u.root.startswith("trunk.")][-1]
    remove(source, image, {last: (0, 5, 7)})
    moved = transfer_trunk(source, replace(SPEC, labels=2, head=kind)).eval()
    assert shapes_of(moved.trunk) == shapes_of(source.trunk)
    again = transfer_trunk(moved, replace(SPEC, labels=4, head=kind)).eval()
    for network, labels in ((moved, 2), (again, 4)):
        assert next(iter(network.head.convolutions.values())).in_channels == 128 - 3
        assert network(image).logits.shape == (1, labels)
        assert all(float(p.detach().std()) > 0 for p in network.head.parameters() if p.ndim > 1)


@KINDS
def test_the_exported_network_has_logits_and_map(kind: str, tmp_path: Path) -> None:
    network, preprocess = _network(kind), PreprocessSpec(canvas_px=128, crop_px=128)
    export(network, preprocess, ["logits", "cam"], tmp_path / "n.onnx")
    image = torch.rand(1, 1, 128, 128)
    session = onnxruntime.InferenceSession(str(tmp_path / "n.onnx"), providers=["CPUExecutionProvider"])
    logits, cam = session.run(["logits", "cam"], {"image": image.numpy()})
    assert_close(logits[0], cam[0].mean((1, 2)) + network.head.bias.detach().numpy())
    label = int(np.argmax([float(np.maximum(c, 0).sum()) for c in cam[0]]))
    same = agreement(grad_cam(network, image, label), np.asarray(cam[0, label]))
    assert same.correlation == pytest.approx(1.0, abs=1e-4), "Grad-CAM of the deepest convolution is the map"


@pytest.mark.parametrize("kind", ["separable-5x5", "conv-5x5"])
def test_too_small_maps_raise(kind: str) -> None:
    with pytest.raises(InputError, match=r"5x5 convolution needs maps of 3 cells .* got \(2, 2\): give larger images"):
        _network(kind)(torch.rand(1, 1, 64, 64))


def test_an_unknown_head_raises() -> None:
    with pytest.raises(InputError, match="no head is called 'conv-7x7': choose from conv-3x3, separable-5x5, conv-5x5"):
        build(replace(SPEC, head="conv-7x7"))


@pytest.mark.parametrize(
    ("member", "says"),
    [
        (
            'architecture = "vgg16"\nhead = "conv-7x7"',
            "members.a: head is one of conv-3x3, separable-5x5, conv-5x5, got",
        ),
        ('architecture = "custom"\nhead = "conv-5x5"', "members.a: .* and custom with .* has none: leave it out"),
        ('architecture = "vgg16"\nhead_maps = 0\nhead = "conv-5x5"', "members.a: .*head_maps = 0 has none"),
    ],
)
def test_an_invalid_head_raises_when_it_is_read(member: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(f'name = "x"\n[members.a]\n{member}\n')
    with pytest.raises(InputError, match=says):
        load_r20(tmp_path / "c.toml")
    (tmp_path / "d.toml").write_text('name = "x"\n[members.a]\narchitecture = "vgg16"\nhead = "separable-5x5"\n')
    assert load_r20(tmp_path / "d.toml").network("a", 3).head == "separable-5x5"


def test_a_network_of_an_earlier_version_has_conv_3x3(tmp_path: Path) -> None:
    save_network(_network("conv-3x3"), SPEC, tmp_path)
    file = tmp_path / "network.json"
    values = json.loads(file.read_text())
    del values["head"]
    file.write_text(json.dumps(values))
    assert load_network(tmp_path)[1].head == "conv-3x3"
