"""Channel removal: R20's counts per step, the selected channels, and an unchanged output without always-zero channels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from timm.models.densenet import DenseNet
from timm.models.resnet import Bottleneck, ResNet
from torch import Tensor, nn

from cxr_edge.errors import InputError
from tests.tolerances import assert_close
from training.models import LungUNet
from training.models.files import load_network, save_network
from training.models.head import CamHead, TaskHead
from training.models.networks import Network, NetworkSpec, TimmTrunk, build
from training.pruning.apoz import zero_shares
from training.pruning.channels import ChannelGroup, GroupLayer, group_shares, prunable, remove, select_channels

torch.set_num_threads(1)


def _spec(architecture: str, channels: int = 1) -> NetworkSpec:
    return NetworkSpec(architecture=architecture, labels=3, channels=channels, head_maps=64)


def _image(side: int = 32, channels: int = 1) -> Tensor:
    return torch.randn(1, channels, side, side, generator=torch.Generator().manual_seed(1))


def _convs(network: nn.Module) -> dict[str, nn.Conv2d]:
    return {n: m for n, m in network.named_modules() if isinstance(m, nn.Conv2d)}


def _made_up_shares(network: nn.Module, seed: int = 0) -> dict[str, NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    return {n: rng.random(m.out_channels) for n, m in _convs(network).items()}


def _dense() -> nn.Module:
    trunk = TimmTrunk(DenseNet(growth_rate=8, block_config=(3, 2), in_chans=1))
    return Network(trunk, TaskHead(trunk.maps, 16, 3, 0.5))


def _grouped() -> nn.Module:
    """ResNeXt: residual stages of bottlenecks with four groups in the middle convolution."""
    trunk = TimmTrunk(ResNet(Bottleneck, (2, 1, 1, 1), cardinality=4, base_width=16, in_chans=1))
    return Network(trunk, CamHead(trunk.maps, 3, 0.5))


MADE = {"unet": LungUNet, "dense": _dense, "grouped": _grouped}
NAMED = ("plain", "inverted", "inception", "custom", "narrow-vgg", "mobilenet-v2")


def _network(name: str) -> nn.Module:
    torch.manual_seed(0)
    network = MADE[name]() if name in MADE else build(_spec(name))
    for m in network.modules():
        # A zero stays a zero through these, and all channels differ.
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.weight, 0.5, 2)
            nn.init.uniform_(m.running_var, 0.5, 2)
    return network.eval()


def _silence(network: nn.Module, groups: list[ChannelGroup], chosen: dict[str, tuple[int, ...]]) -> None:
    convs = _convs(network)
    for group in groups:
        for layer in group.layers:
            gone = [o for o, g in zip(layer.own, layer.of_group, strict=True) if g in chosen.get(group.root, ())]
            conv = convs[layer.conv]
            conv.weight.data[gone] = 0
            if conv.bias is not None:
                conv.bias.data[gone] = 0


def _outputs(network: nn.Module, image: Tensor) -> tuple[Tensor, ...]:
    with torch.no_grad():
        out = network(image)
    return (out,) if isinstance(out, Tensor) else tuple(out)


@pytest.mark.parametrize("name", [*MADE, *NAMED])
def test_removing_silent_channels_does_not_change_the_output(name: str, tmp_path: Path) -> None:
    network, image = _network(name), _image()
    groups = prunable(network, image)
    original = {g.root: g.channels for g in groups}
    chosen = select_channels(groups, _made_up_shares(network), step=1, original=original, fraction=0.3)
    _silence(network, groups, chosen)
    shares = zero_shares(network, [image])
    assert all((group_shares(g, shares)[list(chosen.get(g.root, ()))] == 1).all() for g in groups if g.activated)

    before, counts = _outputs(network, image), {n: m.out_channels for n, m in _convs(network).items()}
    remove(network, image, chosen)
    for b, a in zip(before, _outputs(network, image), strict=True):
        assert_close(a, b)
    assert all(_convs(network)[r].out_channels == counts[r] - len(gone) for r, gone in chosen.items())
    left = prunable(network, image)
    assert sum(g.channels for g in left) == sum(original.values()) - sum(map(len, chosen.values()))

    if name not in MADE:
        spec = save_network(network, _spec(name), tmp_path)
        assert spec.shapes
        for b, a in zip(_outputs(network, image), _outputs(load_network(tmp_path)[0], image), strict=True):
            assert torch.equal(a, b)


def test_removing_channels_silenced_by_their_norm_does_not_change_the_output() -> None:
    """The usual case in pruning: the convolution has outputs, its norm moves every value below zero."""
    network, image = _network("narrow-vgg"), _image()
    norm = network.trunk.network.features[4]
    norm.weight.data[3:7], norm.bias.data[3:7] = 0, -1
    before = _outputs(network, image)
    assert (zero_shares(network, [image])["trunk.network.features.3"][3:7] == 1).all()
    remove(network, image, {"trunk.network.features.3": (3, 4, 5, 6)})
    for b, a in zip(before, _outputs(network, image), strict=True):
        assert_close(a, b)


@pytest.fixture
def one_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fresh weights are all 0.01: drawing millions of them is most of a large network's time."""
    for name in ("kaiming_normal_", "kaiming_uniform_", "trunc_normal_", "normal_", "uniform_"):
        monkeypatch.setattr(nn.init, name, lambda tensor, *args, **kwargs: tensor.data.fill_(0.01))


@pytest.mark.usefixtures("one_value")
@pytest.mark.parametrize(("name", "side"), [("inception-v3", 75), ("xception", 64), ("timm:densenet121", 32)])
def test_large_networks_survive_a_step(name: str, side: int, tmp_path: Path) -> None:
    network, image = build(_spec(name)).eval(), _image(side)
    groups = prunable(network, image)
    original = {g.root: g.channels for g in groups}
    chosen = select_channels(groups, _made_up_shares(network), step=1, original=original, fraction=0.02)
    remove(network, image, dict(list(chosen.items())[::8]))
    save_network(network, _spec(name), tmp_path)
    for a, b in zip(_outputs(load_network(tmp_path)[0], image), _outputs(network, image), strict=True):
        assert torch.isfinite(a).all()
        assert torch.equal(a, b)


# R20: channels of the fresh network, the added head convolution included, and how many go a step.
STEPS = {"vgg16": (5248, 104), "vgg19": (6528, 130), "inception-v3": (18240, 364)}


@pytest.mark.usefixtures("one_value")
@pytest.mark.parametrize("name", list(STEPS))
def test_the_papers_channels_per_step(name: str) -> None:
    network = build(NetworkSpec(architecture=name, labels=3, channels=3))
    groups = prunable(network, _image(75, 3) if name == "inception-v3" else _image(32, 3))
    original = {g.root: g.channels for g in groups}
    chosen = select_channels(groups, _made_up_shares(network), step=1, original=original)
    assert (sum(original.values()), sum(map(len, chosen.values()))) == STEPS[name]


@pytest.mark.usefixtures("one_value")
def test_vgg16_has_half_its_channels_after_25_steps() -> None:
    network, image = build(NetworkSpec(architecture="vgg16", labels=3, channels=3)), _image(32, 3)
    groups, shares = prunable(network, image), _made_up_shares(network)
    original = {g.root: g.channels for g in groups}
    alive = {root: np.arange(n) for root, n in original.items()}
    for step in range(1, 26):
        left = [_group(root, len(a)) for root, a in alive.items()]
        now = {root: shares[root][a] for root, a in alive.items()}
        gone = select_channels(left, now, step=step, original=original)
        assert sum(map(len, gone.values())) == 104
        alive = {root: np.delete(a, gone.get(root, ())) for root, a in alive.items()}
    remove(network, image, {r: np.setdiff1d(np.arange(original[r]), a).tolist() for r, a in alive.items()})
    assert sum(g.channels for g in prunable(network, image)) == 5248 - 25 * 104
    assert _outputs(network, image)[0].shape == (1, 3)


def _group(root: str, channels: int, activated: bool = True) -> ChannelGroup:
    every = tuple(range(channels))
    layer = GroupLayer(conv=root, own=every, of_group=every, activated=activated, passive=False)
    return ChannelGroup(root=root, channels=channels, layers=(layer,), ties=tuple((c,) for c in every))


def _shares(**of: list[float]) -> dict[str, NDArray[np.float64]]:
    return {name: np.array(values) for name, values in of.items()}


def test_scope_global_ranks_all_layers_together_and_scope_layer_each() -> None:
    groups = [_group("a", 4), _group("b", 4)]
    shares = _shares(a=[0.1, 0.9, 0.8, 0.2], b=[0.3, 0.0, 0.1, 0.4])
    original = {"a": 4, "b": 4}
    assert select_channels(groups, shares, step=1, original=original, fraction=0.25) == {"a": (1, 2)}
    layer = select_channels(groups, shares, step=1, original=original, fraction=0.25, scope="layer")
    assert layer == {"a": (1,), "b": (3,)}


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_at_least_one_channel_stays_in_a_layer(scope: str) -> None:
    groups = [_group("a", 3), _group("b", 1)]
    shares = _shares(a=[0.9, 0.9, 0.9], b=[1.0])
    chosen = select_channels(groups, shares, step=1, original={"a": 3, "b": 1}, fraction=1.0, scope=scope)
    assert len(chosen["a"]) == 2
    assert "b" not in chosen
    assert (
        len(select_channels(groups, shares, step=1, original={"a": 3, "b": 1}, fraction=1.0, keep_at_least=2)["a"]) == 1
    )


def test_remaining_channels_are_a_multiple_and_the_rest_is_due_later() -> None:
    groups, original = [_group("a", 32), _group("b", 20)], {"a": 32, "b": 20}
    shares = {"a": np.linspace(0.5, 0.6, 32), "b": np.linspace(0.7, 0.8, 20)}
    left = []
    for step in range(1, 6):
        # 10 % of 52 are 5 a step: 4 make b a multiple of 8, then 8 go when 8 are due (at step 3, 15 - 4).
        chosen = select_channels(groups, shares, step=step, original=original, fraction=0.1, multiple_of=8)
        groups = [_group(g.root, g.channels - len(chosen.get(g.root, ()))) for g in groups]
        shares = {g.root: np.delete(shares[g.root], chosen.get(g.root, ())) for g in groups}
        left.append(tuple(g.channels for g in groups))
    assert left == [(32, 16), (32, 16), (32, 8), (24, 8), (24, 8)]


def test_at_equal_zeros_the_expensive_layer_is_pruned_first() -> None:
    groups, original = [_group("cheap", 4), _group("expensive", 4)], {"cheap": 4, "expensive": 4}
    shares = _shares(cheap=[0.5] * 4, expensive=[0.5] * 4)
    ms = {"cheap": 0.1, "expensive": 0.4}
    assert list(select_channels(groups, shares, step=1, original=original, fraction=0.25, ms_per_channel=ms)) == [
        "expensive"
    ]
    plain = select_channels(groups, shares, step=1, original=original, fraction=0.25)
    assert {root: len(c) for root, c in plain.items()} == {"cheap": 1, "expensive": 1}
    with pytest.raises(InputError, match="expensive"):
        select_channels(groups, shares, step=1, original=original, ms_per_channel={"cheap": 0.1})


def test_a_projection_is_never_selected_by_itself() -> None:
    groups = [_group("projection", 8, activated=False), _group("other", 2)]
    shares = _shares(projection=[0.0] * 8, other=[0.0] * 2)
    chosen = select_channels(groups, shares, step=1, original={"projection": 8, "other": 2}, fraction=0.5)
    assert list(chosen) == ["other"]


def test_a_groups_share_is_the_mean_over_its_counted_layers() -> None:
    one, two = (0, 1), (1, 0)
    layers = (
        GroupLayer(conv="a", own=one, of_group=one, activated=True, passive=False),
        GroupLayer(conv="b", own=one, of_group=two, activated=True, passive=False),
        GroupLayer(conv="depthwise", own=one, of_group=one, activated=False, passive=True),
    )
    group = ChannelGroup(root="a", channels=2, layers=layers, ties=((0,), (1,)))
    shares = _shares(a=[1.0, 0.5], b=[0.25, 1.0], depthwise=[0, 0], linear=[0, 0])
    np.testing.assert_array_equal(group_shares(group, shares), [1.0, 0.375])
    linear = GroupLayer(conv="linear", own=one, of_group=one, activated=False, passive=False)
    felt = ChannelGroup(root="a", channels=2, layers=(*layers, linear), ties=group.ties)
    np.testing.assert_allclose(group_shares(felt, shares), [2 / 3, 0.25])


def test_groups_of_an_inverted_network_couple_layers_of_a_sum() -> None:
    groups = {g.root: [m.conv for m in g.layers] for g in prunable(_network("inverted"), _image())}
    assert sorted(groups["trunk.2.block.0.0"]) == ["trunk.2.block.0.0", "trunk.2.block.1.0"]
    assert sorted(groups["trunk.1.block.2.0"]) == ["trunk.1.block.2.0", "trunk.2.block.2.0"]
    assert all("head.map" not in layers for layers in groups.values())


def test_a_limit_keeps_channels_in_every_layer() -> None:
    groups, original = [_group("cheap", 30), _group("expensive", 10)], {"cheap": 30, "expensive": 10}
    shares, ms = _shares(cheap=[0.9] * 30, expensive=[0.5] * 10), {"cheap": 0.01, "expensive": 10.0}
    counts = []
    for step in (1, 2):
        chosen = select_channels(groups, shares, step=step, original=original, fraction=0.1, ms_per_channel=ms, ahead=2)
        counts.append({root: len(c) for root, c in chosen.items()})
        groups = [_group(g.root, g.channels - len(chosen.get(g.root, ()))) for g in groups]
        shares = {g.root: shares[g.root][: g.channels] for g in groups}
    assert counts == [{"cheap": 2, "expensive": 2}] * 2  # 4 of 40 a step; `expensive` at most twice a tenth of its 10


def test_latency_aware_and_aligned_on_a_real_network() -> None:
    network, image = _network("inverted"), _image()
    groups = prunable(network, image)
    original = {g.root: g.channels for g in groups}
    ms = {n: 1 / m.out_channels for n, m in _convs(network).items()}
    remove(
        network,
        image,
        select_channels(groups, _made_up_shares(network), step=3, original=original, ms_per_channel=ms, multiple_of=8),
    )
    left = [g.channels for g in prunable(network, image)]
    assert all(n % 8 == 0 for n in left)
    assert sum(left) == sum(original.values()) - 3 * 38 // 8 * 8
    _outputs(network, image)


def test_modes_and_frozen_weights_are_restored() -> None:
    network, image = _network("plain").train(), _image()
    network.trunk[0].eval()
    network.head.map.weight.requires_grad_(False)
    remove(network, image, {"trunk.10.0": (0, 5)})
    assert network.training
    assert not network.trunk[0].training
    assert [n for n, p in network.named_parameters() if not p.requires_grad] == ["head.map.weight"]


def test_an_impossible_removal_is_refused() -> None:
    network = _network("plain")
    with pytest.raises(InputError, match="no convolution"):
        remove(network, _image(), {"trunk.0.1": (0,)})
    with pytest.raises(InputError, match="has no more"):
        remove(network, _image(), {"trunk.0.0": tuple(range(16))})
    with pytest.raises(InputError, match="'global' or 'layer'"):
        select_channels([], {}, step=1, original={}, scope="network")
    with pytest.raises(InputError, match="same network"):
        select_channels([_group("a", 2)], {}, step=1, original={})
