"""FLANNEL's learners: parameters as published by torchvision with a head of four labels, and the narrow variants."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from training.models import NetworkSpec, build
from training.models.head import CamHead, MemberOutput
from training.models.networks import FLANNEL_NAMES
from training.pruning.channels import prunable

torch.set_num_threads(1)

LABELS = 4
# torchvision's published parameters less its head of 1000 labels, and a head of four. Inception-V3 lacks the auxiliary head.
COUNTS = {
    "densenet161": 28_681_000 - (2208 * 1000 + 1000) + 2208 * LABELS + LABELS,
    "inception-v3": 27_161_264 - 3_326_696 - (2048 * 1000 + 1000) + 2048 * LABELS + LABELS,
    "resnet152": 60_192_808 - (2048 * 1000 + 1000) + 2048 * LABELS + LABELS,
    "resnext101": 88_791_336 - (2048 * 1000 + 1000) + 2048 * LABELS + LABELS,
    "vgg19-bn": 20_035_392 + 512 * LABELS + LABELS,  # the convolutions; FLANNEL's own has dense layers of 4096 besides
}
GIVEN = {
    "densenet161": 26_480_836,
    "inception-v3": 21_793_764,
    "resnet152": 58_152_004,
    "resnext101": 86_750_532,
    "vgg19-bn": 20_037_444,
}
NARROW = ("narrow-vgg", "narrow-resnet", "narrow-resnext", "narrow-densenet")


def _network(architecture: str, channels: int = 1) -> nn.Module:
    torch.manual_seed(0)
    return build(NetworkSpec(architecture=architecture, labels=LABELS, channels=channels, head_maps=0))


def _output(network: nn.Module, images: Tensor) -> MemberOutput:
    with torch.no_grad():
        return network.eval()(images)


@pytest.mark.parametrize("architecture", FLANNEL_NAMES)
def test_learners_have_the_published_parameters(architecture: str) -> None:
    with torch.device("meta"):  # shapes without memory
        network = _network(architecture, channels=3)
    assert COUNTS[architecture] == GIVEN[architecture]
    assert sum(p.numel() for p in network.parameters()) == GIVEN[architecture]
    assert type(network.head) is CamHead, "no head convolution"


def test_learners_have_the_order_of_the_papers_code() -> None:
    assert tuple(GIVEN) == FLANNEL_NAMES


def test_a_head_without_maps_is_pooling_and_dense_layer() -> None:
    torch.manual_seed(0)
    head, features = CamHead(6, LABELS, 0.0), torch.randn(2, 6, 3, 5)
    nn.init.normal_(head.bias)
    logits, cam = head(features)
    assert cam.shape == (2, LABELS, 3, 5)
    torch.testing.assert_close(logits, cam.mean(dim=(2, 3)) + head.bias)
    dense = features.mean(dim=(2, 3)) @ head.map.weight[:, :, 0, 0].T + head.bias
    torch.testing.assert_close(logits, dense)


@pytest.mark.parametrize("architecture", NARROW)
def test_narrow_networks_have_activation_maps(architecture: str) -> None:
    network = _network(architecture)
    nn.init.normal_(network.head.bias)
    logits, cam = _output(network, torch.randn(2, 1, 64, 64))
    assert logits.shape == (2, LABELS)
    assert cam.shape == (2, LABELS, 2, 2)
    torch.testing.assert_close(logits, cam.mean(dim=(2, 3)) + network.head.bias)


@pytest.mark.parametrize("architecture", NARROW)
def test_every_parameter_of_narrow_networks_has_a_gradient(architecture: str) -> None:
    network = _network(architecture).train()
    for m in network.modules():
        if isinstance(m, nn.BatchNorm2d) and not m.weight.any():
            nn.init.ones_(
                m.weight
            )  # the last norm of a bottleneck starts at zero, and its branch learns from step two on
    network(torch.randn(8, 1, 64, 64)).logits.square().sum().backward()
    silent = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []
    assert sum(p.numel() for p in network.parameters()) < 1_000_000


@pytest.mark.parametrize("architecture", NARROW)
def test_narrow_networks_can_be_pruned(architecture: str) -> None:
    units = prunable(_network(architecture).eval(), torch.randn(1, 1, 64, 64))
    assert units
    assert all(u.activated for u in units), "after every unit a ReLU, whose zeros are counted"
    assert not any(m.conv == "head.map" for u in units for m in u.layers)


def test_the_small_efficientnet_of_the_baselines_builds() -> None:
    logits, cam = _output(_network("timm:tinynet_e"), torch.randn(2, 1, 112, 112))
    assert logits.shape == (2, LABELS)
    assert cam.shape[:2] == (2, LABELS)
    assert torch.isfinite(logits).all()
