"""The flag of images with fewer pixels than the members' canvas."""

import numpy as np
import pytest

from cxr_edge.records import Image, Roi
from cxr_edge.screening.resolution import resolution_flags
from cxr_edge.specs.preprocess import PreprocessSpec

LUNGS = PreprocessSpec(region="lungs", canvas_px=64, crop_px=64)
FRAME = PreprocessSpec(region="frame", canvas_px=96, crop_px=96)


def image(width, height):
    return Image(pixels=np.zeros((height, width), np.uint8), source="a", format="png", stored_bits=8, sha256="")


@pytest.mark.parametrize(
    ("specs", "roi", "seen"),
    [
        ([LUNGS], (10, 10, 74, 74), None),
        ([LUNGS], (10, 10, 73, 90), "63x80 px and was enlarged to 64x64"),
        ([LUNGS], (10, 10, 90, 73), "80x63 px and was enlarged to 64x64"),
        ([LUNGS, FRAME], (10, 10, 20, 20), "10x10 px and was enlarged to 64x64"),
        ([FRAME], (10, 10, 20, 20), None),
    ],
)
def test_the_region_that_a_member_sees_counts(specs, roi, seen):
    x0, y0, x1, y1 = roi
    flags = resolution_flags(specs, Roi(x0=x0, y0=y0, x1=x1, y1=y1), image(100, 100))
    assert [f.code for f in flags] == ([] if seen is None else ["few_pixels"])
    assert seen is None or seen in flags[0].message


def test_the_largest_canvas_is_named():
    flags = resolution_flags([LUNGS, FRAME], Roi.full(60, 60), image(60, 60))
    assert [f.message.split(" and ")[1] for f in flags] == [
        "was enlarged to 96x96, so detail is missing: use the X-ray itself, not a preview"
    ]
