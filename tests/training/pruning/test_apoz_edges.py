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
