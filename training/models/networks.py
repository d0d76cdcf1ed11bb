"""Registry of networks: a `NetworkSpec` in, an untrained network (trunk and head, or segmenter) out.

A spec is JSON and complete: with `shapes`, the channel counts after pruning, it rebuilds the network, so that no network is
pickled. Trunks are timm's where timm has the design.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import timm
from timm.models.densenet import DenseNet
from timm.models.resnet import Bottleneck, ResNet
from timm.models.vgg import VGG
from torch import Tensor, nn

from cxr_edge.errors import InputError
from training.models.covid_net import CovidNet, CovidTrunk
from training.models.custom import FILTERS, custom_trunk
from training.models.head import HEADS, CamHead, MemberOutput, TaskHead
from training.models.members import ARCHITECTURES, build_member
from training.models.nasnet import nasnet_mobile_trunk
from training.models.shapes import Shapes, resize, shapes_of
from training.models.torchvision_trunk import PREFIX, TorchvisionTrunk, is_torchvision_name
from training.models.unet import LungUNet

__all__ = [
    "COVID_NETS",
    "FLANNEL_NAMES",
    "GRAY_ONLY",
    "HEADS",
    "R20_NAMES",
    "SEGMENTERS",
    "Network",
    "NetworkSpec",
    "build",
    "is_known",
    "names",
    "rebuilt",
    "takes_head",
]

# Our name -> timm's name. Cut at the deepest convolution, as R20 does.
_R20: Mapping[str, str] = {
    "vgg16": "vgg16",
    "vgg19": "vgg19",
    "inception-v3": "inception_v3",
    "xception": "legacy_xception",
    "inception-resnet-v2": "inception_resnet_v2",
    "mobilenet-v2": "mobilenetv2_100",
    "densenet201": "densenet201",
}
# In the order of FLANNEL's code, by which the weight module's inputs are numbered.
_FLANNEL: Mapping[str, str] = {
    "densenet161": "densenet161",
    "inception-v3": "inception_v3",
    "resnet152": "resnet152",
    "resnext101": "resnext101_32x8d",
    "vgg19-bn": "vgg19_bn",
}
_TIMM = {**_R20, **_FLANNEL, "efficientnet-b4": "efficientnet_b4"}
# COVID-Net's widths are divided by this, and its maps flattened from a grid of this side.
COVID_NETS: Mapping[str, tuple[int, int]] = {"covid-net": (1, 7), "narrow-covid-net": (8, 3)}

# Lung segmenters by their channels per level: ours, and the papers' width (slower than all members together).
SEGMENTERS: Mapping[str, tuple[int, ...]] = {
    "lung-unet": (16, 16, 32, 48, 64),
    "lung-unet-64": (64, 128, 256, 512, 1024),
}
# The starter's members.
GRAY_ONLY = tuple(ARCHITECTURES)
R20_NAMES = ("custom", *_R20, "nasnet-mobile")
FLANNEL_NAMES = tuple(_FLANNEL)

# VGG-16's layout at a quarter of its width, with batch norm: small enough to train from scratch on two cores.
_NARROW_VGG = (16, 16, "M", 32, 32, "M", 64, 64, 64, "M", 128, 128, 128, "M", 128, 128, 128, "M")


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """Complete description of a network."""

    # A name of `names()`, or `timm:NAME` or `torchvision:NAME` for any other convolutional network of theirs.
    architecture: str
    labels: int  # number of outputs
    channels: int = 1  # of the input, 1 or 3
    # Maps of R20's head convolution; 0 for none, as in FLANNEL's learners. The custom CNN and the starter's members never have
    # one; COVID-Net with 0 has the dense layers of its paper.
    head_maps: int = 1024
    dropout: float = 0.5  # before the dense layer
    shapes: Shapes = field(default_factory=dict)  # name -> shape of the weights that pruning made smaller
    # Of the custom CNN: `relu`, `elu` or `leaky-relu`. Without ReLU it has no exact zeros and cannot be pruned by APoZ.
    activation: str = "relu"
    head: str = "conv-3x3"  # R20's head convolution, a name of `HEADS`

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object that `from_json` reads."""
        return {**asdict(self), "shapes": {k: list(v) for k, v in self.shapes.items()}}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> NetworkSpec:
        """Read the JSON object of `as_json`."""
        return cls(**{**values, "shapes": {k: tuple(v) for k, v in values["shapes"].items()}})


# VGG's dense layers of 4096, which are removed from its trunk, are created this thin: 100 million random numbers take seconds.
_THIN = 1 / 4096


class Network(nn.Module):
    """Trunk and head: (N, channels, S, S) -> logits and class activation map."""

    def __init__(self, trunk: nn.Module, head: CamHead) -> None:
        super().__init__()
        self.trunk, self.head = trunk, head

    def forward(self, image: Tensor) -> MemberOutput:
        output: MemberOutput = self.head(self.trunk(image))
        return output


class TimmTrunk(nn.Module):
    """A network of timm without its classifier; returns the feature map (N, C, h, w)."""

    def __init__(self, network: Any) -> None:  # timm's modules have no types
        super().__init__()
        for name in ("pre_logits", "head", "global_pool", "fc", "last_linear", "classifier", "classif", "head_drop"):
            if isinstance(getattr(network, name, None), nn.Module):
                setattr(network, name, nn.Identity())
        self.network = network
        self.maps = int(network.num_features)

    def forward(self, image: Tensor) -> Tensor:
        maps: Tensor = self.network.forward_features(image)
        return maps


def names() -> tuple[str, ...]:
    """Return the names of the architectures, without `timm:NAME` and `torchvision:NAME`."""
    return tuple(dict.fromkeys((*R20_NAMES, *_TIMM, *_OWN, *COVID_NETS, *ARCHITECTURES)))


def is_known(architecture: str) -> bool:
    """Return whether `build` knows the name."""
    of_timm = architecture.startswith("timm:") and timm.is_model(architecture[5:])
    return architecture in names() or of_timm or is_torchvision_name(architecture)


def takes_head(architecture: str) -> bool:
    """Return whether the architecture can have R20's head convolution."""
    return architecture not in ("custom", *GRAY_ONLY, *SEGMENTERS)


def build(spec: NetworkSpec) -> nn.Module:
    """Return a network with random weights, resized to `spec.shapes`. Raises InputError for an unknown name."""
    network = _create(spec)
    resize(network, spec.shapes)
    return network


def rebuilt(network: nn.Module, spec: NetworkSpec) -> nn.Module:
    """Return the network as it comes back from its files: built again, resized, with the same weights.

    Raises BundleError or RuntimeError if it does not fit: a layer became smaller in a way that shapes do not tell.
    """
    fresh = build(replace(spec, shapes={}))
    before = shapes_of(fresh)
    resize(fresh, {name: shape for name, shape in shapes_of(network).items() if shape != before.get(name)})
    fresh.load_state_dict(network.state_dict())
    return fresh.eval()


def _create(spec: NetworkSpec) -> nn.Module:
    name = spec.architecture
    if spec.activation != "relu" and name != "custom":
        raise InputError(f"only the custom CNN takes another activation than relu; got {spec.activation} for {name}")
    if name in SEGMENTERS:
        return LungUNet(SEGMENTERS[name])
    if name in GRAY_ONLY:
        if spec.channels != 1:
            raise InputError(f"{name} takes one gray channel, not {spec.channels}")
        return build_member(name, spec.labels)
    if name in COVID_NETS and not spec.head_maps:
        narrower, grid = COVID_NETS[name]
        return CovidNet(spec.channels, spec.labels, narrower=narrower, grid=grid)
    if name == "custom":
        return Network(
            custom_trunk(spec.channels, activation=spec.activation), CamHead(FILTERS[-1], spec.labels, spec.dropout)
        )
    trunk, maps = _trunk(name, spec.channels)
    if not spec.head_maps:
        return Network(trunk, CamHead(maps, spec.labels, spec.dropout))
    return Network(trunk, TaskHead(maps, spec.head_maps, spec.labels, spec.dropout, kind=spec.head))


def _trunk(name: str, channels: int) -> tuple[nn.Module, int]:
    if name in COVID_NETS:
        covid = CovidTrunk(channels, narrower=COVID_NETS[name][0])
        return covid, covid.maps
    if name in _OWN:
        return _OWN[name](channels)
    if is_torchvision_name(name):
        torchvision = TorchvisionTrunk(name.removeprefix(PREFIX), channels)
        return torchvision, torchvision.maps
    known = _TIMM.get(name) or name.removeprefix("timm:")
    if not is_known(name):
        raise InputError(
            f"no architecture is called {name!r}: choose from {', '.join(names())}, timm:NAME or torchvision:NAME"
        )
    thin = {"mlp_ratio": _THIN} if known.startswith("vgg") else {}
    network = timm.create_model(known, pretrained=False, num_classes=0, global_pool="", in_chans=channels, **thin)
    trunk = TimmTrunk(network)
    return trunk, trunk.maps


def _narrow_vgg(channels: int) -> tuple[nn.Module, int]:
    network = VGG(
        list(_NARROW_VGG),
        num_classes=0,
        in_chans=channels,
        global_pool="",
        norm_layer=nn.BatchNorm2d,
        mlp_ratio=_THIN,
    )
    trunk = TimmTrunk(network)
    return trunk, trunk.maps


def _narrow_resnet(channels: int, *, cardinality: int = 1, base_width: int = 64) -> tuple[nn.Module, int]:
    network = ResNet(
        Bottleneck,
        (1, 1, 1, 1),
        num_classes=0,
        in_chans=channels,
        global_pool="",
        stem_width=16,
        channels=(16, 32, 64, 128),
        cardinality=cardinality,
        base_width=base_width,
    )
    trunk = TimmTrunk(network)
    return trunk, trunk.maps


def _narrow_resnext(channels: int) -> tuple[nn.Module, int]:
    return _narrow_resnet(channels, cardinality=8, base_width=16)


def _narrow_densenet(channels: int) -> tuple[nn.Module, int]:
    network = DenseNet(16, (2, 3, 4, 3), num_classes=0, in_chans=channels, global_pool="", bn_size=2)
    trunk = TimmTrunk(network)
    return trunk, trunk.maps


_OWN: Mapping[str, Callable[[int], tuple[nn.Module, int]]] = {
    "nasnet-mobile": nasnet_mobile_trunk,
    "narrow-vgg": _narrow_vgg,
    "narrow-resnet": _narrow_resnet,
    "narrow-resnext": _narrow_resnext,
    "narrow-densenet": _narrow_densenet,
}
