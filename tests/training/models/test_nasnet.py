"""NASNet-A mobile: size, map, export and pruning."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest
import torch
import torch_pruning
from torch import nn

from tests.tolerances import DEEP_NETWORK, assert_close
from training.models import NetworkSpec, build, load_network, save_network
from training.models.nasnet import nasnet_mobile_trunk
from training.models.onnx_export import graph_of
from training.models.transfer import transfer_trunk

torch.set_num_threads(1)

SPEC = NetworkSpec(architecture="nasnet-mobile", labels=2, head_maps=16)
IMAGE = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    network = build(SPEC).train()
    network(IMAGE.repeat(2, 1, 1, 1) + torch.rand(2, 1, 64, 64))  # statistics that keep the values small
    return network.eval()


def test_it_has_the_parameters_of_keras() -> None:
    with torch.device("meta"):
        trunk, maps = nasnet_mobile_trunk(3)
    assert maps == 1056
    assert sum(p.numel() for p in trunk.parameters()) == 4_232_978


def test_the_map_is_a_thirty_second_of_the_input() -> None:
    with torch.device("meta"):
        trunk, _ = nasnet_mobile_trunk(3)
        for pixels, cells in ((224, 7), (97, 3), (32, 1)):
            assert trunk(torch.rand(2, 3, pixels, pixels)).shape == (2, 1056, cells, cells)


def test_it_ends_in_relu(network: nn.Module) -> None:
    with torch.no_grad():
        features = network.trunk(IMAGE)
    assert float(features.min()) == 0
    assert float(features.max()) > 0


def test_halving_takes_even_and_odd_positions() -> None:
    halve = next(m for m in nasnet_mobile_trunk(1)[0].modules() if type(m).__name__ == "_Halve").eval()
    halve.norm.eps = 0.0
    with torch.no_grad():
        for conv in (halve.even, halve.odd):
            conv.weight.zero_()
            conv.weight[0, 0] = 1
        x = torch.zeros(1, halve.even.in_channels, 5, 5)
        x[0, 0] = torch.arange(25.0).reshape(5, 5)
        halved = halve(x)[0]
    assert halved[0].tolist() == [[0, 2, 4], [10, 12, 14], [20, 22, 24]]
    assert halved[halve.even.out_channels].tolist() == [[6, 8, 0], [16, 18, 0], [0, 0, 0]]


def test_it_is_exported(network: nn.Module) -> None:
    model = graph_of(network, IMAGE.repeat(2, 1, 1, 1), ["logits", "cam"])
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    logits, cam = session.run(["logits", "cam"], {"image": IMAGE.numpy()})
    with torch.no_grad():
        expected = network(IMAGE)
    assert_close(logits, expected.logits, DEEP_NETWORK)
    assert_close(cam, expected.cam, DEEP_NETWORK)


@pytest.mark.filterwarnings("ignore:Unwrapped parameters")
def test_it_is_pruned_saved_loaded_and_transferred(tmp_path: Path) -> None:
    network = build(SPEC).eval()
    graph = torch_pruning.DependencyGraph().build_dependency(network, IMAGE, output_transform=lambda out: out.logits)
    before = sum(p.numel() for p in network.parameters())
    for name in ("trunk.stem.0", "trunk.cells.1.adjust.odd", "trunk.cells.3.squeeze.1", "trunk.cells.8.adjust.1"):
        conv = network.get_submodule(name)
        group = graph.get_pruning_group(conv, torch_pruning.prune_conv_out_channels, idxs=[0, 3])
        assert graph.check_pruning_group(group)
        group.prune()
    assert sum(p.numel() for p in network.parameters()) < before
    save_network(network, SPEC, tmp_path)
    with torch.no_grad():
        features = network.trunk(IMAGE)
        assert torch.equal(load_network(tmp_path)[0](IMAGE).logits, network(IMAGE).logits)
        assert torch.equal(transfer_trunk(network, SPEC).eval().trunk(IMAGE), features)
