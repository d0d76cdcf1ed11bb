"""Augmentation: shapes and types are preserved, a seed determines the result, and the geometry is correct."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data.augment import Augmentation, histogram_cdf, pa_as_ap

STILL = Augmentation(shift=0.0, zoom=0.0, stretch=0.0, rotation_deg=0.0, flip=0.0)
ALWAYS = Augmentation(
    histogram_swap=1.0, shading=1.0, equalize=1.0, resample=1.0, blur=1.0, sharpen=1.0, noise=1.0, jpeg=1.0, letters=1.0,
    erase=1.0,
)  # fmt: skip

NOTHING = replace(
    STILL, histogram_swap=0.0, curve=0.0, shading=0.0, equalize=0.0, resample=0.0, blur=0.0, sharpen=0.0, noise=0.0, jpeg=0.0,
    letters=0.0, erase=0.0,
)  # fmt: skip


def _canvas(side: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side), dtype=np.uint8)


@given(st.integers(24, 90), st.integers(0, 2**31))
def test_gray_changes_keep_shape_and_type(side: int, seed: int) -> None:
    canvas = _canvas(side)
    original = canvas.copy()
    out = ALWAYS.gray(canvas, np.random.default_rng(seed), other=histogram_cdf(_canvas(side, 1)))
    assert out.shape == (side, side)
    assert out.dtype == np.uint8
    assert np.array_equal(canvas, original), "the original canvas is used again in the next epoch"


def test_a_seed_determines_the_result() -> None:
    first, again, other = (ALWAYS.gray(_canvas(64), np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_neutral_warp_of_the_full_image_is_the_identity() -> None:
    canvas = _canvas(64)
    warp = STILL.warp((0.0, 0.0, 64.0, 64.0), 64, np.random.default_rng(0))
    assert np.array_equal(warp.apply(canvas), canvas)


def test_a_neutral_warp_crops_its_box() -> None:
    canvas = _canvas(64)
    warp = STILL.warp((8.0, 16.0, 40.0, 48.0), 32, np.random.default_rng(0))
    assert np.array_equal(warp.apply(canvas), canvas[16:48, 8:40])


def test_a_flip_mirrors() -> None:
    canvas = _canvas(32)
    mirrored = Augmentation(shift=0.0, zoom=0.0, stretch=0.0, rotation_deg=0.0, flip=1.0)
    warp = mirrored.warp((0.0, 0.0, 32.0, 32.0), 32, np.random.default_rng(0))
    assert np.array_equal(warp.apply(canvas), canvas[:, ::-1])


def test_a_histogram_swap_produces_the_other_histogram() -> None:
    dark = (_canvas(64) // 4).astype(np.uint8)
    swap = Augmentation(
        histogram_swap=1.0, shading=0, equalize=0, resample=0, blur=0, sharpen=0, noise=0, jpeg=0, letters=0, erase=0
    )
    means = [swap.gray(_canvas(64), np.random.default_rng(s), other=histogram_cdf(dark)).mean() for s in range(30)]
    assert np.mean(means) < 64  # the curve that follows moves single pictures, not their mean


def test_the_cdf_ends_at_one() -> None:
    cdf = histogram_cdf(_canvas(16))
    assert cdf.shape == (256,)
    assert cdf[-1] == pytest.approx(1.0)
    assert (np.diff(cdf) >= 0).all()


@given(st.integers(8, 90), st.integers(0, 2**31), st.sampled_from([cv2.BORDER_CONSTANT, cv2.BORDER_REFLECT_101]))
def test_zero_probabilities_and_ranges_leave_a_frame_unchanged(side: int, seed: int, border: int) -> None:
    canvas, rng = _canvas(side), np.random.default_rng(seed)
    warp = NOTHING.warp((0.0, 0.0, side, side), side, rng)
    same = NOTHING.gray(warp.apply(canvas, border=border), rng, other=histogram_cdf(_canvas(side, 1)))
    assert np.array_equal(same, canvas)


def test_curve_is_applied_with_its_probability() -> None:
    always, half = (replace(NOTHING, curve=chance) for chance in (1.0, 0.5))
    canvas = _canvas(32)
    changed = [
        sum(not np.array_equal(a.gray(canvas, np.random.default_rng(s)), canvas) for s in range(200))
        for a in (always, half)
    ]
    assert changed[0] == 200
    assert 70 < changed[1] < 130


def test_pa_as_ap_mirrors_and_adds_noise() -> None:
    canvas = np.clip(_canvas(64), 40, 215)  # the noise, at most 10 gray values strong, is cut off nowhere
    original = canvas.copy()
    strengths = []
    for seed in range(20):
        noise = pa_as_ap(canvas, np.random.default_rng(seed)).astype(float) - canvas[:, ::-1]
        assert abs(noise.mean()) < 1
        strengths.append(noise.std())
    assert 0.5 < min(strengths) < 4 < 7 < max(strengths) < 11
    assert np.array_equal(canvas, original)
    first, again = (pa_as_ap(canvas, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(first, again)
    assert first.dtype == np.uint8
