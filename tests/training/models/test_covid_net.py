"""COVID-Net: widths of its blocks, long-range sums of a stage, and gradients of all parameters."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from training.models import NetworkSpec, build
from training.models.covid_net import CovidNet, Pepx, _Stage

torch.set_num_threads(1)


def _network(architecture: str, channels: int = 1) -> nn.Module:
    torch.manual_seed(0)
    return build(NetworkSpec(architecture=architecture, labels=4, channels=channels, head_maps=0))


def _convs(network: nn.Module) -> list[nn.Conv2d]:
    return [m for m in network.modules() if isinstance(m, nn.Conv2d)]


def _mixed_norms(network: nn.Module) -> nn.Module:
    """Return the network in evaluation mode with random norm statistics: the initial ones are nearly the identity."""
    for m in network.modules():
        if isinstance(m, nn.BatchNorm2d):
            for values in (m.weight.data, m.running_var):
                nn.init.uniform_(values, 0.5, 2)
            for values in (m.bias.data, m.running_mean):
                nn.init.normal_(values, std=0.5)
    return network.eval()


def test_the_full_network_takes_224_px_and_has_no_map() -> None:
    with torch.no_grad():
        logits, cam = _network("covid-net", 3).eval()(torch.randn(1, 3, 224, 224))
    assert logits.shape == (1, 4)
    assert torch.isfinite(logits).all()
    assert cam is None


@pytest.mark.parametrize("side", [32, 64, 112])
def test_the_narrow_network_takes_small_images(side: int) -> None:
    with torch.no_grad():
        logits, cam = _network("narrow-covid-net").eval()(torch.randn(2, 1, side, side))
    assert logits.shape == (2, 4)
    assert not torch.equal(logits[0], logits[1])
    assert cam is None


def test_parameters_of_the_full_network_regression_not_published() -> None:
    with torch.device("meta"):  # shapes without memory
        network = _network("covid-net", 3)
    assert sum(p.numel() for p in network.parameters()) == 134_566_004
    # 7x7 convolution on 3 channels, and the dense layers on 7 x 7 maps, which are three quarters of all.
    assert network.stem[0].weight.numel() == 3 * 64 * 49
    dense = 2048 * 49 * 1024 + 1024 + 1024 * 256 + 256 + 256 * 4 + 4
    assert sum(p.numel() for p in network.dense.parameters()) == dense


def test_a_block_projects_to_half_expands_to_three_quarters_and_extends() -> None:
    convs = _convs(Pepx(16, 40))
    assert [(c.in_channels, c.out_channels) for c in convs] == [(16, 8), (8, 12), (12, 12), (12, 8), (8, 40)]
    assert [c.groups for c in convs] == [1, 1, 12, 1, 1]
    assert [c.kernel_size for c in convs] == [(1, 1), (1, 1), (3, 3), (1, 1), (1, 1)]
    assert Pepx(16, 40)(torch.randn(2, 16, 5, 7)).shape == (2, 40, 5, 7), "no block changes the grid"


def test_the_stages_have_the_published_blocks_and_widths() -> None:
    with torch.device("meta"):
        network = CovidNet(3, 4)
    assert [len(s.blocks) for s in network.stages] == [3, 4, 6, 3]
    assert [s.beside[0].out_channels for s in network.stages] == [256, 512, 1024, 2048]
    assert [s.blocks[0].layers[0][0].in_channels for s in network.stages] == [64, 256, 512, 1024]
    assert all(b.layers[0][0].in_channels == s.beside[0].out_channels for s in network.stages for b in s.blocks[1:])


def test_a_stage_is_the_sum_of_its_blocks_and_its_1x1() -> None:
    torch.manual_seed(0)
    stage, x = _mixed_norms(_Stage(8, 16, 3)), torch.randn(2, 8, 6, 6)
    with torch.no_grad():
        beside, first = stage.beside(x), stage.blocks[0](x)
        second = stage.blocks[1](torch.relu(beside + first))
        third = stage.blocks[2](torch.relu(beside + first + second))
        torch.testing.assert_close(stage(x), torch.relu(beside + first + second + third))


def test_every_block_reads_the_sum_of_the_previous_ones() -> None:
    network = _mixed_norms(_network("narrow-covid-net"))
    seen: dict[nn.Module, Tensor] = {}
    given: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen[module], given[module] = inputs[0].clone(), output.clone()

    for stage in network.stages:
        for module in (stage.beside, *stage.blocks):
            module.register_forward_hook(keep)
    with torch.no_grad():
        network(torch.randn(2, 1, 64, 64))
    for stage in network.stages:
        assert torch.equal(seen[stage.blocks[0]], seen[stage.beside])
        total = given[stage.beside]
        for before, block in zip(stage.blocks, stage.blocks[1:], strict=False):
            total = total + given[before]
            torch.testing.assert_close(seen[block], torch.relu(total))


def test_every_parameter_has_a_gradient() -> None:
    network = _network("narrow-covid-net").train()
    network(torch.randn(8, 1, 112, 112)).logits.square().sum().backward()
    silent = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []
