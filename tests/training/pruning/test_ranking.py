"""Rankings without zeros, and what tells a user that a network has none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cxr_edge.errors import InputError
from tests.builders.pruned import CANVAS, PLAN, classify_task, start
from training.models import NetworkSpec, build
from training.pruning.channels import prunable
from training.pruning.importance import magnitude, taylor
from training.pruning.prune import PrunePlan, check_prunable, prune
from training.pruning.removal import zeros_on_noise

torch.set_num_threads(1)

EXAMPLE = torch.zeros(1, 1, 32, 32)
ONE_STEP = replace(PLAN, until=PLAN.step)


def _network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, 2, 1), nn.SiLU(), nn.Conv2d(6, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ).eval()


def test_magnitude_finds_the_smallest_channel() -> None:
    network = _network()
    network[0].weight.data[2] = 1e-3
    network[2].weight.data[:, 2] = 1e-3
    (importances,) = magnitude(network, EXAMPLE, prunable(network, EXAMPLE)).values()
    assert importances.shape == (6,)
    assert importances.argmin() == 2
    np.testing.assert_allclose(importances.mean(), 1)


def test_taylor_finds_the_channel_that_the_loss_does_not_feel() -> None:
    network = _network()
    network[2].weight.data[:, 4] = 0  # large weights before it, but nothing reads them
    network[0].weight.data[4] = 9
    images = torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    losses = (network(images[i : i + 2]).square().mean() for i in (0, 2))
    (importances,) = taylor(network, EXAMPLE, prunable(network, EXAMPLE), losses).values()
    assert importances.argmin() == 4
    assert importances[4] == 0
    assert all(p.grad is None for p in network.parameters())
    with pytest.raises(InputError, match="at least one loss"):
        taylor(network, EXAMPLE, prunable(network, EXAMPLE), [])


@pytest.mark.parametrize("ranking", ["taylor", "magnitude"])
def test_a_network_without_zeros_is_pruned_by_another_ranking(ranking: str, tmp_path: Path) -> None:
    plan = replace(ONE_STEP, ranking=ranking)
    steps = prune(
        classify_task, start(tmp_path / "network", "custom", activation="elu"), plan, tmp_path / "pruned", CANVAS
    )
    assert steps[1].channels == steps[0].channels - int(PLAN.step * steps[0].channels)


def test_a_network_without_zeros_is_refused_before_anything_is_computed(tmp_path: Path) -> None:
    def task_of(network: nn.Module) -> object:
        pytest.fail("nothing is evaluated or trained")

    network = start(tmp_path / "network", "custom", activation="elu")
    with pytest.raises(InputError, match=r'no channel of custom .* ranking = "taylor" or "magnitude"'):
        prune(task_of, network, ONE_STEP, tmp_path / "pruned", CANVAS)  # type: ignore[arg-type]
    assert not (tmp_path / "pruned" / "step-00").exists()


@pytest.mark.parametrize(
    ("activation", "zeros"), [(nn.ReLU, True), (nn.Hardswish, True), (nn.SiLU, False), (nn.GELU, False)]
)
def test_exact_zeros_are_found_without_training(activation: type[nn.Module], zeros: bool) -> None:
    network = nn.Sequential(nn.Conv2d(1, 64, 3), nn.BatchNorm2d(64), activation(), nn.Conv2d(64, 2, 1))
    assert zeros_on_noise(network, EXAMPLE)["0"].any() == zeros


def test_a_transformer_has_no_channels_to_prune() -> None:
    spec = NetworkSpec(architecture="timm:test_vit", labels=3, head_maps=0)
    with pytest.raises(InputError, match=r"not maps .*choose a convolutional network"):
        check_prunable(build(spec), spec, CANVAS, PrunePlan())


def test_excluding_everything_says_what_is_left_whole(tmp_path: Path) -> None:
    plan = replace(ONE_STEP, exclude=("trunk", "head"))
    with pytest.raises(InputError, match="no channel of plain can be removed"):
        prune(classify_task, start(tmp_path / "network"), plan, tmp_path / "pruned", CANVAS)
    with pytest.raises(InputError, match=r'a list of module names, got \'trunk\': give \["trunk"\]'):
        PrunePlan(exclude="trunk")  # type: ignore[arg-type]


def test_layers_left_whole_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A name that only another network of the run has is reported too."""
    plan = replace(ONE_STEP, exclude=("trunk.1", "trunk.network.layer1"))
    prune(classify_task, start(tmp_path / "network"), plan, tmp_path / "pruned", CANVAS)
    reported = capsys.readouterr().err
    assert "pruned: left whole: trunk.1.0: excluded by the plan" in reported
    assert "pruned: exclude: it has no layer 'trunk.network.layer1'" in reported
