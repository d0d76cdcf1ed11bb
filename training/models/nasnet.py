"""NASNet-A (4 @ 1056), "NASNet mobile", as a trunk: number of input channels in, a network with 1056 output maps out.

The cells are those of Zoph et al., "Learning Transferable Architectures for Scalable Image Recognition" (CVPR 2018), figure
4; the counts, the stem and the borders are those of Keras' NASNetMobile, which R20 trained: 4,232,978 trainable
parameters for three channels. timm has the large variant only, hence this implementation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["NasNetTrunk", "nasnet_mobile_trunk"]

STEM = 32
FILTERS = 44  # 1056 / 24: per branch in the first of three groups of normal cells; doubled in each next group
CELLS = 4  # normal cells per group


def nasnet_mobile_trunk(channels: int) -> tuple[nn.Module, int]:
    """Return the trunk, (N, channels, S, S) -> (N, 1056, S/32, S/32) after ReLU, and its number of maps. S at least 32."""
    trunk = NasNetTrunk(channels)
    for m in trunk.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, nonlinearity="relu")
    return trunk, trunk.maps


class NasNetTrunk(nn.Module):
    """A strided convolution, two reduction cells, then three groups of normal cells with a reduction cell between them.

    Each cell reads the outputs of the two before it.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, STEM, 3, stride=2, bias=False), _norm(STEM))
        before = x = _Map(maps=STEM, halvings=0)
        cells: list[nn.Module] = []
        for kind, filters in _plan():
            cell = kind(x, None if not cells else before, filters)
            cells.append(cell)
            before, x = x, cell.output
        self.cells = nn.ModuleList(cells)
        self.relu = nn.ReLU()
        self.maps = x.maps

    def forward(self, image: Tensor) -> Tensor:
        before = x = self.stem(image)
        for cell in self.cells:
            before, x = x, cell(x, before)
        maps: Tensor = self.relu(x)
        return maps


@dataclass(frozen=True, kw_only=True)
class _Map:
    """Shape of a feature map when the network is built."""

    maps: int  # channels
    halvings: int  # how often the size was halved


class _NormalCell(nn.Module):
    """Five sums of pairs of branches, concatenated to the adjusted `before`: 6 x filters channels at the size of x."""

    def __init__(self, x: _Map, before: _Map | None, filters: int) -> None:
        super().__init__()
        self.adjust, _ = _adjust(before, x, filters)
        self.squeeze = _squeeze(x.maps, filters)
        self.left1, self.right1 = _separable(filters, filters, 5), _separable(filters, filters, 3)
        self.left2, self.right2 = _separable(filters, filters, 5), _separable(filters, filters, 3)
        self.left5 = _separable(filters, filters, 3)
        self.pool = _same_average()
        self.output = _Map(maps=6 * filters, halvings=x.halvings)

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        p, h = self.adjust(before), self.squeeze(x)
        pooled = self.pool(p)  # the published cell adds this branch to itself
        sums = (
            self.left1(h) + self.right1(p),
            self.left2(p) + self.right2(p),
            self.pool(h) + p,
            pooled + pooled,
            self.left5(h) + h,
        )
        return torch.cat((p, *sums), dim=1)


class _ReductionCell(nn.Module):
    """Cell with half the output size: of five sums the first feeds two others, four are the output, 4 x filters channels."""

    def __init__(self, x: _Map, before: _Map | None, filters: int) -> None:
        super().__init__()
        self.adjust, maps = _adjust(before, x, filters)
        self.squeeze = _squeeze(x.maps, filters)
        self.left1, self.right1 = _separable(filters, filters, 5, 2), _separable(maps, filters, 7, 2)
        self.right2, self.right3 = _separable(maps, filters, 7, 2), _separable(maps, filters, 5, 2)
        self.left5 = _separable(filters, filters, 3)
        self.pad, self.highest, self.average = _HalvingPad(3), nn.MaxPool2d(3, 2), nn.AvgPool2d(3, 2)
        self.pool = _same_average()
        self.output = _Map(maps=4 * filters, halvings=x.halvings + 1)

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        p, h = self.adjust(before), self.squeeze(x)
        padded = self.pad(h)  # with zeros, in the maximum and in the average too, as Keras does
        highest = self.highest(padded)
        first = self.left1(h) + self.right1(p)
        second = highest + self.right2(p)
        third = self.average(padded) + self.right3(p)
        return torch.cat((second, third, second + self.pool(first), self.left5(first) + highest), dim=1)


class _Halve(nn.Module):
    """Halve the size without losing every other pixel: two 1x1 convolutions, on even and on odd positions."""

    def __init__(self, ins: int, outs: int) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.even = nn.Conv2d(ins, outs // 2, 1, stride=2, bias=False)
        self.odd = nn.Conv2d(ins, outs // 2, 1, stride=2, bias=False)
        self.norm = _norm(outs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(x)
        shifted = functional.pad(x[:, :, 1:, 1:], (0, 1, 0, 1))
        halved: Tensor = self.norm(torch.cat((self.even(x), self.odd(shifted)), dim=1))
        return halved


class _HalvingPad(nn.Module):
    """Zero padding as in TensorFlow: a window with stride 2 then gives half the size, rounded up."""

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.after = kernel // 2

    def forward(self, x: Tensor) -> Tensor:
        top, left = (self.after - 1 + int(n) % 2 for n in x.shape[2:])
        return functional.pad(x, (left, self.after, top, self.after))


def _plan() -> Sequence[tuple[type[_NormalCell] | type[_ReductionCell], int]]:
    """Return kind and filters of every cell in order."""
    plan: list[tuple[type[_NormalCell] | type[_ReductionCell], int]] = [(_ReductionCell, FILTERS // 4)]
    for filters in (FILTERS, 2 * FILTERS, 4 * FILTERS):
        # The stem's second reduction cell has half the filters of the following group, the later ones the same number.
        plan.append((_ReductionCell, FILTERS // 2 if filters == FILTERS else filters))
        plan += [(_NormalCell, filters)] * CELLS
    return plan


def _adjust(before: _Map | None, x: _Map, filters: int) -> tuple[nn.Module, int]:
    """Return the module that converts `before` to x's size and to `filters` channels; the first cell reads x twice."""
    if before is None:
        return nn.Identity(), x.maps
    if before.halvings != x.halvings:
        return _Halve(before.maps, filters), filters
    return _squeeze(before.maps, filters), filters


def _squeeze(ins: int, outs: int) -> nn.Sequential:
    return nn.Sequential(nn.ReLU(), nn.Conv2d(ins, outs, 1, bias=False), _norm(outs))


def _separable(ins: int, outs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Return ReLU, separable convolution and batch norm, twice; the first time with the stride."""
    first: list[nn.Module] = [nn.ReLU()]
    if stride == 2:
        first.append(_HalvingPad(kernel))
    padding = 0 if stride == 2 else kernel // 2
    return nn.Sequential(
        *first,
        nn.Conv2d(ins, ins, kernel, stride, padding, groups=ins, bias=False),
        nn.Conv2d(ins, outs, 1, bias=False),
        _norm(outs),
        nn.ReLU(),
        nn.Conv2d(outs, outs, kernel, padding=kernel // 2, groups=outs, bias=False),
        nn.Conv2d(outs, outs, 1, bias=False),
        _norm(outs),
    )


def _same_average() -> nn.AvgPool2d:
    return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)


def _norm(maps: int) -> nn.BatchNorm2d:
    """Return batch norm with Keras' epsilon and torch's momentum: Keras' 3e-4 needs more steps than a small collection has."""
    return nn.BatchNorm2d(maps, eps=1e-3)
