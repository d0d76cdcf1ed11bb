"""COVID-Net in R20's pruning, with R20's head and with its own dense layers, and its parameter counts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tests.builders.pruned import CANVAS, PLAN, classify_task
from tests.tolerances import assert_close
from training.models import NetworkSpec, build, load_network, save_network
from training.pruning import cost
from training.pruning.apoz import zero_shares
from training.pruning.channels import ChannelGroup, group_shares, prunable, remove, select_channels
from training.pruning.prune import prune
from training.recipes.flannel.config import load_flannel
from training.recipes.r20.config import load_r20

torch.set_num_threads(1)

MEMBER = NetworkSpec(architecture="narrow-covid-net", labels=3, head_maps=16)
BOTH = pytest.mark.parametrize("spec", [MEMBER, replace(MEMBER, head_maps=0)], ids=["member", "published"])


def _network(spec: NetworkSpec) -> nn.Module:
    """Return the network with random norm statistics: the initial ones are nearly the identity."""
    torch.manual_seed(0)
    network = build(spec)
    for m in network.modules():
        if isinstance(m, nn.BatchNorm2d):
            for scale in (m.weight.data, m.running_var):
                nn.init.uniform_(scale, 0.5, 2)
            for shift in (m.bias.data, m.running_mean):
                nn.init.normal_(shift, std=0.5)
    return network.eval()


def _image(side: int = 64) -> Tensor:
    return torch.rand(1, 1, side, side, generator=torch.Generator().manual_seed(1))


def _convs(network: nn.Module) -> dict[str, nn.Conv2d]:
    return {n: m for n, m in network.named_modules() if isinstance(m, nn.Conv2d)}


def _shares(network: nn.Module) -> dict[str, NDArray[np.float64]]:
    rng = np.random.default_rng(0)
    return {n: rng.random(m.out_channels) for n, m in _convs(network).items()}


def _zeroed(network: nn.Module, units: list[ChannelGroup], selected: dict[str, tuple[int, ...]]) -> None:
    """Set the selected channels to zero: their convolution and the norm after it."""
    layers = dict(network.named_modules())
    for unit in units:
        for member in unit.layers:
            gone = [o for o, u in zip(member.own, member.of_group, strict=True) if u in selected.get(unit.root, ())]
            makers = [layers[member.conv], layers.get(member.conv[:-1] + "1")]
            for layer in (m for m in makers if isinstance(m, nn.Conv2d | nn.BatchNorm2d)):
                layer.weight.data[gone] = 0
                if layer.bias is not None:
                    layer.bias.data[gone] = 0


@BOTH
@pytest.mark.parametrize("side", [32, 64, 112])
def test_the_pruned_network_equals_the_full_one_with_zeroed_channels(
    spec: NetworkSpec, side: int, tmp_path: Path
) -> None:
    network, image = _network(spec), _image(side)
    units = prunable(network, image)
    original = {u.root: u.channels for u in units}
    selected = select_channels(units, _shares(network), step=1, original=original, fraction=0.3)
    sums = [u for u in units if u.root.endswith("beside.0")]
    assert [len(u.layers) for u in sums] == [4, 5, 7, 4], "a stage's sum goes as one: its 1x1 and all its blocks"
    assert all(selected.get(u.root) for u in sums), "and this test takes some of each"
    with torch.no_grad():
        other = network(image).logits.clone()
        _zeroed(network, units, selected)
        zeroed = network(image).logits
        assert not torch.allclose(other, zeroed), "else nothing was taken away"
        shares = zero_shares(network, [image])
        assert all((group_shares(u, shares)[list(selected.get(u.root, ()))] == 1).all() for u in units)
        remove(network, image, selected)
        assert_close(network(image).logits, zeroed)
    saved = save_network(network, spec, tmp_path)
    assert saved.shapes
    assert cost.parameters(network) < cost.parameters(build(spec))
    with torch.no_grad():
        assert torch.equal(load_network(tmp_path)[0](image).logits, network(image).logits)


def test_the_dense_layers_lose_all_inputs_of_a_channel() -> None:
    """The last stage's channel c is the flattened inputs 9 c to 9 c + 8 of a grid of 3."""
    network, image = _network(replace(MEMBER, head_maps=0)), _image()
    before = network.dense[0].weight.detach().clone()
    remove(network, image, {"stages.3.beside.0": (0, 200)})
    rest = [i for i in range(before.shape[1]) if i // 9 not in (0, 200)]
    assert torch.equal(network.dense[0].weight, before[:, rest])


@BOTH
def test_it_is_pruned_and_retrained(spec: NetworkSpec, tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_network(build(spec), spec, tmp_path / "network")
    plan = replace(PLAN, step=0.1, until=0.2, retrain=replace(PLAN.retrain, epochs=1))
    steps = prune(classify_task, tmp_path / "network", plan, tmp_path / "pruned", CANVAS)
    whole = steps[0].channels
    assert [s.channels for s in steps] == [whole - n * int(0.1 * whole) for n in range(3)]
    assert steps[2].parameters < steps[1].parameters < steps[0].parameters


def test_it_can_be_a_member_of_r20_and_a_learner_of_flannel(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('name = "x"\n[members.a]\narchitecture = "narrow-covid-net"\nhead_maps = 16')
    spec = load_r20(file).network("a", 3)
    with torch.no_grad():
        logits, cam = build(spec).eval()(_image())
    assert logits.shape == (1, 3)
    assert cam is not None
    assert cam.shape == (1, 3, 2, 2)
    learners = (
        'name = "x"\n[learners.a]\narchitecture = "narrow-vgg"\n[learners.b]\narchitecture = "narrow-covid-net"\n'
    )
    file.write_text(f"{learners}head_maps = 16")
    assert load_flannel(file).network("b").head_maps == 16


# A public PyTorch re-implementation (github.com/iliasprc/COVIDNet, model/model.py) prints every width; it has biases and no
# norm. The authors publish trained graphs without the layers' source; their docs/models.md says 117.4 M parameters and 2.26 G
# MACs (COVIDNet-CXR Small) and 127.4 M and 3.59 G (Large).
def test_its_widths_are_those_of_the_public_pytorch_code() -> None:
    with torch.device("meta"):
        network = build(NetworkSpec(architecture="covid-net", labels=3, channels=3, head_maps=0))
    convs = _convs(network)
    biases = sum(m.out_channels for m in convs.values())
    norms = sum(p.numel() for m in network.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters())
    assert norms == 2 * biases
    assert cost.parameters(network) == 134_565_747
    assert cost.parameters(network) - norms + biases == 134_513_939 == _public()
    assert round(cost.parameters(network) / 1e6, 1) not in (117.4, 127.4), "neither of the authors' two: widths unknown"


def _public() -> int:
    """Return the parameter count of that code for three labels, from its table of (ins, outs) and its rule for inner widths."""
    blocks = [(64, 256), *[(256, 256)] * 2, (256, 512), *[(512, 512)] * 3, (512, 1024), *[(1024, 1024)] * 5]
    blocks += [(1024, 2048), *[(2048, 2048)] * 2]
    total = 3 * 64 * 49 + 64 + sum(i * o + o for i, o in ((64, 256), (256, 512), (512, 1024), (1024, 2048)))
    for ins, outs in blocks:
        half, wide = ins // 2, int(3 * ins / 4)
        total += sum(i * o + o for i, o in ((ins, half), (half, wide), (wide, half), (half, outs))) + 9 * wide + wide
    return total + sum(i * o + o for i, o in ((7 * 7 * 2048, 1024), (1024, 256), (256, 3)))
