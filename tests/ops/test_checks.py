"""Statistics of gray values, limits of pixels and scores, and the estimated view."""

from __future__ import annotations

import numpy as np
import pytest

from cxr_edge.ops.checks import estimated_view, gray_statistics, refusals
from cxr_edge.records import AcquisitionFacts
from cxr_edge.specs.checks import CODES, Check, ImageLimits

LIMITS = ImageLimits(min_side_px=10, min_contrast=0.1, max_saturated=0.5)
GRAYS = np.random.default_rng(0).integers(0, 256, (300, 200), dtype=np.uint8)


@pytest.mark.parametrize("scale", [1, 257])
def test_contrast_is_between_the_1st_and_99th_percentile(scale: int) -> None:
    pixels = (np.random.default_rng(1).normal(120, 20, (90, 100)).clip(10, 250)).astype(np.uint8)
    found = gray_statistics((pixels.astype(np.uint16) * 257) if scale == 257 else pixels)
    low, high = np.percentile(pixels, (1, 99))
    assert found.contrast == pytest.approx((high - low) / 255, abs=0.01)


def test_large_images_are_sampled_on_a_grid_over_the_whole_image() -> None:
    pixels = np.zeros((1000, 3000), np.uint8)
    pixels[:, 2000:] = np.linspace(0, 255, 1000).astype(np.uint8)
    found = gray_statistics(pixels)
    assert found.contrast == pytest.approx(0.97, abs=0.02)
    assert found.saturated == pytest.approx(2 / 3, abs=0.02)


def test_saturated_is_the_share_at_the_images_own_ends() -> None:
    pixels = np.full((10, 10), 100, np.uint8)
    pixels[0], pixels[1, :5] = 20, 200
    assert gray_statistics(pixels).saturated == pytest.approx(0.15)
    assert gray_statistics(np.full((10, 10), 7, np.uint8)).saturated == 1.0


def test_the_limits_themselves_are_accepted() -> None:
    pixels = GRAYS[:10, :20].copy()
    assert _codes(pixels) == []
    assert _codes(pixels[:9]) == ["too_small"]


def _codes(pixels: np.ndarray, *checks: Check, population: str = "any", **scores: float) -> list[str]:
    found = refusals(pixels, AcquisitionFacts(), scores, limits=LIMITS, checks=checks, population=population)  # type: ignore[arg-type]
    return [flag.code for flag in found]


def test_scores_refuse_from_the_limit_on_or_up_to_it() -> None:
    above = Check(code="photo", score="p", limit=0.7)
    below = Check(code="unfamiliar", score="likeness", limit=0.2, below=True)
    assert _codes(GRAYS, above, below, p=0.7, likeness=0.2) == ["photo", "unfamiliar"]
    assert _codes(GRAYS, above, below, p=0.6999, likeness=0.2001) == []


def test_reasons_are_in_the_order_of_the_codes_whatever_the_order_of_the_checks() -> None:
    checks = [Check(code=code, score="s", limit=0.5) for code in reversed(CODES[3:])]
    assert _codes(GRAYS, *checks, s=1.0) == [code for code in CODES[3:] if code not in ("child", "adult")]
    assert _codes(GRAYS, *checks, population="adults", s=1.0) == [code for code in CODES[3:] if code != "adult"]


def test_the_view_is_ap_from_one_half_on() -> None:
    assert [estimated_view(scores) for scores in ({"ap": 0.5}, {"ap": 0.49}, {"other": 1.0})] == ["AP", "PA", ""]
