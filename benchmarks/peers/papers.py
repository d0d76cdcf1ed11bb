"""Unpruned ensemble of Rajaraman et al. 2020 in PyTorch, with random weights: for timing, not for predictions.

U-Net with 64 base channels for the lungs; VGG-16, VGG-19 and Inception-V3 trunks with the head that reproduces the
paper's parameter counts (convolution 3x3 to 1024 maps, ReLU, global mean, dense). Needs torch; Inception-V3 also needs
torchvision or timm. Exported to ONNX for the other runtimes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.harness.side_by_side import unavailable_reason
from benchmarks.peers.pipelines import EnsembleSpec
from cxr_edge.specs.combination import Combination
from cxr_edge.specs.lung_box import LungBoxRule
from cxr_edge.specs.preprocess import PRESETS, PreprocessSpec
from training.models import LungUNet

__all__ = ["LABELS", "SPEC", "export", "modules", "trunk", "with_head"]

LABELS = 3

SPEC = EnsembleSpec(
    segmenter=PreprocessSpec(region="frame", canvas_px=256, crop_px=256, standardize="none"),
    lung_box=LungBoxRule(),
    members=(PRESETS["rajaraman-code"],) * 3,
    combination=Combination(
        strategy="weighted-average",
        member_temperatures=(1.0, 1.0, 1.0),
        temperature=1.0,
        parameters={"weights": [0.2, 0.3, 0.5]},
    ),
)

_POOL = 0
_VGG16 = (64, 64, _POOL, 128, 128, _POOL, 256, 256, 256, _POOL, 512, 512, 512, _POOL, 512, 512, 512, _POOL)
_VGG19 = (64, 64, _POOL, 128, 128, _POOL, *(256,) * 4, _POOL, *(512,) * 4, _POOL, *(512,) * 4, _POOL)


class _WithSigmoid(nn.Module):
    """U-Net whose output is a mask in 0..1 instead of logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        return torch.sigmoid(self.network(image))


def modules() -> list[nn.Module]:
    """Return U-Net (1, 256, 256) -> mask, then VGG-16, VGG-19 and Inception-V3 (3, 256, 256) -> logits (3)."""
    torch.manual_seed(0)
    unet = _WithSigmoid(LungUNet(widths=(64, 128, 256, 512, 1024), dropout=0.2))
    members = [with_head(trunk(name), maps) for name, maps in (("vgg16", 512), ("vgg19", 512), ("inception", 2048))]
    return [m.eval() for m in (unet, *members)]


def trunk(name: str) -> nn.Module:
    """Return `vgg16`, `vgg19` or `inception`, up to the last feature maps."""
    if name == "inception":
        return _inception()
    return _vgg({"vgg16": _VGG16, "vgg19": _VGG19}[name])


def _vgg(plan: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    in_channels = 3
    for out_channels in plan:
        if out_channels == _POOL:
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(in_channels, out_channels, 3, padding=1), nn.ReLU(inplace=True)]
            in_channels = out_channels
    return nn.Sequential(*layers)


def _inception() -> nn.Module:
    if unavailable_reason("torchvision") is None:
        from torchvision.models import inception_v3

        network = inception_v3(weights=None, aux_logits=False, transform_input=False, init_weights=False)
        return nn.Sequential(*(m for n, m in network.named_children() if n not in ("avgpool", "dropout", "fc")))
    import timm

    trunk: nn.Module = timm.create_model("inception_v3", pretrained=False, num_classes=0, global_pool="")
    return trunk


def with_head(features: nn.Module, maps: int) -> nn.Module:
    """Append the head to a trunk with `maps` output channels: (N, 3, S, S) -> logits (N, LABELS)."""
    head = [nn.Conv2d(maps, 1024, 3, padding=1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(features, *head, nn.Dropout(0.5), nn.Linear(1024, LABELS))


def export(networks: Sequence[nn.Module], folder: Path) -> list[Path]:
    """Write each network to `folder` as ONNX (fp32, dynamic batch); return the files in the same order."""
    files = []
    specs = [s for s in (SPEC.segmenter, *SPEC.members) if s is not None]
    for i, (network, spec) in enumerate(zip(networks, specs, strict=True)):
        file = folder / f"network-{i}.onnx"
        torch.onnx.export(
            network,
            (torch.zeros(1, *spec.tensor_shape),),
            str(file),
            input_names=["image"],
            output_names=["output"],
            dynamic_axes={"image": {0: "N"}, "output": {0: "N"}},
            opset_version=17,
            dynamo=False,
        )
        files.append(file)
    return files
