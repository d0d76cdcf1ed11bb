"""COVID-Net, a baseline of FLANNEL's Table 3: projection-expansion-projection-extension blocks with long-range sums.

Wang, Lin, Wong, "COVID-Net" (arXiv 2003.09871, later Scientific Reports 10): a 7x7 convolution; four stages of PEPX blocks
with a parallel 1x1 convolution, where the input of a block is the sum of all previous outputs of its stage; dense layers of
1024 and 256 on the flattened maps. The text gives neither the positions of the activations nor whether there is batch norm:
here both follow every convolution, except that the last one of a block and the 1x1, which are summed, have batch norm only.
It does not give a block's inner widths either: they are those of the public PyTorch code (github.com/iliasprc/COVIDNet), to
the last parameter. The authors publish trained graphs, whose totals (117.4 and 127.4 million, compared with 134.6) have other
widths that no text gives. `CovidTrunk` is the network for another head, such as R20's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.models.head import MemberOutput

__all__ = ["CovidNet", "CovidTrunk"]

_STEM = 64
_STAGES = ((256, 3), (512, 4), (1024, 6), (2048, 3))  # maps, PEPX blocks
_DENSE = (1024, 256)
_GRID = 7  # of the flattened maps: 224 px / 32


def _conv(ins: int, outs: int, kernel: int = 1, *, groups: int = 1, stride: int = 1, relu: bool = True) -> nn.Module:
    layers: list[nn.Module] = [
        nn.Conv2d(ins, outs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outs),
    ]
    return nn.Sequential(*layers, nn.ReLU(inplace=True)) if relu else nn.Sequential(*layers)


class Pepx(nn.Module):
    """Project to half, expand to three quarters, depthwise 3x3, project to half, extend to `outs`."""

    def __init__(self, ins: int, outs: int) -> None:
        super().__init__()
        half, wide = ins // 2, 3 * ins // 4
        self.layers = nn.Sequential(
            _conv(ins, half),
            _conv(half, wide),
            _conv(wide, wide, 3, groups=wide),
            _conv(wide, half),
            _conv(half, outs, relu=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.layers(x)
        return maps


class _Stage(nn.Module):
    """Blocks and the parallel 1x1 convolution; returns the sum of all."""

    def __init__(self, ins: int, outs: int, blocks: int) -> None:
        super().__init__()
        self.beside = _conv(ins, outs, relu=False)
        self.blocks = nn.ModuleList(Pepx(ins if k == 0 else outs, outs) for k in range(blocks))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        total = self.beside(x)
        for k, block in enumerate(self.blocks):
            total = total + block(x if k == 0 else self.relu(total))
        maps: Tensor = self.relu(total)
        return maps


class CovidTrunk(nn.Module):
    """Convolutional part: (N, channels, S, S) -> maps of the last stage (N, maps, S/32, S/32).

    narrower: divisor of all widths; 1 for the published network.
    """

    def __init__(self, channels: int, *, narrower: int = 1) -> None:
        super().__init__()
        stem = _STEM // narrower
        widths = [stem, *(maps // narrower for maps, _ in _STAGES)]
        self.maps = widths[-1]
        self.stem = _conv(channels, stem, 7, stride=2)
        self.stages = nn.ModuleList(
            _Stage(ins, outs, blocks) for ins, outs, (_, blocks) in zip(widths, widths[1:], _STAGES, strict=False)
        )
        self.pool = nn.MaxPool2d(2)

    def forward(self, image: Tensor) -> Tensor:
        x: Tensor = self.stem(image)
        for stage in self.stages:
            x = stage(self.pool(x))
        return x


class CovidNet(CovidTrunk):
    """Full network: (N, channels, S, S) -> logits; without a class activation map, since dense layers mix positions.

    narrower: as of the trunk.
    grid: side of the flattened maps; 3 (112 px) for the narrow network. Maps of another side are averaged to it, so that any
    S from 32 on is valid.
    """

    def __init__(self, channels: int, labels: int, *, narrower: int = 1, grid: int = _GRID) -> None:
        super().__init__(channels, narrower=narrower)
        self.to_grid = nn.AdaptiveAvgPool2d(grid)
        first, second = (n // narrower for n in _DENSE)
        self.dense = nn.Sequential(
            nn.Linear(self.maps * grid * grid, first),
            nn.ReLU(inplace=True),
            nn.Linear(first, second),
            nn.ReLU(inplace=True),
            nn.Linear(second, labels),
        )

    # A trunk by inheritance, so that its weights keep their names.
    def forward(self, image: Tensor) -> MemberOutput:  # type: ignore[override]
        return MemberOutput(self.dense(torch.flatten(self.to_grid(super().forward(image)), 1)), None)
