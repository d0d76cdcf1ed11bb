"""Zeros of channels at the edges of the rules: each case fails if one condition of `training.pruning.apoz` is changed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from cxr_edge.errors import InputError
from training.pruning.apoz import zero_shares


class Network(nn.Module):
    """A convolution that copies its image into two channels, the second negated, and what follows."""

    def __init__(self, after: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1, bias=False)
        self.conv.weight.data[:] = torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1)
        self.after = after

    def forward(self, image: Tensor) -> Tensor:
        return self.after(self.conv(image))


def shares(after: Callable[[Tensor], Tensor], *batches: Tensor) -> list[float]:
    found: list[float] = zero_shares(Network(after), batches or (torch.ones(3, 1, 4, 4),))["conv"].tolist()
    return found


def test_one_value_is_a_share() -> None:
    assert shares(torch.relu, torch.ones(1, 1, 1, 1)) == [0.0, 1.0]


def test_an_activation_of_no_image_of_channels_is_not_counted() -> None:
    assert shares(lambda x: x.mean((2, 3)).relu()) == [0.0, 0.0]


def test_channels_in_another_order_are_not_counted() -> None:
    assert shares(lambda x: torch.channel_shuffle(x, 2).relu()) == [0.0, 0.0]


def test_only_the_first_activation_counts_in_place_too() -> None:
    assert shares(lambda x: (x.relu_() + 1).relu()) == [0.0, 1.0]


def test_a_tensor_twice_in_a_sum_counts_once() -> None:
    """Of two activations, one is zero: half of the values of the first channel."""
    assert shares(lambda x: (x + x).relu() + (x - 10).relu()) == [0.5, 1.0]


def test_empty_batches_are_no_images() -> None:
    images, none = torch.ones(3, 1, 4, 4), torch.ones(0, 1, 4, 4)
    assert shares(torch.relu, images, none) == [0.0, 1.0]
    with pytest.raises(InputError, match="no images to count zeros on"):
        shares(torch.relu, none)


def test_a_network_without_convolutions_has_no_shares() -> None:
    assert zero_shares(nn.Flatten(), [torch.ones(1, 1, 2, 2)]) == {}


class Branches(nn.Module):
    """Three convolutions of one channel, whose outputs are 1, -1 and 1 for an image of ones, and what follows."""

    def __init__(self, after: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.convs = nn.ModuleDict({name: nn.Conv2d(1, 1, 1, bias=False) for name in "abc"})
        for name, value in {"a": 1.0, "b": -1.0, "c": 1.0}.items():
            nn.init.constant_(self.convs[name].weight, value)  # type: ignore[arg-type]
        self.after = after

    def forward(self, image: Tensor) -> Tensor:
        return self.after(*(conv(image) for conv in self.convs.values()))


def shares_of(after: Callable[[Tensor, Tensor, Tensor], Tensor]) -> list[float]:
    found = zero_shares(Branches(after), [torch.ones(2, 1, 4, 4)])
    return [float(found[f"convs.{name}"][0]) for name in "abc"]


@pytest.mark.parametrize(
    "joined",
    [
        lambda a, b: torch.cat((a, b), 1),
        lambda a, b: torch.cat(tensors=(a, b), dim=-3),
        lambda a, b: torch.concatenate((a, b), axis=1),
    ],
)
def test_branches_side_by_side_count_for_their_own_convolutions(joined: Callable[[Tensor, Tensor], Tensor]) -> None:
    assert shares_of(lambda a, b, c: joined(a, b).relu()) == [0.0, 1.0, 0.0]


@pytest.mark.parametrize("dim", [{}, {"dim": 0}, {"dim": 2}, {"dim": 3}, {"dim": -4}])
def test_tensors_in_a_row_count_for_the_first_known_convolution(dim: dict[str, int]) -> None:
    """Half of the values are those of `b`, which are zero; the constants before it have no convolution."""
    assert shares_of(lambda a, b, c: torch.cat((torch.ones_like(b), b, c), **dim).relu()) == [
        0.0,
        pytest.approx(1 / 3),
        0.0,
    ]


def test_a_branch_beside_a_sum_counts_once() -> None:
    """`b` has two activations: beside the sum of a and c, where it is zero, and alone and raised, where it is not."""
    found = shares_of(lambda a, b, c: torch.cat((a + c, b), 1).relu() + (b + 5).relu())
    assert found == [0.0, 0.5, 0.0]
