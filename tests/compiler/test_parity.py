"""The gate's figures against brute force, and that it refuses what it must."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr_edge.compiler.parity import TIE, Limits, judge_member, judge_segmenter, judge_set, macro_auc
from cxr_edge.records import Roi, Screening, StageTimes
from cxr_edge.specs.lung_box import LungBoxRule

LIMITS = Limits(max_loss=0.01)
RULE = LungBoxRule()


def probabilities(images, labels=4, seed=0):
    logits = np.random.default_rng(seed).normal(0, 2, (images, labels))
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


def moved(p, image, amount):
    """`p` with that much probability moved from an image's top label to its last one."""
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
    verdict = judge_member(p, p, None, LIMITS)
    assert verdict.passed
    assert (verdict.agreement, verdict.max_shift, verdict.auc_change, verdict.images) == (1.0, 0.0, 0.0, 60)
    assert verdict.auc_against == "the reference's labels"


def test_true_labels_are_used_where_they_are_known():
    p = probabilities(60)
    truth = np.arange(60) % 4
    assert judge_member(p, p, truth, LIMITS).auc_against == "true labels"


def test_shuffled_answers_are_refused_on_every_count():
    p = probabilities(60)
    verdict = judge_member(p, p[::-1], p.argmax(1), LIMITS)
    assert not verdict.passed
    text = "; ".join(verdict.reasons)
    for what in ("top label agreement", "mean probability shift", "largest probability shift", "AUC loss"):
        assert what in text
    assert "at least 0.970 is asked for" in text


def test_one_image_that_moves_far_is_enough():
    p = probabilities(100)
    sure = int(p.max(1).argmax())
    verdict = judge_member(p, moved(p, sure, 0.45), None, LIMITS)
    assert [r.split(" 0")[0] for r in verdict.reasons] == ["largest probability shift"]


def test_a_changed_label_is_no_disagreement_if_it_was_a_tie():
    p = np.array([[0.501, 0.499]] * 4)
    near, far = (moved(p, 0, amount) for amount in (TIE / 2, 2 * TIE))
    assert judge_member(p, near, None, LIMITS).agreement == 1.0
    assert judge_member(p, far, None, LIMITS).agreement == 0.75


def test_the_auc_decides_only_on_enough_images():
    def verdict(images):
        p = np.tile([[0.515, 0.485], [0.485, 0.515]], (images // 2, 1))
        same = np.full_like(p, 0.5)  # tops and shifts are within a tie, but the order is gone
        return judge_member(p, same, np.arange(images) % 2, LIMITS)

    assert verdict(48).passed
    assert verdict(48).auc_change == pytest.approx(-0.5)
    assert any("AUC loss against true labels 0.500" in r for r in verdict(50).reasons)


def test_numbers_that_are_not_finite_are_refused():
    p = probabilities(8)
    broken = p.copy()
    broken[3, 1] = np.nan
    assert "not finite" in judge_member(p, broken, None, LIMITS).reasons[0]
    mask = np.zeros((8, 8), np.float32)
    assert "not finite" in judge_segmenter([mask], [mask + np.inf], [(8, 8)], RULE, LIMITS).reasons[0]


def lung_mask(left, right):
    mask = np.zeros((64, 64), np.float32)
    mask[10:54, left:right] = 0.9
    return mask


def test_a_segmenter_passes_with_a_slightly_different_mask():
    a, b = lung_mask(8, 56), lung_mask(8, 56)
    b[30, 30] = 0.1
    verdict = judge_segmenter([a], [b], [(500, 400)], RULE, LIMITS)
    assert verdict.passed
    assert verdict.mask_iou == pytest.approx(1 - 1 / a[a > 0].size)


def test_a_segmenter_that_loses_half_a_lung_is_refused():
    verdict = judge_segmenter([lung_mask(8, 56)], [lung_mask(8, 40)], [(500, 400)], RULE, LIMITS)
    assert verdict.agreement == 0.0
    assert verdict.mask_iou == pytest.approx(32 / 48)
    assert len(verdict.reasons) == 2


def test_a_segmenter_that_finds_nothing_where_there_was_a_lung_is_refused():
    empty = np.zeros((64, 64), np.float32)
    full_frame_box = lung_mask(0, 64)
    full_frame_box[:] = 0.9
    assert judge_segmenter([full_frame_box], [empty], [(64, 64)], RULE, LIMITS).agreement == 0.0
    assert judge_segmenter([empty], [empty], [(64, 64)], RULE, LIMITS).passed


def screening(p, decision):
    labels = ("a", "b")
    times = StageTimes(decode_ms=0, lungs_ms=0, preprocess_ms=0, members_ms=0, combine_ms=0)
    return Screening(
        source="x", sha256="0" * 64, width_px=9, height_px=9, labels=labels, probabilities=(p, 1 - p),
        decision=decision, members=(), roi=Roi.full(9, 9), flags=(), times=times,
    )  # fmt: skip


def test_the_set_is_judged_by_its_decisions_not_by_its_top_labels():
    before = [screening(0.6, "a")] * 10
    after = [screening(0.55, "a")] * 9 + [screening(0.55, "b")]  # a threshold on b was reached
    verdict = judge_set(before, after, None, Limits(max_loss=0.05))
    assert verdict.agreement == 0.9
    assert verdict.reasons == ("decision agreement 0.900, at least 0.950 is asked for",)


@pytest.mark.parametrize("loss", [0.0, -0.1, 1.5, float("nan")])
def test_limits_need_a_share(loss):
    with pytest.raises(ValueError, match="max_loss"):
        Limits(max_loss=loss)
