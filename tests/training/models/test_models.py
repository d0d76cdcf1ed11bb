"""Networks: shapes, sizes, and the identity of activation map and logits on which heat maps depend."""

from __future__ import annotations

import pytest
import torch

from training.models import ARCHITECTURES, GaussianDropout, LungUNet, build_member

SIZES = {"plain": 368_100, "inverted": 222_460, "inception": 330_420}  # parameters, four labels


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_logits_are_the_mean_of_the_map_plus_bias(name: str) -> None:
    torch.manual_seed(0)
    member = build_member(name, 4).eval()
    torch.nn.init.normal_(member.head.bias)
    with torch.no_grad():
        logits, cam = member(torch.randn(2, 1, 64, 64))
    assert logits.shape == (2, 4)
    assert cam.shape == (2, 4, 4, 4)
    torch.testing.assert_close(logits, cam.mean(dim=(2, 3)) + member.head.bias)


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_sizes(name: str) -> None:
    assert sum(p.numel() for p in build_member(name, 4).parameters()) == SIZES[name]


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_every_parameter_has_a_gradient(name: str) -> None:
    torch.manual_seed(0)
    member = build_member(name, 3)
    member(torch.randn(4, 1, 64, 64)).logits.square().sum().backward()
    silent = [n for n, p in member.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


def test_the_error_for_an_unknown_architecture_lists_the_known() -> None:
    with pytest.raises(ValueError, match="plain"):
        build_member("resnet", 4)


def test_the_segmenter_has_one_output_per_pixel() -> None:
    unet = LungUNet().eval()
    with torch.no_grad():
        assert unet(torch.randn(2, 1, 64, 64)).shape == (2, 1, 64, 64)
    assert sum(p.numel() for p in unet.parameters()) == 238_625


def test_gaussian_dropout_has_the_moments_of_keras() -> None:
    torch.manual_seed(0)
    noisy = GaussianDropout(0.2).train()(torch.ones(8, 16, 32, 32).to(memory_format=torch.channels_last))
    assert noisy.mean().item() == pytest.approx(1.0, abs=0.01)
    assert noisy.var().item() == pytest.approx(0.25, abs=0.01)


def test_gaussian_dropout_is_the_identity_in_evaluation() -> None:
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(GaussianDropout(0.2).eval()(x), x)
    with pytest.raises(ValueError, match="rate"):
        GaussianDropout(1.0)
