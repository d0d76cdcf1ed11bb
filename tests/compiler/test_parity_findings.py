"""The gate of independent findings, and the borders of all limits: each test fails if one comparison of parity.py changes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from cxr_edge.compiler.parity import (
    PER_OUTPUT,
    Agreement,
    Limits,
    ParityResult,
    compare_ensemble,
    compare_findings,
    compare_member,
    compare_segmenter,
)
from cxr_edge.specs.lung_box import LungBoxRule
from tests.compiler.test_parity import lung_mask

LIMITS = Limits(max_loss=0.01)
Floats = npt.NDArray[np.float64]


def findings(column: Floats, *, output: int = 1) -> Floats:
    """Return three outputs: this column at `output`, others that are far from 0.5 and in order."""
    plain = np.where(np.arange(len(column)) % 2 == 0, 0.1, 0.9) + np.linspace(0, 0.01, len(column))
    return np.stack([column if i == output else plain for i in range(3)], axis=1)


def compared(before: Floats, after: Floats, *, output: int = 1) -> ParityResult:
    return compare_findings(findings(before, output=output), findings(after, output=output), LIMITS)


def low(images: int) -> Floats:
    """Return probabilities of a rare finding, in order and close to each other."""
    return np.linspace(0.1, 0.11, images)


def test_findings_pass_against_themselves() -> None:
    result = compared(low(60), low(60))
    assert result == ParityResult(
        images=60, agreement=1.0, max_shift=0.0, mean_shift=0.0, auc_change=0.0, auc_against=PER_OUTPUT
    )
    assert result.passed


def test_the_output_that_disagrees_most_decides() -> None:
    """0.5 itself is positive, before and after. Three of 100 may change, a fourth may not."""
    before = np.full(100, 0.9)
    after = before.copy()
    for image, (a, b) in enumerate([(0.5, 0.47), (0.47, 0.5), (0.52, 0.48)]):
        before[image], after[image] = a, b
    assert compared(before, after).agreement == 0.97
    assert compared(before, after).passed
    before[3], after[3] = 0.48, 0.52
    result = compared(before, after)
    assert (result.images, result.agreement) == (100, 0.96)
    assert result.max_shift == pytest.approx(0.04)
    assert result.mean_shift == pytest.approx((0.03 + 0.03 + 0.04 + 0.04) / 100)
    assert result.reasons[0] == "agreement on output 1 0.960, at least 0.970 is required"
    assert result.reasons[1].startswith("AUC loss of output 1 0.")


def test_a_change_within_a_tie_is_no_disagreement() -> None:
    assert compared(np.full(10, 0.505), np.full(10, 0.495)).agreement == 1.0


def test_shifts_of_the_worst_output_are_limited() -> None:
    one = low(60)
    one[-1] += 0.25
    assert compared(low(60), one, output=2).reasons == (
        "largest probability shift (output 2) 0.250, at most 0.200 is allowed",
    )
    assert compared(low(60), low(60) + 0.02).passed
    result = compared(low(60), low(60) + 0.03)
    assert result.reasons == ("mean probability shift of output 1 0.030, at most 0.020 is allowed",)
    assert result.mean_shift == pytest.approx(0.03)


@pytest.mark.parametrize(("images", "passes"), [(48, True), (50, False)])
def test_the_order_of_images_counts_from_50_on(images: int, passes: bool) -> None:
    before = np.tile([0.515, 0.485], images // 2)
    result = compared(before, np.full(images, 0.5))
    assert result.passed is passes
    assert (result.auc_change, result.auc_against) == (-0.5, PER_OUTPUT)
    assert passes or result.reasons == ("AUC loss of output 1 0.500, at most 0.010 is allowed",)


def test_a_rare_finding_is_ordered_by_its_upper_half() -> None:
    assert compared(low(60), low(60)[::-1]).reasons == ("AUC loss of output 1 1.000, at most 0.010 is allowed",)
    ties = np.repeat([0.1, 0.12], [40, 20])  # the upper half is what is above the median
    assert compared(ties, np.full(60, 0.11)).auc_change == -0.5


def test_the_references_decisions_are_the_order_where_they_suffice() -> None:
    """One swapped pair of 2 x 50 is exactly the limit; of 1 x 60 it would be more, so that the upper half decides."""
    two, one = np.append(low(50), [0.9, 0.91]), np.append(low(60), 0.9)
    assert compared(two, np.append(low(50)[::-1], [0.9, 0.91])).auc_change == 0.0
    assert compared(one, np.append(low(60)[::-1], 0.9)).auc_change < -0.9
    half = np.repeat([0.5, 0.49], [45, 15])
    assert compared(half, half).auc_change == 0.0
    assert compared(half, 0.99 - half).auc_change == -1.0


def test_outputs_without_an_order_have_no_auc() -> None:
    constant = np.full((60, 3), 0.1)
    result = compare_findings(constant, constant, LIMITS)
    assert result.passed
    assert (result.auc_change, result.auc_against) == (None, None)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_findings_that_are_not_finite_are_rejected(value: float) -> None:
    after = low(60)
    after[3] = value
    assert compared(low(60), after) == ParityResult(
        images=60, agreement=0.0, reasons=("it gives probabilities that are not finite",)
    )


def test_everything_may_be_lost_by_choice() -> None:
    assert Limits(max_loss=1.0).network_agreement < 0


def test_top_labels_are_compared_image_by_image() -> None:
    before = np.eye(4) * 0.6 + 0.1
    result = compare_member(before, before[[1, 0, 2, 3]], None, LIMITS)
    assert (result.agreement, result.images) == (0.5, 4)
    assert (result.max_shift, result.mean_shift) == (pytest.approx(0.6), pytest.approx(0.3))


def test_an_ensemble_is_compared_with_true_labels_if_they_are_known() -> None:
    before, same = np.array([[0.6, 0.4], [0.4, 0.6]]), Agreement(decisions=np.ones(2, dtype=bool), answers=None)
    result = compare_ensemble(before, before, same, np.array([1, 0]), LIMITS)
    assert (result.auc_change, result.auc_against) == (0.0, "true labels")


def test_masks_of_the_threshold_itself_are_lung() -> None:
    """Where one mask has exactly the threshold, both have the same lung."""
    rule = LungBoxRule()
    at, above = lung_mask(8, 56), lung_mask(8, 56)
    at[at > 0] = rule.threshold
    for a, b in ((at, above), (above, at)):
        result = compare_segmenter([a], [b], [(500, 400)], rule, LIMITS)
        assert (result.mask_iou, result.agreement, result.images, result.reasons) == (1.0, 1.0, 1, ())


def test_masks_that_differ_are_rejected_with_both_figures() -> None:
    rule = LungBoxRule()
    result = compare_segmenter([lung_mask(8, 56)], [lung_mask(8, 40)], [(500, 400)], rule, LIMITS)
    assert result.reasons == (
        "lung box agreement 0.000, at least 0.970 is required",
        "mean mask overlap (IoU) 0.667, at least 0.970 is required",
    )
    endless = lung_mask(8, 56) + np.inf
    result = compare_segmenter([lung_mask(8, 56)] * 2, [endless] * 2, [(500, 400)] * 2, rule, LIMITS)
    assert result == ParityResult(images=2, agreement=0.0, reasons=("it gives masks that are not finite",))


def test_two_empty_masks_are_the_same() -> None:
    empty = np.zeros((64, 64), np.float32)
    assert compare_segmenter([empty], [empty], [(64, 64)], LungBoxRule(), LIMITS).mask_iou == 1.0
    with pytest.raises(ValueError, match="zip"):
        compare_segmenter([empty], [empty], [], LungBoxRule(), LIMITS)


def test_boxes_are_those_of_the_image_not_of_the_mask() -> None:
    """In an image of 1000x400 px the wider mask's box is too wide to be lungs; in a square one it would not be."""
    masks = [lung_mask(0, 46)], [lung_mask(0, 47)]
    assert compare_segmenter(*masks, [(1000, 400)], LungBoxRule(), LIMITS).agreement == 0.0
    assert compare_segmenter(*masks, [(400, 400)], LungBoxRule(), LIMITS).agreement == 1.0


def test_true_labels_may_contradict_the_reference() -> None:
    """A reference that orders all images wrongly has an AUC of 0; an engine that orders none is better by a half."""
    before = np.tile([[0.515, 0.485], [0.485, 0.515]], (30, 1))
    result = compare_member(before, np.full_like(before, 0.5), (np.arange(60) + 1) % 2, LIMITS)
    assert (result.auc_change, result.passed) == (0.5, True)


def test_a_member_that_is_not_finite_is_rejected_with_the_number_of_images() -> None:
    before = np.full((8, 2), 0.5)
    assert compare_member(before, before * np.nan, None, LIMITS).images == 8
