"""Grad-CAM equals the head's own map on the layer before it, and runs on any other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from cxr_edge.errors import InputError
from tests.tolerances import NETWORK
from tests.training.models.test_transfer import pruned
from training.evaluation.gradcam import agreement, grad_cam
from training.models import Network, NetworkSpec, TaskHead, build

torch.set_num_threads(1)

IMAGE = torch.rand(1, 1, 96, 96, generator=torch.Generator().manual_seed(3))


def network_of(name: str) -> nn.Module:
    torch.manual_seed(5)
    if name == "pruned":
        return pruned("narrow-vgg")
    if name == "own trunk":
        return Network(nn.Sequential(nn.Conv2d(1, 8, 3, 4), nn.ReLU()), TaskHead(8, 12, 3, 0.5)).eval()
    return build(NetworkSpec(architecture=name, labels=3, head_maps=32)).eval()


@pytest.mark.parametrize("name", ["narrow-vgg", "custom", "inverted", "own trunk", "pruned"])
@pytest.mark.parametrize("label", [0, 2])
def test_before_the_heads_map_grad_cam_is_the_rectified_cam(name: str, label: int) -> None:
    network = network_of(name)
    with torch.no_grad():
        cam = network(IMAGE).cam[0, label].numpy()
    ours, expected = grad_cam(network, IMAGE, label) * cam.size, np.maximum(cam, 0)
    assert np.abs(ours - expected).max() <= NETWORK * np.abs(cam).max()
    assert agreement(ours, cam).correlation == pytest.approx(1.0 if np.ptp(expected) or not np.ptp(ours) else 0.0)


def test_the_maps_compared_are_not_all_zero() -> None:
    assert any(grad_cam(network_of("narrow-vgg"), IMAGE, label).max() > 0 for label in (0, 2))


def test_any_other_layer_gives_its_own_size_and_channels() -> None:
    network = network_of("custom")
    assert grad_cam(network, IMAGE, 1, network.trunk[0][3]).shape == (48, 48)  # an in-place activation
    assert grad_cam(network, IMAGE, 1, network.trunk[1][0]).shape == (24, 24)  # a depthwise convolution


def test_modes_and_weights_are_restored() -> None:
    network = network_of("custom").train()
    network.trunk[0].eval()
    for p in network.parameters():
        p.requires_grad_(False)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    with torch.no_grad():
        assert grad_cam(network, IMAGE, 0).shape == (12, 12)
    assert network.training
    assert not network.trunk[0].training
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())
    assert not network.head.map._forward_pre_hooks


def test_a_layer_without_a_map_is_refused() -> None:
    network = network_of("custom")
    with pytest.raises(InputError, match="one image"):
        grad_cam(network, IMAGE[0], 0)
    with pytest.raises(InputError, match="labels 0 to 2, not 3"):
        grad_cam(network, IMAGE, 3)
    with pytest.raises(InputError, match="a layer of this network"):
        grad_cam(network, IMAGE, 0, nn.Conv2d(1, 1, 1))


def test_agreement_of_equal_and_disjoint_maps() -> None:
    flat, ramp = np.ones((5, 8), np.float32), np.arange(40, dtype=np.float32).reshape(5, 8)
    same, turned, none = agreement(ramp, 3 * ramp), agreement(ramp, ramp[::-1, ::-1]), agreement(ramp, flat)
    assert (same.correlation, same.top_overlap) == (pytest.approx(1), 1)
    assert (turned.correlation, turned.top_overlap) == (pytest.approx(-1), 0)
    assert none.correlation == 0
    assert agreement(flat, flat).correlation == 1
    nothing = agreement(0 * ramp, -ramp)  # neither shows any evidence
    assert (nothing.correlation, nothing.top_overlap) == (1, 1)
    assert agreement(ramp, 0 * ramp).top_overlap == 0


def test_agreement_of_maps_of_different_size() -> None:
    coarse = np.zeros((6, 6), np.float32)
    coarse[1:3, 1:3] = 1
    fine = np.kron(coarse, np.ones((4, 4), np.float32))
    both = agreement(fine, coarse)
    assert both.correlation > 0.9
    assert both.top_overlap > 0.3
