"""Transfer: the trunk of a trained network, pruned or not, with a head for other labels."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from cxr_edge.errors import InputError
from training.models import Network, NetworkSpec, build, names, resize, shapes_of
from training.models.networks import COVID_NETS
from training.models.transfer import transfer_trunk

torch.set_num_threads(1)

SMALL = ("custom", "narrow-vgg", "plain", "inverted", "inception", "timm:resnet10t")


def spec_of(name: str, labels: int, channels: int = 1) -> NetworkSpec:
    return NetworkSpec(architecture=name, labels=labels, channels=channels, head_maps=16)


def trained(name: str) -> nn.Module:
    """A network with random statistics."""
    network = build(spec_of(name, 4)).train()
    network(torch.rand(2, 1, 64, 64))
    return network.eval()


def pruned(name: str) -> nn.Module:
    """A network without the last channels of its trunk."""
    network = build(spec_of(name, 4))
    trunk = [(k, m) for k, m in network.named_modules() if k.startswith("trunk.") and hasattr(m, "weight")]
    conv, norm = [k for k, m in trunk if isinstance(m, nn.Conv2d)][-1], trunk[-1][0]
    shapes = {conv: (100, *network.get_submodule(conv).weight.shape[1:]), norm: (100,)}
    head = "head.conv" if hasattr(network.head, "conv") else "head.map"
    weight = network.get_submodule(head).weight
    resize(network, {**shapes, head: (weight.shape[0], 100, *weight.shape[2:])})
    for p in network.parameters():
        nn.init.normal_(p, std=0.05)
    return network.eval()


def same_trunk(a: Network, b: Network, image: Tensor) -> bool:
    return torch.equal(a.trunk(image), b.trunk(image))


@pytest.mark.parametrize("name", SMALL)
def test_the_trunk_is_copied_and_the_head_is_new(name: str) -> None:
    source, image = trained(name), torch.rand(1, 1, 64, 64)
    moved = transfer_trunk(source, spec_of(name, 2)).eval()
    assert same_trunk(source, moved, image)
    assert moved(image).logits.shape == (1, 2)
    assert float(moved.head.map.weight.detach().std()) > 0


@pytest.mark.parametrize("name", ["custom", "narrow-vgg", "plain"])
def test_a_pruned_trunk_stays_pruned(name: str) -> None:
    source, image = pruned(name), torch.rand(1, 1, 64, 64)
    moved = transfer_trunk(source, spec_of(name, 3)).eval()
    assert same_trunk(source, moved, image)
    assert shapes_of(moved.trunk) == shapes_of(source.trunk)
    assert moved(image).logits.shape == (1, 3)
    assert all(float(p.detach().std()) > 0 for p in moved.head.parameters() if p.ndim > 1)  # no layer left at zero


def test_further_training_does_not_change_the_source() -> None:
    source = trained("custom")
    before = source.trunk[0][0].weight.clone()
    with torch.no_grad():
        transfer_trunk(source, spec_of("custom", 2)).trunk[0][0].weight.add_(1)
    assert torch.equal(source.trunk[0][0].weight, before)


@pytest.mark.parametrize("name", names())
@pytest.mark.filterwarnings("ignore:for .*:UserWarning")  # copying on the meta device does nothing, and says so
def test_every_architecture_has_trunk_and_head(name: str) -> None:
    with torch.device("meta"):
        moved = transfer_trunk(build(spec_of(name, 4)), spec_of(name, 2))
    assert moved.head.map.out_channels == 2


@pytest.mark.parametrize("name", COVID_NETS)
def test_a_network_without_trunk_and_head_raises(name: str) -> None:
    with torch.device("meta"), pytest.raises(InputError, match="a CovidNet has no trunk and head"):
        transfer_trunk(build(replace(spec_of(name, 4), head_maps=0)), spec_of(name, 2))


def test_another_architecture_raises() -> None:
    with pytest.raises(InputError, match="not that of custom"):
        transfer_trunk(build(spec_of("plain", 4)), spec_of("custom", 2))
    with pytest.raises(InputError, match="no trunk and head"):
        transfer_trunk(nn.Linear(2, 2), spec_of("custom", 2))


def test_another_number_of_input_channels_raises() -> None:
    with pytest.raises(InputError, match="takes 3 input channels, the new network 1"):
        transfer_trunk(build(spec_of("narrow-vgg", 4, 3)), spec_of("narrow-vgg", 2, 1))
