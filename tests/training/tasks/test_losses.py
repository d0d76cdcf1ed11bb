"""Loss functions compared with hand calculations: partial labels, masks with unknown pixels, focal loss and its limits."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from training.recipes.config import Config
from training.tasks.losses import focal_loss, mask_loss, partial_label_loss

LABELS = ("normal", "bacterial", "viral", "covid-19")
CLOSE = 1e-6
GAMMAS = (0.0, 0.5, 1.0, 3.0, 10.0)
ONES = torch.ones(4)


def test_one_possible_label_is_cross_entropy() -> None:
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    truth = torch.tensor([0, 1, 2, 3, 0])
    allowed = torch.nn.functional.one_hot(truth, 4).bool()
    expected = torch.nn.functional.cross_entropy(logits, truth)
    torch.testing.assert_close(partial_label_loss(logits, allowed, smoothing=0.0), expected)
    smooth = torch.nn.functional.cross_entropy(logits, truth, label_smoothing=0.1)
    torch.testing.assert_close(partial_label_loss(logits, allowed, smoothing=0.1), smooth)


def test_several_possible_labels_add_their_probabilities() -> None:
    logits = torch.log(torch.tensor([[0.1, 0.2, 0.3, 0.4]]))
    allowed = torch.tensor([[False, True, True, False]])
    assert partial_label_loss(logits, allowed, smoothing=0.0).item() == pytest.approx(-math.log(0.5))


def test_the_loss_does_not_prefer_one_of_the_possible_labels() -> None:
    one = torch.log(torch.tensor([[0.1, 0.4, 0.1, 0.4]]))
    other = torch.log(torch.tensor([[0.1, 0.1, 0.4, 0.4]]))
    allowed = torch.tensor([[False, True, True, False]])
    loss = [partial_label_loss(x, allowed, smoothing=0.0).item() for x in (one, other)]
    assert loss[0] == pytest.approx(loss[1])


def test_tuberculosis_is_any_abnormal_label_except_covid() -> None:
    target = Config().target
    assert target.target_mask("tuberculosis").tolist() == [False, True, True, False]
    assert target.label_index("tuberculosis") == -1
    assert not target.target_mask("other").any()
    assert target.target_mask("covid-19").tolist() == [False, False, False, True]
    assert target.label_index("covid-19") == 3


def test_mask_loss_by_hand() -> None:
    logits = torch.zeros(1, 1, 1, 2)
    lung, known = torch.tensor([[[[1.0, 0.0]]]]), torch.ones(1, 1, 1, 2)
    # BCE is log 2; Dice with the added ones is (2 * 0.5 + 1) / (1 + 1 + 1).
    assert mask_loss(logits, lung, known).item() == pytest.approx(math.log(2) + 1 - 2 / 3)


def test_unknown_pixels_do_not_count() -> None:
    known = torch.tensor([[[[1.0, 0.0]]]])
    losses = [
        mask_loss(torch.tensor([[[[2.0, unsure]]]]), torch.tensor([[[[1.0, 0.0]]]]), known).item()
        for unsure in (-9.0, 9.0)
    ]
    assert losses[0] == pytest.approx(losses[1])


def _random_logits(images: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(images, 4, generator=source, dtype=dtype)
    return logits.requires_grad_(), torch.randint(0, 4, (images,), generator=source)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_focal_loss_of_alpha_1_and_gamma_0_is_cross_entropy(reduction: str) -> None:
    logits, truth = _random_logits(32)
    expected = torch.nn.functional.cross_entropy(logits, truth, reduction=reduction)
    actual = focal_loss(logits, truth, alpha=ONES, gamma=0.0, reduction=reduction)
    torch.testing.assert_close(actual, expected, rtol=CLOSE, atol=CLOSE)
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in (actual, expected)]
    torch.testing.assert_close(*gradients, rtol=CLOSE, atol=CLOSE)


def test_focal_loss_by_hand() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.1, 0.1], [0.2, 0.2, 0.2, 0.4]]))
    alpha = torch.tensor([2.0, 1.0, 1.0, 0.25])
    first, second = 2 * 0.5**3 * -math.log(0.5), 0.25 * 0.6**3 * -math.log(0.4)
    for reduction, expected in (("sum", first + second), ("mean", (first + second) / 2)):
        loss = focal_loss(logits, torch.tensor([0, 3]), alpha=alpha, gamma=3.0, reduction=reduction)
        assert loss.item() == pytest.approx(expected, rel=CLOSE)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_the_focal_gradient_is_correct(gamma: float) -> None:
    logits, truth = _random_logits(6, torch.float64)
    alpha = torch.tensor([2.0, 0.5, 1.0, 7.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: focal_loss(x, truth, alpha=alpha, gamma=gamma), (logits,))


@pytest.mark.parametrize("gamma", [0.5, 3.0, 10.0])
def test_focal_loss_is_finite_for_extreme_logits(gamma: float) -> None:
    # By steps through where 1 - p leaves the normal numbers (87 to 103), and far beyond.
    for sure in (*range(10, 121), 1e3, 1e4):
        for right in (True, False):
            logits = torch.tensor([[float(sure), 0.0, -1.0, 0.5]], requires_grad=True)
            loss = focal_loss(logits, torch.tensor([0 if right else 1]), alpha=ONES, gamma=gamma)
            (gradient,) = torch.autograd.grad(loss, logits)
            assert torch.isfinite(loss), f"{sure}, {right}"
            assert torch.isfinite(gradient).all(), f"{sure}, {right}"
            if right:
                assert 0 <= loss.item() < 1e-4
            else:
                assert loss.item() == pytest.approx(sure, rel=1e-2)
                assert gradient[0, 1].item() == pytest.approx(-1, rel=1e-2), "what is surely wrong is learnt from"


@pytest.mark.parametrize("gamma", GAMMAS[1:])
def test_a_confident_correct_prediction_has_a_small_gradient(gamma: float) -> None:
    def gradient(sure: float, dtype: torch.dtype) -> Tensor:
        logits = torch.tensor([[sure, 0.0, 0.5, -0.5]], dtype=dtype, requires_grad=True)
        loss = focal_loss(logits, torch.tensor([0]), alpha=ONES.to(dtype), gamma=gamma)
        return torch.autograd.grad(loss, logits)[0].double()

    exact = gradient(8.0, torch.float64)
    assert exact[0, 0] < 0 < exact[0, 1]
    torch.testing.assert_close(gradient(8.0, torch.float32), exact, rtol=1e-3, atol=0)
    if gamma <= 3:  # else it is below the smallest number, as it should be
        assert (gradient(20.0, torch.float32) != 0).any()


def test_larger_gamma_reduces_the_weight_of_easy_images() -> None:
    easy, hard = torch.log(torch.tensor([[[0.9, 0.1]], [[0.1, 0.9]]]))
    truth, alpha = torch.tensor([0]), torch.ones(2)
    losses = [[focal_loss(x, truth, alpha=alpha, gamma=g).item() for x in (easy, hard)] for g in GAMMAS]
    for one, next_one in pairwise(losses):
        assert next_one[0] < one[0]
        assert next_one[0] / next_one[1] < one[0] / one[1]
    assert losses[-1][1] > 0.3 * losses[0][1], "the hard one's loss is nearly what it was"


@pytest.mark.parametrize("gamma", GAMMAS)
def test_the_sum_is_the_mean_times_the_number_of_images(gamma: float) -> None:
    logits, truth = _random_logits(17)
    alpha = torch.tensor([2.0, 0.5, 1.0, 7.0])
    mean, total = (focal_loss(logits, truth, alpha=alpha, gamma=gamma, reduction=r) for r in ("mean", "sum"))
    assert total.item() == pytest.approx(17 * mean.item(), rel=CLOSE)
