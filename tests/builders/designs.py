"""Networks of many designs at tiny width, for tests of pruning: timm's classes with small arguments, and what users write."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from training.models.head import CamHead
from training.models.networks import Network, TimmTrunk

SIDE_PX = 64


def _timm(name: str, **arguments: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        trunk = TimmTrunk(timm.create_model(name, num_classes=0, global_pool="", in_chans=1, **arguments))
        return Network(trunk, CamHead(trunk.maps, 3, 0.0))

    return make


_ONE = {"layers": (1, 1, 1, 1)}
_BASIC = {**_ONE, "channels": (8, 16, 16, 24)}
_BOTTLENECK = {**_ONE, "channels": (8, 8, 16, 16)}


class Shuffled(nn.Module):
    """ShuffleNet's unit: split, two convolutions on one half, concatenation, channel shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, 2, 1)
        self.branch = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU())
        self.last = nn.Conv2d(16, 24, 1)
        self.map = nn.Conv2d(24, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept, changed = self.stem(x).relu().chunk(2, dim=1)
        x = functional.channel_shuffle(torch.cat((kept, self.branch(changed)), dim=1), 2)
        return self.map(self.last(x).relu()).mean((2, 3))


class Attentive(nn.Module):
    """CBAM: a channel gate, then a spatial gate from the mean and the maximum over the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner = nn.Conv2d(1, 16, 3, 2, 1), nn.Conv2d(16, 12, 3, padding=1)
        self.down, self.up = nn.Linear(12, 4), nn.Linear(4, 12)
        self.spatial, self.map = nn.Conv2d(2, 1, 3, padding=1), nn.Conv2d(12, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(self.stem(x).relu()).relu()
        x = x * self.up(self.down(x.mean((2, 3))).relu()).sigmoid()[:, :, None, None]
        x = x * self.spatial(torch.cat((x.mean(1, keepdim=True), x.amax(1, keepdim=True)), 1)).sigmoid()
        return self.map(x).mean((2, 3))


class Tied(nn.Module):
    """One convolution called twice, and two that share a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.twice = nn.Conv2d(1, 12, 3, 2, 1), nn.Conv2d(12, 12, 3, padding=1)
        self.first, self.second = nn.Conv2d(12, 12, 1, bias=False), nn.Conv2d(12, 12, 1, bias=False)
        self.second.weight = self.first.weight
        self.free, self.map = nn.Conv2d(12, 10, 1), nn.Conv2d(10, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.twice(self.twice(self.stem(x).relu()).relu()).relu()
        return self.map(self.free(self.second(self.first(x).relu()).relu()).relu()).mean((2, 3))


class Reduced(nn.Module):
    """A sum over channels, a softmax over channels and a local response norm: what removal changes, though all shapes fit."""

    def __init__(self) -> None:
        super().__init__()
        self.summed, self.soft, self.norm = (nn.Conv2d(1, 8, 3, 2, 1) for _ in range(3))
        self.response, self.free = nn.LocalResponseNorm(3), nn.Conv2d(1, 8, 3, 2, 1)
        self.last, self.map = nn.Conv2d(24, 9, 1), nn.Conv2d(9, 3, 1)
        self.scale = nn.Conv2d(1, 9, 1)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.scale(self.summed(x).relu().mean(1, keepdim=True))
        x = torch.cat((self.free(x).relu(), self.soft(x).softmax(1), self.response(self.norm(x).relu())), 1)
        return self.map(self.last(x).relu() + scale).mean((2, 3))


def _plain(norm: Callable[[int], nn.Module], activation: Callable[[], nn.Module] = nn.ReLU) -> Callable[[], nn.Module]:
    """A user's Sequential with a dense end on flattened maps."""

    def make() -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(1, 12, 3, 2, 1), norm(12), activation(), nn.Conv2d(12, 24, 3, 2, 1), norm(24), activation()),
            *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(96, 16), nn.ReLU(), nn.Linear(16, 3)),
        )

    return make


def _transposed() -> nn.Module:
    up = nn.ConvTranspose2d(16, 12, 2, 2)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), up, nn.ReLU(), nn.Conv2d(12, 8, 1), nn.ReLU(), nn.Conv2d(8, 1, 1)
    )


DESIGNS: Mapping[str, Callable[[], nn.Module]] = {
    "resnet": _timm("resnet10t", **_BASIC, stem_width=4),
    "resnet bottleneck": _timm("resnet26", **_BOTTLENECK),
    "resnext": _timm("resnet26", **_BOTTLENECK, cardinality=4, base_width=32),
    "se-resnet": _timm("seresnet18", **_BASIC),
    "eca-resnet": _timm("ecaresnet26t", **_BOTTLENECK),
    "resnet with blur": _timm("resnetblur18", **_BASIC),
    "resnet-rs": _timm("resnetrs50", **_BOTTLENECK),
    "sknet": _timm("skresnet18", **_ONE, channels=(16, 16, 16, 24)),
    "resnest": _timm("resnest14d", **_BOTTLENECK, stem_width=8),
    "res2net": _timm("res2net50_26w_4s", **_BOTTLENECK, base_width=26),
    "resnet-v2": _timm("resnetv2_18", layers=(1, 1, 1, 1), channels=(8, 16, 16, 24)),
    "vgg": _timm("vgg11", mlp_ratio=1 / 4096),
    "mobilenet-v1": _timm("mobilenetv1_100h"),
    "mobilenet-v2": _timm("mobilenetv2_035"),
    "mobilenet-v3": _timm("mobilenetv3_small_050"),
    "mobilenet-v4": _timm("mobilenetv4_conv_small_035"),
    "mnasnet": _timm("mnasnet_small"),
    "lcnet": _timm("lcnet_035"),
    "tinynet": _timm("tinynet_e"),
    "ghostnet": _timm("ghostnet_050"),
    "repghost": _timm("repghostnet_050"),
    "efficientnet": _timm("test_efficientnet"),
    "efficientnet, group norm": _timm("test_efficientnet_gn"),
    "efficientnet, layer norm": _timm("test_efficientnet_ln"),
    "byobnet": _timm("test_byobnet"),
    "nfnet": _timm("test_nfnet"),
    "convnext": _timm("test_convnext"),
    "regnet-x": _timm("regnetx_002"),
    "regnet-y": _timm("regnety_002"),
    "densenet": _timm("densenet121", growth_rate=8, block_config=(2, 2, 2, 2)),
    "dla": _timm("dla46_c", levels=(1, 1, 1, 2, 1, 1), channels=(8, 8, 16, 16, 16, 24)),
    "vovnet": _timm("ese_vovnet19b_slim_dw"),
    "darknet": _timm("darknet17"),
    "hgnet": _timm("hgnetv2_b0"),
    "repvgg": _timm("repvgg_a0"),
    "edgenext": _timm("edgenext_xx_small", depths=(1, 1, 1, 1), dims=(8, 16, 16, 24), heads=(2, 2, 2, 2)),
    "shuffled": Shuffled,
    "cbam": Attentive,
    "shared weights": Tied,
    "sums over channels": Reduced,
    "transposed": _transposed,
    "sequential, batch norm": _plain(nn.BatchNorm2d),
    "sequential, no norm": _plain(lambda channels: nn.Identity()),
    "sequential, instance norm": _plain(lambda channels: nn.InstanceNorm2d(channels, affine=True)),
    "sequential, group norm": _plain(lambda channels: nn.GroupNorm(4, channels)),
    "sequential, norm without factors": _plain(lambda channels: nn.BatchNorm2d(channels, affine=False)),
    "sequential, prelu": _plain(nn.BatchNorm2d, nn.PReLU),
}
