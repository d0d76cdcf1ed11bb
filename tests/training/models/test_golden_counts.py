"""R20's parameter counts, to the last digit: Table 3 (2 classes) and Table 4 (3 classes), 3 input channels."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from training.models import NetworkSpec, build

# Architecture, classes, parameters with all gammas. The last four: docs/decisions/0004-r20-parameter-counts.md.
COUNTS = [
    ("custom", 2, 47_885),
    ("vgg16", 2, 19_436_354),
    ("vgg16", 3, 19_437_379),
    ("vgg19", 2, 24_746_050),
    ("vgg19", 3, 24_747_075),
    ("inception-v3", 3, 40_664_035),
    ("xception", 2, 39_684_394),
    ("nasnet-mobile", 2, 13_968_148),
    ("timm:densenet121", 2, 16_394_114),  # the table calls it DenseNet-201
    ("timm:mobilenetv1_100", 2, 12_647_234),  # the table calls it MobileNet-V2
    ("densenet201", 2, 35_790_722),  # not in the table
    ("mobilenet-v2", 2, 14_023_426),  # not in the table
]

# Keras' batch norm has no gamma here: architecture, classes, gammas, parameters without them.
WITHOUT_GAMMA = [
    ("inception-v3", 2, 17_216, 40_645_794),
    ("inception-v3", 3, 17_216, 40_646_819),
    ("inception-resnet-v2", 2, 30_272, 68_435_042),
]


def network_of(architecture: str, labels: int) -> nn.Module:
    with torch.device("meta"):  # shapes without memory
        return build(NetworkSpec(architecture=architecture, labels=labels, channels=3))


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


@pytest.mark.parametrize(("architecture", "labels", "expected"), COUNTS)
def test_trainable_parameters(architecture: str, labels: int, expected: int) -> None:
    assert parameters(network_of(architecture, labels)) == expected


@pytest.mark.parametrize(("architecture", "labels", "gammas", "expected"), WITHOUT_GAMMA)
def test_trainable_parameters_as_in_keras(architecture: str, labels: int, gammas: int, expected: int) -> None:
    network = network_of(architecture, labels)
    assert sum(m.weight.numel() for m in network.modules() if isinstance(m, nn.BatchNorm2d)) == gammas
    assert parameters(network) - gammas == expected
