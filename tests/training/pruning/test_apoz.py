"""Shares of zeros: exact numbers on networks with known zeros, and compared with brute force where branches join."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from timm.models.densenet import DenseNet
from torch import Tensor, nn

from cxr_edge.errors import InputError
from training.models import LungUNet, build_member
from training.models.networks import NetworkSpec, build
from training.pruning.apoz import activation_use, zero_shares

torch.set_num_threads(1)


def _constant(outs: list[float], ins: int = 1, groups: int = 1) -> nn.Conv2d:
    """A 1x1 convolution that multiplies (the sum of) its input by one number per channel."""
    conv = nn.Conv2d(ins, len(outs), 1, groups=groups, bias=False)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor(outs)[:, None, None, None].expand_as(conv.weight))
    return conv


def _signs(negative: int, images: int = 1) -> Tensor:
    """(images, 1, 2, 4): of eight pixels the first `negative` are -1, the others 1."""
    pixels = torch.ones(8)
    pixels[:negative] = -1
    return pixels.view(1, 1, 2, 4).repeat(images, 1, 1, 1)


def test_shares_are_exact() -> None:
    network = nn.Sequential(_constant([1.0, -1.0, 0.0]), nn.ReLU())
    np.testing.assert_array_equal(zero_shares(network, [_signs(2)])["0"], [2 / 8, 6 / 8, 1.0])


def test_a_partial_batch_is_weighted_by_its_images() -> None:
    network = nn.Sequential(_constant([1.0]), nn.ReLU(inplace=True))
    shares = zero_shares(network, [_signs(8, images=3), _signs(0, images=1)])
    assert shares["0"].item() == 3 / 4


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU6(), nn.Hardtanh(0, 6, inplace=True)])
def test_layers_between_convolution_and_activation_pass_the_origins(activation: nn.Module) -> None:
    between = nn.Sequential(
        nn.BatchNorm2d(1), nn.Dropout(0.5), nn.Identity(), nn.MaxPool2d(1), nn.Upsample(scale_factor=2)
    )
    shares = zero_shares(nn.Sequential(_constant([1.0]), between, activation), [_signs(2)])
    assert shares["0"].item() == 2 / 8


def test_without_exact_zeros_the_share_is_zero() -> None:
    network = nn.Sequential(_constant([1.0]), nn.SiLU(), _constant([1.0]), nn.Sigmoid(), nn.ReLU())
    assert [s.item() for s in zero_shares(network, [_signs(2)]).values()] == [0, 0]


class _Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.plain = _constant([1.0]), _constant([-1.0, 1.0]), _constant([1.0])
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        # One and plain before the concatenation's activation, two through one of its own as well.
        two = self.two(x)
        return torch.relu(two).mean() + self.norm(torch.cat((self.plain(x), two, self.one(x)), 1)).relu_()


def test_a_concatenation_is_attributed_to_its_branches() -> None:
    shares = zero_shares(_Branches(), [_signs(2)])
    np.testing.assert_array_equal(shares["one"], [2 / 8])
    np.testing.assert_array_equal(shares["two"], [6 / 8, 2 / 8])
    np.testing.assert_array_equal(shares["plain"], [2 / 8])


class _Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.linear = _constant([3.0]), _constant([-1.0]), _constant([1.0])

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        y += self.second(x)
        return self.linear(torch.relu(y)) + x


def test_a_sum_counts_for_all_its_terms_and_a_projection_has_no_zeros() -> None:
    network = _Residual()
    shares = zero_shares(network, [_signs(6)])
    assert {k: v.item() for k, v in shares.items()} == {"first": 6 / 8, "second": 6 / 8, "linear": 0}
    assert activation_use(network, _signs(1)).activated == {"first", "second"}


class _Gated(nn.Module):
    """Squeeze and excitation before the activation, as in SE-ResNet."""

    def __init__(self) -> None:
        super().__init__()
        self.maps, self.gate = _constant([1.0]), _constant([5.0])

    def forward(self, x: Tensor) -> Tensor:
        y = self.maps(x)
        return (y * self.gate(y.mean((2, 3), keepdim=True)).sigmoid()).relu()


def test_a_gate_is_not_an_activation_of_the_channels_it_scales() -> None:
    shares = zero_shares(_Gated(), [_signs(2)])
    assert (shares["maps"].item(), shares["gate"].item()) == (2 / 8, 0)
    after = activation_use(_Gated(), _signs(2))
    assert (after.activated, after.gates) == ({"maps"}, {"gate"})


def test_depthwise_and_pointwise_count_for_themselves() -> None:
    network = nn.Sequential(
        _constant([1.0, -1.0]), nn.ReLU(), _constant([1.0, -1.0], 2, 2), nn.ReLU(), _constant([1.0], 2)
    )
    shares = zero_shares(network, [_signs(2)])
    np.testing.assert_array_equal(shares["0"], [2 / 8, 6 / 8])
    np.testing.assert_array_equal(shares["2"], [2 / 8, 1.0])
    np.testing.assert_array_equal(shares["4"], [0])


def test_separable_layers_of_the_custom_network_count_at_the_pointwise_half() -> None:
    network = build(NetworkSpec(architecture="custom", labels=2))
    assert activation_use(network, torch.randn(1, 1, 16, 16)).activated == {"trunk.0.1", "trunk.1.1", "trunk.2.1"}


def test_modes_and_weights_are_restored() -> None:
    network = build_member("inception", 3).train()
    network.trunk[0].eval()
    before = [m.training for m in network.modules()], {k: v.clone() for k, v in network.state_dict().items()}
    zero_shares(network, [torch.randn(2, 1, 32, 32)])
    assert [m.training for m in network.modules()] == before[0]
    assert all(torch.equal(v, before[1][k]) for k, v in network.state_dict().items())
    assert not any(m._forward_hooks for m in network.modules())


def test_no_images_is_an_error() -> None:
    with pytest.raises(InputError, match="at least one batch"):
        zero_shares(LungUNet(), [])


def _zeros_of(network: nn.Module, names: list[str], image: Tensor) -> dict[str, np.ndarray]:
    """Module name -> share of zeros of each channel of its output, computed from the saved output."""
    outputs: dict[str, np.ndarray] = {}
    modules = dict(network.named_modules())

    def keep(name: str) -> None:
        modules[name].register_forward_hook(
            lambda m, i, out: outputs.update({name: (out == 0).double().mean((0, 2, 3)).numpy()})
        )

    for name in names:
        keep(name)
    with torch.no_grad():
        network.eval()(image)
    return outputs


def test_inception_branches_by_brute_force() -> None:
    torch.manual_seed(0)
    network, image = build_member("inception", 3), torch.randn(2, 1, 32, 32)
    shares = zero_shares(network, [image])
    expected = _zeros_of(network, ["trunk.2.one.2", "trunk.2.three.1.2", "trunk.2.five.2.2", "trunk.2"], image)
    # trunk.2's last activation is in place and shared by the join and its input.
    for conv, activation in {"one.0": "one.2", "three.1.0": "three.1.2", "five.2.0": "five.2.2"}.items():
        np.testing.assert_allclose(shares[f"trunk.2.{conv}"], expected[f"trunk.2.{activation}"])
    np.testing.assert_allclose(shares["trunk.2.join.0"], expected["trunk.2"])


def test_dense_blocks_by_brute_force() -> None:
    """A layer's maps are read by every later layer of its block, each through its own norm and ReLU."""
    torch.manual_seed(0)
    network = DenseNet(growth_rate=4, block_config=(3,), in_chans=1)
    for m in network.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.normal_(m.bias)
    block = "features.denseblock1.denselayer"
    image = torch.randn(2, 1, 32, 32)
    readers = [f"{block}2.norm1", f"{block}3.norm1", "features.norm5"]
    expected = _zeros_of(network, [*readers, f"{block}1.norm2"], image)
    shares = zero_shares(network, [image])
    for layer, (first, start) in {1: (0, 8), 2: (1, 12), 3: (2, 16)}.items():
        seen = np.mean([expected[r][start : start + 4] for r in readers[first:]], axis=0)
        np.testing.assert_allclose(shares[f"{block}{layer}.conv2"], seen)
    np.testing.assert_allclose(shares[f"{block}1.conv1"], expected[f"{block}1.norm2"])
