"""Comparison by kind: an equal candidate passes, damaged ones are refused in steps, a constant one always."""

from __future__ import annotations

import numpy as np
import pytest

from cxr_edge.compiler.comparison import output_comparison, segmenter_comparison
from cxr_edge.compiler.output_kinds import probabilities
from cxr_edge.compiler.parity import PER_OUTPUT, Limits, compare_findings
from cxr_edge.compiler.variation import output_change
from cxr_edge.specs.lung_box import LungBoxRule

LIMITS = Limits(max_loss=0.01)


def raw_outputs(kind, images=60, spread=3.0, offset=0.0):
    columns = 1 if kind == "logit" else 5
    logits = (np.random.default_rng(4).normal(0, spread, (images, columns)) + offset).astype(np.float32)
    if kind.endswith("probabilities"):
        return probabilities(kind.replace("probabilities", "logits"), logits).astype(np.float32)
    return logits


CLASSIFIERS = ["softmax-logits", "logit", "multi-label-logits", "softmax-probabilities", "multi-label-probabilities"]


def compare(kinds, reference, candidate, **more):
    kinds = (kinds,) if isinstance(kinds, str) else kinds
    return output_comparison(kinds, more.pop("limits", LIMITS), **more)(list(reference), list(candidate))


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_an_equal_candidate_passes(kind):
    raw = raw_outputs(kind)
    result = compare(kind, raw, raw)
    assert result.passed
    assert (result.agreement, result.max_shift, result.output_change) == (1.0, 0.0, 0.0)


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_damage_is_refused_from_some_step_on(kind):
    """Noise of a growing share of the outputs' spread: a hundredth passes, all of it does not, and none after a refusal."""
    raw = raw_outputs(kind)
    noise = np.random.default_rng(3).normal(0, raw.std(), raw.shape)
    passed = [compare(kind, raw, raw + share * noise).passed for share in (0.01, 0.05, 0.2, 0.5, 1.0, 2.0)]
    assert passed[0]
    assert not any(passed[3:])
    assert passed == sorted(passed, reverse=True)


@pytest.mark.parametrize("images", [2, 16, 60])
@pytest.mark.parametrize("spread", [3.0, 0.01, 2e-3])
@pytest.mark.parametrize("offset", [0.0, -12.0, 4.0])
@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_a_constant_candidate_is_refused(kind, offset, spread, images):
    """Also where no decision and no probability changes: untrained (all near 0.5) and saturated references."""
    raw = raw_outputs(kind, images, spread, offset)
    constant = np.repeat(raw.mean(axis=0, keepdims=True), images, axis=0)
    for limits in (LIMITS, Limits(max_loss=1.0)):
        result = compare(kind, raw, constant, limits=limits)
        assert any("of its variation over the images" in reason for reason in result.reasons)


@pytest.mark.parametrize("kind", ["multi-label-logits", "multi-label-probabilities"])
def test_one_constant_output_of_several_is_refused_and_named(kind):
    raw = raw_outputs(kind, spread=0.3, offset=-5.0)
    damaged = raw.copy()
    damaged[:, 3] = raw[:, 3].mean()
    assert any("raw output 3 is off by 1.00" in reason for reason in compare(kind, raw, damaged).reasons)


def test_a_logit_in_the_middle_of_one_images_others_is_no_fault():
    """Without the mean of its row it is 0, and any rounding is infinitely more."""
    raw = np.array([[-3.0, 0.0, 3.0]], np.float32)
    assert compare("softmax-logits", raw, raw + np.float32(1e-4)).passed
    assert compare("softmax-logits", raw, raw + np.array([[0, 1e-4, 0]], np.float32)).passed


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_one_image_shows_nothing_beyond_rounding(kind):
    raw = raw_outputs(kind, images=1)
    assert compare(kind, raw, raw * np.float32(1 + 2e-4)).passed
    near = compare(kind, raw, raw + np.float32(0.004) * np.random.default_rng(3).choice([-1, 1], raw.shape))
    assert any("the same for all images" in reason and "--calibration DIR" in reason for reason in near.reasons)


def test_an_output_that_hardly_varies_beside_the_others_may_be_rounded_away():
    raw = raw_outputs("multi-label-logits")
    raw[:, 2] = -9.0 + 0.02 * np.random.default_rng(3).normal(0, 1, len(raw))
    rounded = raw.copy()
    rounded[:, 2] += np.random.default_rng(3).normal(0, 0.05, len(raw))
    assert output_change(raw, rounded).change < 0.5
    assert output_change(raw[:, 2:3], rounded[:, 2:3]).change > 0.5


def test_a_logit_is_compared_by_its_sigmoid():
    """Its softmax is 1 for every image, so that every engine would agree."""
    raw = raw_outputs("logit")
    result = compare("logit", raw, -raw)
    assert result.agreement < 0.5
    assert result.auc_change is not None
    assert result.auc_change < -0.9
    assert compare("softmax-logits", raw, -raw).agreement == 1.0


def test_findings_on_the_other_side_count_for_the_worst_output():
    raw = raw_outputs("multi-label-logits", images=100)
    raw[:, 4] = np.where(np.arange(100) % 2, 0.5, -0.5)
    flipped = raw.copy()
    flipped[:20, 4] *= -1
    result = compare("multi-label-logits", raw, flipped)
    assert result.agreement == pytest.approx(0.8)
    assert "agreement on output 4 0.800, at least 0.970 is required" in result.reasons
    assert result.auc_against == PER_OUTPUT


def test_a_finding_that_was_a_tie_has_not_changed():
    p = np.tile([[0.499], [0.9]], (30, 1))
    near = np.where(p < 0.5, 0.505, p)
    assert compare_findings(p, near, LIMITS).agreement == 1.0
    assert compare_findings(p, np.where(p < 0.5, 0.53, p), LIMITS).agreement == 0.5


def test_a_rare_finding_is_ordered_against_the_upper_half():
    """No image reaches 0.5: decisions say nothing, the order of the images does."""
    p = np.linspace(1e-4, 1e-3, 60)[:, None]
    shuffled = np.random.default_rng(3).permutation(p)
    result = compare_findings(p, shuffled, LIMITS)
    assert result.agreement == 1.0
    assert result.auc_change is not None
    assert result.auc_change < -0.1
    assert any("AUC loss of output 0" in reason for reason in result.reasons)


def test_the_auc_of_a_finding_needs_pairs_and_images():
    assert compare_findings(np.full((60, 1), 0.3), np.full((60, 1), 0.3), LIMITS).auc_change is None
    p = np.linspace(0.3, 0.31, 20)[:, None]
    few = compare_findings(p, p[::-1], LIMITS)
    assert few.auc_change == -1.0
    assert few.passed


def test_a_shift_common_to_all_logits_is_no_change_after_a_softmax():
    raw = raw_outputs("softmax-logits")
    shifted = raw + 5 * np.random.default_rng(3).normal(0, 1, (len(raw), 1)).astype(np.float32)
    assert compare("softmax-logits", raw, shifted).passed
    assert not compare("multi-label-logits", raw, shifted).passed


def test_several_kinds_must_all_pass_and_are_named():
    raw = raw_outputs("softmax-logits")
    shifted = raw + 5 * np.random.default_rng(3).normal(0, 1, (len(raw), 1)).astype(np.float32)
    result = compare(("softmax-logits", "multi-label-logits"), raw, shifted)
    assert result.reasons
    assert all(reason.startswith("as multi-label-logits: ") for reason in result.reasons)
    assert result.agreement < 0.97
    assert compare(("softmax-logits", "multi-label-logits"), raw, raw).passed


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_a_candidate_that_is_not_finite_is_refused_without_a_warning(kind, value):
    raw = raw_outputs(kind)
    broken = raw.copy()
    broken[1, 0] = value
    assert compare(kind, raw, broken).reasons == ("it gives outputs that are not finite",)


def masks(count, value=0.9):
    found = np.zeros((count, 1, 64, 64), np.float32)
    for i, mask in enumerate(found):
        mask[0, 10 : 50 + i, 8:56] = value
    return list(found)


def test_masks():
    def result(reference, candidate):
        return segmenter_comparison([(500, 400)] * len(reference), LungBoxRule(), LIMITS)(reference, candidate)

    reference = masks(4)
    assert result(reference, reference).passed
    assert result(reference, [m + np.inf for m in reference]).reasons == ("it gives outputs that are not finite",)
    # No pixel reaches the threshold in either, so overlap and boxes agree; the mask is lost all the same.
    faint, lost = masks(4, value=0.1), masks(4, value=0.0)
    assert result(faint, lost).agreement == 1.0
    assert any("of its variation" in reason for reason in result(faint, lost).reasons)
