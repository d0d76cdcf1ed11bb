"""Figures of the parity check against brute force, and the candidates that it must reject."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr_edge.compiler.parity import (
    TIE,
    Agreement,
    Limits,
    compare_ensemble,
    compare_member,
    compare_segmenter,
    macro_auc,
)
from cxr_edge.specs.lung_box import LungBoxRule

LIMITS = Limits(max_loss=0.01)
RULE = LungBoxRule()


def probabilities(images, labels=4, seed=0):
    logits = np.random.default_rng(seed).normal(0, 2, (images, labels))
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


def shifted(p, image, amount):
    """Move `amount` of probability from an image's top label to its last one."""
    order = p[image].argsort()
    other = p.copy()
    other[image, order[-1]] -= amount
    other[image, order[0]] += amount
    return other


@given(st.integers(0, 1000), st.integers(5, 30))
def test_auc_equals_counting_pairs(seed, images):
    rng = np.random.default_rng(seed)
    p = probabilities(images, 3, seed).round(1)  # rounded, so that ties occur
    truth = rng.integers(0, 3, images)
    values = []
    for label in np.unique(truth):
        pairs = [(a > b) + 0.5 * (a == b) for a in p[truth == label, label] for b in p[truth != label, label]]
        values.append(np.mean(pairs) if pairs else None)
    expected = None if None in values else np.mean(values)
    assert macro_auc(p, truth) == (None if expected is None else pytest.approx(expected))


def test_a_member_passes_against_itself():
    p = probabilities(60)
    result = compare_member(p, p, None, LIMITS)
    assert result.passed
    assert (result.agreement, result.max_shift, result.auc_change, result.images) == (1.0, 0.0, 0.0, 60)
    assert result.auc_against == "the reference's labels"


def test_true_labels_are_used_if_known():
    p = probabilities(60)
    truth = np.arange(60) % 4
    assert compare_member(p, p, truth, LIMITS).auc_against == "true labels"


def test_shuffled_outputs_fail_every_criterion():
    p = probabilities(60)
    result = compare_member(p, p[::-1], p.argmax(1), LIMITS)
    assert not result.passed
    text = "; ".join(result.reasons)
    for criterion in ("top label agreement", "mean probability shift", "largest probability shift", "AUC loss"):
        assert criterion in text
    assert "at least 0.970 is required" in text


def test_a_large_shift_of_one_image_is_rejected():
    p = probabilities(100)
    confident = int(p.max(1).argmax())
    result = compare_member(p, shifted(p, confident, 0.45), None, LIMITS)
    assert [r.split(" 0")[0] for r in result.reasons] == ["largest probability shift"]


def test_a_changed_label_is_no_disagreement_if_it_was_a_tie():
    p = np.array([[0.501, 0.499]] * 4)
    near, far = (shifted(p, 0, amount) for amount in (TIE / 2, 2 * TIE))
    assert compare_member(p, near, None, LIMITS).agreement == 1.0
    assert compare_member(p, far, None, LIMITS).agreement == 0.75


def test_the_auc_decides_only_on_enough_images():
    def result(images):
        p = np.tile([[0.515, 0.485], [0.485, 0.515]], (images // 2, 1))
        same = np.full_like(p, 0.5)  # tops and shifts are within a tie, but the order is gone
        return compare_member(p, same, np.arange(images) % 2, LIMITS)

    assert result(48).passed
    assert result(48).auc_change == pytest.approx(-0.5)
    assert any("AUC loss against true labels 0.500" in r for r in result(50).reasons)


def test_outputs_that_are_not_finite_are_rejected():
    p = probabilities(8)
    broken = p.copy()
    broken[3, 1] = np.nan
    assert "not finite" in compare_member(p, broken, None, LIMITS).reasons[0]
    mask = np.zeros((8, 8), np.float32)
    assert "not finite" in compare_segmenter([mask], [mask + np.inf], [(8, 8)], RULE, LIMITS).reasons[0]


def lung_mask(left, right):
    mask = np.zeros((64, 64), np.float32)
    mask[10:54, left:right] = 0.9
    return mask


def test_a_segmenter_passes_with_a_slightly_different_mask():
    a, b = lung_mask(8, 56), lung_mask(8, 56)
    b[30, 30] = 0.1
    result = compare_segmenter([a], [b], [(500, 400)], RULE, LIMITS)
    assert result.passed
    assert result.mask_iou == pytest.approx(1 - 1 / a[a > 0].size)


def test_a_segmenter_that_loses_half_a_lung_is_rejected():
    result = compare_segmenter([lung_mask(8, 56)], [lung_mask(8, 40)], [(500, 400)], RULE, LIMITS)
    assert result.agreement == 0.0
    assert result.mask_iou == pytest.approx(32 / 48)
    assert len(result.reasons) == 2


def test_a_segmenter_that_finds_no_lung_is_rejected():
    empty = np.zeros((64, 64), np.float32)
    full_frame_box = lung_mask(0, 64)
    full_frame_box[:] = 0.9
    assert compare_segmenter([full_frame_box], [empty], [(64, 64)], RULE, LIMITS).agreement == 0.0
    assert compare_segmenter([empty], [empty], [(64, 64)], RULE, LIMITS).passed


def test_the_ensemble_is_compared_by_its_decisions_not_by_its_top_labels():
    p = np.array([[0.6, 0.4]] * 10)
    same = Agreement(decisions=np.arange(10) > 0, answers=None)
    result = compare_ensemble(p, p, same, None, Limits(max_loss=0.05))
    assert (result.agreement, result.answers) == (0.9, None)
    assert result.reasons == ("decision agreement 0.900, at least 0.950 is required",)


def test_the_ensemble_must_answer_the_same_images():
    p = np.array([[0.6, 0.4]] * 10)
    same = Agreement(decisions=np.ones(10, dtype=bool), answers=np.arange(10) > 0)
    result = compare_ensemble(p, p, same, None, Limits(max_loss=0.05))
    assert (result.agreement, result.answers) == (1.0, 0.9)
    assert result.reasons == ("agreement on which images are answered 0.900, at least 0.950 is required",)
    assert compare_ensemble(p, p, same, None, Limits(max_loss=0.1)).passed


@pytest.mark.parametrize("loss", [0.0, -0.1, 1.5, float("nan")])
def test_limits_need_a_share(loss):
    with pytest.raises(ValueError, match="max_loss"):
        Limits(max_loss=loss)
