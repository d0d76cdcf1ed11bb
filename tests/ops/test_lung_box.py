"""Lung box compared with the NumPy reference, and the fallback to the full frame."""

from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cxr_edge._core as _core
from cxr_edge.ops.lung_box import LungBoxStatus, core_rule, lung_box
from cxr_edge.records import Roi
from cxr_edge.specs.lung_box import LungBoxRule
from tests.ops import reference


@given(
    rows=st.integers(1, 40), columns=st.integers(1, 40), seed=st.integers(0, 2**16), share=st.floats(0, 0.4),
    min_pixels=st.integers(1, 4), width=st.integers(1, 900), height=st.integers(1, 900),
)  # fmt: skip
@settings(max_examples=300, deadline=None)
def test_equals_the_reference(rows, columns, seed, share, min_pixels, width, height):
    mask = (np.random.default_rng(seed).random((rows, columns)) < share).astype(np.float32)
    rule = LungBoxRule(min_pixels=min_pixels)
    status, box = _core.lung_box(mask, core_rule(rule), width_px=width, height_px=height)
    expected = reference.lung_box(mask, 0.5, min_pixels, 0.05, width, height)
    assert LungBoxStatus(status) == reference.lung_box_status(expected, width, height, rule)
    assert box == (expected or (0,) * 4)


def test_a_native_rule_needs_lung_pixels():
    values = {**asdict(LungBoxRule()), "min_pixels": 0}
    with pytest.raises(ValueError, match="min_pixels of at least 1"):
        _core.lung_box(np.ones((4, 4), np.float32), _core.LungRule(**values), width_px=4, height_px=4)


def lungs_mask():
    mask = np.zeros((100, 100), np.float32)
    mask[20:80, 15:45] = mask[20:80, 55:85] = 0.9
    return mask


def test_the_rule_of_the_paper():
    roi, flag = lung_box(lungs_mask(), width_px=1000, height_px=2000, rule=LungBoxRule())
    assert flag is None
    assert roi == Roi(x0=115, y0=340, x1=885, y1=1660)  # 70 and 60 of 100, widened by 5 % on each side


def test_specks_are_ignored_with_a_higher_min_pixels():
    mask = lungs_mask()
    mask[2, 97] = 1.0
    default, _ = lung_box(mask, width_px=100, height_px=100, rule=LungBoxRule())
    robust, _ = lung_box(mask, width_px=100, height_px=100, rule=LungBoxRule(min_pixels=3))
    clean, _ = lung_box(lungs_mask(), width_px=100, height_px=100, rule=LungBoxRule())
    assert robust == clean != default


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (np.zeros((64, 64), np.float32), "no lung was found"),
        (np.pad(np.ones((6, 6), np.float32), ((0, 58), (0, 58))), "the box covers 1% of the image"),
        (np.pad(np.ones((12, 64), np.float32), ((20, 32), (0, 0))), "times as wide as high"),
        (np.full((64, 64), np.nan, np.float32), "no lung was found"),
    ],
)  # fmt: skip
def test_an_invalid_box_gives_the_full_frame_and_a_flag(mask, reason):
    roi, flag = lung_box(mask, width_px=640, height_px=480, rule=LungBoxRule())
    assert roi == Roi.full(640, 480)
    assert flag is not None
    assert flag.code == "lung_box_failed"
    assert reason in flag.message
