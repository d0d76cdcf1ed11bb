"""Costs: counts by hand, and ONNX Runtime's profile has every convolution under any fused name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cxr_edge.errors import InputError
from cxr_edge.specs.preprocess import PreprocessSpec
from training.models import LungUNet
from training.models.networks import NetworkSpec, build
from training.models.onnx_export import export
from training.pruning.channels import remove
from training.pruning.cost import latency_ms, layer_times_ms, macs, ms_per_channel, parameters

torch.set_num_threads(1)


def test_counts_by_hand() -> None:
    network = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),  # 4 * 4 * 4 values of 18
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 4, 3, groups=4, bias=False),  # 4 * 2 * 2 values of 9
        nn.ConvTranspose2d(4, 1, 2, stride=2),  # 4 * 2 * 2 values, each to 4
        nn.Flatten(),
        nn.Linear(16, 3),
    )
    network[0].weight.requires_grad_(False)
    assert macs(network, torch.randn(5, 2, 4, 4)) == 64 * 18 + 16 * 9 + 16 * 4 + 48
    assert parameters(network) == 76 + 8 + 36 + 17 + 51


def test_a_pruned_network_costs_less() -> None:
    network, image = build(NetworkSpec(architecture="plain", labels=3)).train(), torch.randn(1, 1, 32, 32)
    before = parameters(network), macs(network, image)
    remove(network, image, {"trunk.1.0": (0, 1, 2)})
    # Three filters of 16 x 3 x 3, their norm, and what the next layer read of them.
    assert before[0] - parameters(network) == 3 * (144 + 2 + 48 * 9)
    assert before[1] - macs(network, image) == 3 * (16 * 16 * 144 + 8 * 8 * 48 * 9)
    assert network.training


NETWORKS = ("inverted", "inception", "custom", "timm:resnet10t", "unet")


@pytest.mark.parametrize("name", NETWORKS)
def test_every_convolution_has_its_time(name: str) -> None:
    network = LungUNet() if name == "unet" else build(NetworkSpec(architecture=name, labels=3, head_maps=32))
    times = layer_times_ms(network, torch.randn(1, 1, 64, 64), repeats=4)
    assert set(times) == {n for n, m in network.named_modules() if isinstance(m, nn.Conv2d)}
    assert all(ms > 0 for ms in times.values())
    first, ms = next(iter(times.items()))
    assert ms_per_channel(network, times)[first] == ms / network.get_submodule(first).out_channels


class _Joined(nn.Module):
    """Inception-ResNet's scaled sum and squeeze and excitation: operators that may and may not be fused with a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.gate = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.last = nn.Conv2d(8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x).relu()
        x = (self.two(x) * 0.2 + x).relu()
        return self.last(x * self.gate(x.mean((2, 3), keepdim=True)).sigmoid())


def test_scaled_sums_and_gates_have_their_times() -> None:
    times = layer_times_ms(_Joined(), torch.randn(1, 1, 64, 64), repeats=4)
    assert list(times) == ["one", "two", "gate", "last"]
    assert all(ms > 0 for ms in times.values())
    # The gate sees one pixel: the product over the whole map is not its own.
    assert times["gate"] < times["one"]


def test_times_are_attributed_to_the_slow_layer() -> None:
    """Two layers of one shape but 64 times the work."""
    network = nn.Sequential(
        nn.Conv2d(1, 32, 1), nn.ReLU(), nn.Conv2d(32, 32, 7, padding=3), nn.ReLU(), nn.Conv2d(32, 1, 1)
    )
    times = layer_times_ms(network, torch.randn(1, 1, 64, 64), repeats=8)
    assert times["2"] > 3 * max(times["0"], times["4"])


def test_latency_of_a_file(tmp_path: Path) -> None:
    spec = PreprocessSpec(canvas_px=32, crop_px=32)
    export(build(NetworkSpec(architecture="plain", labels=3)), spec, ("logits", "cam"), tmp_path / "m.onnx")
    assert 0 < latency_ms(tmp_path / "m.onnx", threads=1, repeats=3) < 1000
    with pytest.raises(InputError, match="at least 1"):
        latency_ms(tmp_path / "m.onnx", threads=0)
