"""Losses by hand: findings known in part, and masks with pixels nobody was sure of."""

from __future__ import annotations

import math

import pytest
import torch

from training.config import Config
from training.losses import allowed_label_loss, mask_loss

LABELS = ("normal", "bacterial", "viral", "covid-19")


def test_one_allowed_label_is_cross_entropy() -> None:
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    truth = torch.tensor([0, 1, 2, 3, 0])
    allowed = torch.nn.functional.one_hot(truth, 4).bool()
    wanted = torch.nn.functional.cross_entropy(logits, truth)
    torch.testing.assert_close(allowed_label_loss(logits, allowed, smoothing=0.0), wanted)
    smooth = torch.nn.functional.cross_entropy(logits, truth, label_smoothing=0.1)
    torch.testing.assert_close(allowed_label_loss(logits, allowed, smoothing=0.1), smooth)


def test_several_allowed_labels_share_the_truth() -> None:
    logits = torch.log(torch.tensor([[0.1, 0.2, 0.3, 0.4]]))
    allowed = torch.tensor([[False, True, True, False]])
    assert allowed_label_loss(logits, allowed, smoothing=0.0).item() == pytest.approx(-math.log(0.5))


def test_among_allowed_labels_the_loss_does_not_choose() -> None:
    one = torch.log(torch.tensor([[0.1, 0.4, 0.1, 0.4]]))
    other = torch.log(torch.tensor([[0.1, 0.1, 0.4, 0.4]]))
    allowed = torch.tensor([[False, True, True, False]])
    loss = [allowed_label_loss(x, allowed, smoothing=0.0).item() for x in (one, other)]
    assert loss[0] == pytest.approx(loss[1])


def test_tuberculosis_is_abnormal_and_not_covid() -> None:
    target = Config().target
    assert target.allowed("tuberculosis").tolist() == [False, True, True, False]
    assert target.truth("tuberculosis") == -1
    assert not target.allowed("other").any()
    assert target.allowed("covid-19").tolist() == [False, False, False, True]
    assert target.truth("covid-19") == 3


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
