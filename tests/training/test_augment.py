"""Augmentation: shapes and types stay, a seed is a picture, and the geometry does what it says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.augment import Augmentation, histogram_cdf

STILL = Augmentation(shift=0.0, zoom=0.0, stretch=0.0, rotation_deg=0.0, flip=0.0)
ALWAYS = Augmentation(
    histogram_swap=1.0, shading=1.0, equalize=1.0, resample=1.0, blur=1.0, sharpen=1.0, noise=1.0, jpeg=1.0, letters=1.0,
    erase=1.0,
)  # fmt: skip


def _canvas(side: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side), dtype=np.uint8)


@given(st.integers(24, 90), st.integers(0, 2**31))
def test_gray_changes_keep_shape_and_type(side: int, seed: int) -> None:
    canvas = _canvas(side)
    kept = canvas.copy()
    out = ALWAYS.gray(canvas, np.random.default_rng(seed), other=histogram_cdf(_canvas(side, 1)))
    assert out.shape == (side, side)
    assert out.dtype == np.uint8
    assert np.array_equal(canvas, kept), "the original canvas is used again in the next epoch"


def test_a_seed_is_a_picture() -> None:
    first, again, other = (ALWAYS.gray(_canvas(64), np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_still_warp_of_the_whole_picture_changes_nothing() -> None:
    canvas = _canvas(64)
    warp = STILL.warp((0.0, 0.0, 64.0, 64.0), 64, np.random.default_rng(0))
    assert np.array_equal(warp.apply(canvas), canvas)


def test_a_still_warp_cuts_its_box() -> None:
    canvas = _canvas(64)
    warp = STILL.warp((8.0, 16.0, 40.0, 48.0), 32, np.random.default_rng(0))
    assert np.array_equal(warp.apply(canvas), canvas[16:48, 8:40])


def test_a_flip_mirrors() -> None:
    canvas = _canvas(32)
    mirrored = Augmentation(shift=0.0, zoom=0.0, stretch=0.0, rotation_deg=0.0, flip=1.0)
    warp = mirrored.warp((0.0, 0.0, 32.0, 32.0), 32, np.random.default_rng(0))
    assert np.array_equal(warp.apply(canvas), canvas[:, ::-1])


def test_a_swap_takes_over_the_other_histogram() -> None:
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
