"""Networks of torchvision as trunks: a name in, the convolutional network without its classifier out.

Parameters keep torchvision's names, so that a state dict of a network trained elsewhere fits. timm has most of the designs, and
with them weights of its hub; this is for those that timm lacks or names otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from cxr_edge.errors import InputError

__all__ = ["PREFIX", "TorchvisionTrunk", "is_torchvision_name"]

PREFIX = "torchvision:"
# Layers of the designs without `features`, in the order in which they compute.
_LAYERS: Mapping[type[nn.Module], tuple[str, ...]] = {
    torchvision.models.ResNet: ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"),
    torchvision.models.RegNet: ("stem", "trunk_output"),
    torchvision.models.ShuffleNetV2: ("conv1", "maxpool", "stage2", "stage3", "stage4", "conv5"),
}
_CLASSIFIERS = ("classifier", "fc", "avgpool", "head")


def is_torchvision_name(architecture: str) -> bool:
    """Return whether the name is that of an image classifier of torchvision, after `torchvision:`."""
    known = torchvision.models.list_models(module=torchvision.models)
    return architecture.startswith(PREFIX) and architecture[len(PREFIX) :] in known


class TorchvisionTrunk(nn.Module):
    """A network of torchvision without its classifier; returns the feature map (N, C, h, w).

    name: of torchvision, such as `shufflenet_v2_x1_0`. Raises InputError for one that has no map at its end.
    """

    def __init__(self, name: str, channels: int) -> None:
        super().__init__()
        network: Any = torchvision.models.get_model(name, weights=None)
        for classifier in _CLASSIFIERS:
            if isinstance(getattr(network, classifier, None), nn.Module):
                setattr(network, classifier, nn.Identity())
        first = next(n for n, m in network.named_modules() if isinstance(m, nn.Conv2d))
        network.pretrained_cfg = {"first_conv": first}
        if channels != 3:
            _replace_first(network, first, channels)
        self.network = network
        self._layers = _layers_of(network, name)
        self._relu = isinstance(network, torchvision.models.DenseNet)  # in its forward, after the features
        self.maps = self._count_maps(name, channels)

    def forward(self, image: Tensor) -> Tensor:
        maps = image
        for layer in self._layers:
            maps = getattr(self.network, layer)(maps)
        return torch.relu(maps) if self._relu else maps

    def _count_maps(self, name: str, channels: int) -> int:
        self.eval()
        with torch.no_grad():
            maps = self(torch.zeros(1, channels, 64, 64))
        self.train()
        if maps.dim() != 4 or maps.shape[2] > 8:
            raise InputError(
                f"{PREFIX}{name} ends in values of shape {tuple(maps.shape)} for an image of 64 x 64, not in maps (N, C, h, w): "
                "choose a convolutional network"
            )
        return int(maps.shape[1])


def _layers_of(network: nn.Module, name: str) -> tuple[str, ...]:
    for kind, layers in _LAYERS.items():
        if isinstance(network, kind):
            return layers
    if not isinstance(getattr(network, "features", None), nn.Module):
        raise InputError(f"{PREFIX}{name} has no part that ends in maps: choose a convolutional network, or timm:NAME")
    return ("features",)


def _replace_first(network: nn.Module, name: str, channels: int) -> None:
    """Replace the first convolution by one of another number of input channels."""
    old = network.get_submodule(name)
    assert isinstance(old, nn.Conv2d)
    new = nn.Conv2d(
        channels,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]  # a pair
        stride=old.stride,  # type: ignore[arg-type]
        padding=old.padding,  # type: ignore[arg-type]
        bias=old.bias is not None,
    )
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, new)
