"""Pruning of many designs: what is removed leaves the function of the channels at zero, what cannot be followed stays whole.

The function is compared in double precision with the whole network, its channels held at zero after each norm and activation
by the tracking of origins (`apoz`), which knows nothing of the graph that removes them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from cxr_edge.errors import InputError
from tests.builders.designs import DESIGNS, SIDE_PX, Reduced, Tied
from tests.tolerances import assert_close
from training.models import resize, shapes_of
from training.models.onnx_export import graph_of
from training.pruning import apoz, removal
from training.pruning.channels import ChannelGroup, Survey, channel_groups, remove, select_channels, survey

torch.set_num_threads(1)

EXAMPLE = torch.zeros(1, 1, SIDE_PX, SIDE_PX)
IMAGES = torch.randn(2, 1, SIDE_PX, SIDE_PX, generator=torch.Generator().manual_seed(5))
# Nothing that another layer reads is without a layer norm, or weights standardised over what they read.
NOTHING = frozenset(["convnext", "edgenext"])
EXPORTED = ("sknet", "sequential, group norm")  # pruned networks are ordinary ones, and one export takes seconds


def _network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return removal.random_copy(DESIGNS[name]().eval(), EXAMPLE)


def _chosen(network: nn.Module, found: Survey, groups: Sequence[ChannelGroup], step: int) -> dict[str, tuple[int, ...]]:
    rng = np.random.default_rng(step)
    shares = {n: rng.random(m.out_channels) for n, m in network.named_modules() if isinstance(m, nn.Conv2d)}
    original = {g.root: g.channels for g in found.groups}
    importances = {g.root: rng.random(g.channels) for g in groups}
    return select_channels(
        groups, shares, step=step, original=original, fraction=0.2, importances=importances, ahead=2.0
    )


class _Hold(apoz._OriginTracker):
    """Holds channels at zero where they are computed, normalised and activated."""

    def __init__(self, counts: apoz._Counts, gone: Tensor) -> None:
        super().__init__(counts)
        self.gone = gone

    def _set_origins(self, name: str, out: Tensor, origins: Tensor | None) -> None:
        ends = name in apoz._ACTIVATIONS or name in ("batch_norm", "group_norm", "instance_norm")
        if origins is not None and ends and out.dim() == 4 and out.shape[1] == origins.shape[1]:
            out[:, self.gone[origins].any(0)] = 0
        super()._set_origins(name, out, origins)


def _held(network: nn.Module, groups: Sequence[ChannelGroup], chosen: Mapping[str, Sequence[int]]) -> list[Tensor]:
    with apoz._counting(network) as counts:
        gone = torch.zeros(counts.no_origin + 1, dtype=torch.bool)
        for layer, of_group in ((la, chosen.get(g.root, ())) for g in groups for la in g.layers):
            lost = [o for o, g in zip(layer.own, layer.of_group, strict=True) if g in of_group]
            gone[[counts.slices[layer.conv].start + o for o in lost]] = True
            network.get_submodule(layer.conv).register_forward_hook(_zero(lost))
        with _Hold(counts, gone):
            return removal.outputs(network, IMAGES.double())


def _zero(channels: Sequence[int]) -> Callable[..., None]:
    def zero(layer: nn.Module, inputs: object, output: Tensor) -> None:
        output[:, list(channels)] = 0

    return zero


@pytest.mark.parametrize("name", list(DESIGNS))
def test_a_design_keeps_its_function_without_the_channels(name: str) -> None:
    network = _network(name)
    found = survey(network, EXAMPLE)
    assert bool(found.groups) == (name not in NOTHING)
    for step in (1, 2):
        groups = channel_groups(network, EXAMPLE, exclude=found.excluded)
        whole, chosen = copy.deepcopy(network).double(), _chosen(network, found, groups, step)
        remove(network, EXAMPLE, chosen)
        now = removal.outputs(copy.deepcopy(network).double(), IMAGES.double())
        for expected, actual in zip(_held(whole, groups, chosen), now, strict=True):
            assert_close(actual, expected, 1e-7)
    if found.groups:
        assert sum(p.numel() for p in network.parameters()) < sum(p.numel() for p in DESIGNS[name]().parameters())
    _assert_comes_back(name, network)
    if name in EXPORTED:
        _assert_exports(network)


def _assert_comes_back(name: str, network: nn.Module) -> None:
    fresh = DESIGNS[name]()
    before = shapes_of(fresh)
    resize(fresh, {k: v for k, v in shapes_of(network).items() if v != before[k]})
    fresh.load_state_dict(network.state_dict())
    # In double: a kernel of float32 may add in another order for weights that lie otherwise in memory.
    fresh, images = fresh.double(), IMAGES.double()
    whole = copy.deepcopy(network).double()
    for again, now in zip(removal.outputs(fresh, images), removal.outputs(whole, images), strict=True):
        assert_close(again, now, 1e-7)


def _assert_exports(network: nn.Module) -> None:
    expected = removal.outputs(network, IMAGES)
    names = [f"output_{i}" for i in range(len(expected))]
    model = graph_of(network, IMAGES, names).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    for e, actual in zip(expected, session.run(names, {"image": IMAGES.numpy()}), strict=True):
        assert_close(actual, e, 1e-4)


def test_what_only_seems_to_fit_is_left_whole() -> None:
    """All shapes fit after the removal, but a mean, a softmax and a response norm over the channels change."""
    found = survey(Reduced().eval(), EXAMPLE)
    assert set(found.excluded) == {"summed", "soft", "norm"}
    assert {g.root for g in found.groups} == {"free", "last"}
    assert all("other outputs change" in left.why for left in found.whole), found.whole


def test_layers_that_share_a_weight_are_left_whole() -> None:
    found = survey(Tied().eval(), EXAMPLE)
    assert {left.why for left in found.whole} == {"its weights are shared with another layer"}
    assert set(found.excluded) >= {"first", "second"}
    assert "free" in {g.root for g in found.groups}


def test_channels_that_take_others_with_them_are_selected_together() -> None:
    """GhostNet computes half of a map from the other half: a sum with it loses two channels at a time."""
    groups = {g.root: g for g in survey(_network("ghostnet"), EXAMPLE).groups}
    assert {len(tie) for tie in groups["trunk.network.conv_stem"].ties} == {2}


def test_a_group_norm_loses_whole_groups() -> None:
    network = _network("sequential, group norm")
    (group, _) = survey(network, EXAMPLE).groups
    assert group.ties == tuple((c, c + 1, c + 2) for c in range(0, 12, 3))
    remove(network, EXAMPLE, {group.root: group.ties[1]})
    assert (network[1].num_groups, network[1].num_channels) == (3, 9)


def test_a_removal_that_changes_the_function_is_refused_and_nothing_is_removed() -> None:
    network = Reduced().eval()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    with pytest.raises(InputError, match=r'summed: other outputs change.*exclude = \["summed"\]'):
        remove(network, EXAMPLE, {"summed": (1, 2), "free": (0,)})
    assert {k: v.shape for k, v in network.state_dict().items()} == {k: v.shape for k, v in before.items()}
    with pytest.raises(InputError, match=r"channels 0 to 7, got \[8\]"):
        remove(network, EXAMPLE, {"free": (8,)})


def test_what_does_not_come_back_from_its_files_is_left_whole() -> None:
    """A factor for channels that the file does not hold."""

    def rebuild(network: nn.Module) -> nn.Module:
        network.summed = nn.Conv2d(1, network.summed.out_channels, 3, 2, 1)  # other weights
        return network

    found = survey(Reduced().eval(), EXAMPLE, rebuild=rebuild)
    assert not found.groups


def test_excluded_layers_are_left_whole() -> None:
    network = _network("resnet")
    found = survey(network, EXAMPLE, exclude=["trunk.network.layer2", "*.layer3.0.conv1"])
    names = {name for g in found.groups for name in g.convolutions}
    assert not any("layer2" in n or "layer3.0.conv1" in n for n in names)
    assert names
    assert {left.why for left in found.whole} == {"excluded by the plan"}
    with pytest.raises(InputError, match=r"exclude names 'layer2', in which .* are trunk\.network\.conv1"):
        survey(network, EXAMPLE, exclude=["layer2"])


def test_a_compiled_network_is_pruned_as_itself() -> None:
    network = _network("sequential, batch norm")
    compiled = torch.compile(network, backend="eager")
    (group, *_) = survey(compiled, EXAMPLE).groups
    remove(compiled, EXAMPLE, {group.root: (0, 5)})
    assert network[0].out_channels == 10
    assert removal.outputs(compiled, IMAGES)[0].shape == (2, 3)


def test_an_image_that_the_network_does_not_take_is_named() -> None:
    with pytest.raises(InputError, match=r"does not take an image of \(1, 3, 64, 64\)"):
        survey(_network("resnet"), torch.zeros(1, 3, 64, 64))
