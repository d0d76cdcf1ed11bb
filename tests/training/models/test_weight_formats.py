"""Weights of networks trained elsewhere: the features equal those of the network that the file was written from."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn

from cxr_edge.errors import InputError
from training.models import NetworkSpec, build
from training.models.imagenet import load_imagenet
from training.models.networks import Network
from training.models.weight_formats import onnx_weights

SIDE_PX = 64
torch.set_num_threads(1)


def _varied(network: nn.Module) -> nn.Module:
    """Give the batch norms statistics other than those of a new network, so that folding changes the convolutions."""
    torch.manual_seed(0)
    for m in network.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_(0, 0.1)
            m.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(m.weight, 0.5, 1.5)
            nn.init.normal_(m.bias, 0, 0.1)
    return network.eval()


def _image(channels: int = 3) -> Tensor:
    return torch.rand(1, channels, SIDE_PX, SIDE_PX, generator=torch.Generator().manual_seed(1))


def _state_dict(network: nn.Module, file: Path) -> None:
    torch.save(network.state_dict(), file)


def _torchscript(network: nn.Module, file: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(network, _image()).save(str(file))


def _exported(network: nn.Module, file: Path) -> None:
    torch.export.save(torch.export.export(network, (_image(),)), file)


def _onnx(network: nn.Module, file: Path) -> None:
    torch.onnx.export(network, (_image(),), str(file), dynamo=False)


@pytest.mark.parametrize(
    ("write", "name"),
    [(_state_dict, "a.pth"), (_torchscript, "a.pt"), (_exported, "a.pt2"), (_onnx, "a.onnx")],
)
def test_a_network_of_torchvision_starts_from_a_file(
    write: Callable[[nn.Module, Path], None], name: str, tmp_path: Path
) -> None:
    other = _varied(torchvision.models.shufflenet_v2_x0_5(weights=None))
    write(other, tmp_path / name)
    spec = NetworkSpec(architecture="torchvision:shufflenet_v2_x0_5", labels=2, channels=3, head_maps=0)
    network = build(spec).eval()
    assert isinstance(network, Network)
    load_imagenet(network, spec, tmp_path / name)
    with torch.no_grad():
        expected = nn.Sequential(*list(other.children())[:-1])(_image())
        torch.testing.assert_close(network.trunk(_image()), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", ["narrow-densenet", "narrow-resnext", "timm:tf_efficientnet_lite0"])
def test_folded_batch_norms_of_an_onnx_file(architecture: str, tmp_path: Path) -> None:
    """DenseNet has norms before, and folded norms after its convolutions."""
    spec = NetworkSpec(architecture=architecture, labels=2, channels=3, head_maps=0)
    other, network = build(spec), build(spec).eval()
    assert isinstance(other, Network)
    assert isinstance(network, Network)
    _onnx(_varied(other).trunk, tmp_path / "a.onnx")
    found = onnx_weights(tmp_path / "a.onnx", network.trunk, "", 3)
    network.trunk.load_state_dict({**network.trunk.state_dict(), **found})
    with torch.no_grad():
        torch.testing.assert_close(network.trunk(_image()), other.trunk(_image()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "mobilenet_v3_small", "regnet_y_400mf", "densenet121"])
def test_trunks_of_torchvision_end_in_its_features(name: str) -> None:
    spec = NetworkSpec(architecture=f"torchvision:{name}", labels=4, channels=1, head_maps=0)
    network = build(spec)
    assert isinstance(network, Network)
    logits, cam = network(_image(1))
    assert logits.shape == (1, 4)
    assert cam is not None
    assert cam.shape[:2] == (1, 4)
    names = torchvision.models.get_model(name, weights=None).state_dict().keys()
    assert {n.removeprefix("network.") for n in network.trunk.state_dict()} == {
        n for n in names if not n.startswith(("fc.", "classifier."))
    }


def test_gray_gets_the_sum_of_a_color_file(tmp_path: Path) -> None:
    other = _varied(torchvision.models.squeezenet1_1(weights=None))
    _onnx(other, tmp_path / "a.onnx")
    spec = NetworkSpec(architecture="torchvision:squeezenet1_1", labels=2, channels=1, head_maps=0)
    network = build(spec).eval()
    assert isinstance(network, Network)
    load_imagenet(network, spec, tmp_path / "a.onnx")
    with torch.no_grad():
        expected = other.features(_image(1).expand(1, 3, -1, -1))  # type: ignore[operator]
        torch.testing.assert_close(network.trunk(_image(1)), expected, rtol=1e-4, atol=1e-5)


def test_an_onnx_file_of_another_network_raises(tmp_path: Path) -> None:
    _onnx(torchvision.models.squeezenet1_1(weights=None).eval(), tmp_path / "a.onnx")
    spec = NetworkSpec(architecture="timm:tf_efficientnet_lite0", labels=2, channels=3, head_maps=0)
    network = build(spec)
    assert isinstance(network, Network)
    with pytest.raises(
        InputError, match=r"a\.onnx is of another network: the architecture has Conv .*, and the file has nothing more"
    ):
        load_imagenet(network, spec, tmp_path / "a.onnx")


def test_a_damaged_onnx_file_raises(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"\x08\x07damaged")
    with pytest.raises(InputError, match="is no ONNX file that can be read"):
        onnx_weights(tmp_path / "a.onnx", nn.Conv2d(3, 3, 1), "", 3)


def test_an_exported_program_with_objects_is_not_unpickled(tmp_path: Path) -> None:
    """Only tensors are read, whatever the archive holds beside them."""
    network = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten())
    _exported(network, tmp_path / "a.pt2")
    spec = NetworkSpec(architecture="torchvision:squeezenet1_1", labels=2, channels=3, head_maps=0)
    fresh = build(spec)
    assert isinstance(fresh, Network)
    with pytest.raises(InputError, match="does not hold the weights of torchvision:squeezenet1_1"):
        load_imagenet(fresh, spec, tmp_path / "a.pt2")
