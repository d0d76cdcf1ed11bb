"""Heat map: evidence is placed at the member's crop, for any crop, region and map size."""

import numpy as np
import pytest

from cxr_edge.ops.heatmap import HEATMAP_PX, combine_maps
from cxr_edge.records import Image, Roi
from cxr_edge.specs.preprocess import PreprocessSpec

IMAGE = Image(pixels=np.zeros((200, 400), np.uint8), source="x", format="png", stored_bits=8, sha256="")
ROI = Roi(x0=100, y0=50, x1=300, y1=150)
LUNGS = PreprocessSpec(canvas_px=64, crop_px=64)


def cam(side, row, column, value=10.0, labels=2, label=1):
    maps = np.zeros((labels, side, side), np.float32)
    maps[label, row, column] = value
    return maps


def hottest(heat):
    row, column = np.unravel_index(int(heat.argmax()), heat.shape)
    return (row + 0.5) / HEATMAP_PX, (column + 0.5) / HEATMAP_PX


@pytest.mark.parametrize("side", [4, 7, 10])
def test_evidence_keeps_its_position(side):
    heat = combine_maps([cam(side, 0, side - 1)], [1.0], 1, [LUNGS], ROI, IMAGE)
    assert heat.shape == (HEATMAP_PX, HEATMAP_PX)
    assert heat.max() == 1.0
    row, column = hottest(heat)
    assert row < 1 / side
    assert column > 1 - 1 / side


def test_maps_of_unequal_size_are_added_by_weight():
    heat = combine_maps([cam(4, 0, 0), cam(8, 7, 7, value=20.0)], [0.2, 0.8], 1, [LUNGS, LUNGS], ROI, IMAGE)
    assert heat[-1, -1] == 1.0
    assert heat[0, 0] == pytest.approx(0.2 * 10 / (0.8 * 20), abs=0.01)


def test_there_is_no_heat_outside_a_centre_crop():
    cropped = PreprocessSpec(canvas_px=64, crop_px=32)
    heat = combine_maps([np.full((2, 5, 5), 9.0, np.float32)], [1.0], 0, [cropped], ROI, IMAGE)
    quarter = HEATMAP_PX // 4
    assert (heat[:quarter] == 0).all()
    assert (heat[quarter:-quarter, quarter:-quarter] == 1).all()


def test_the_map_of_a_full_frame_member_is_cropped_to_the_lungs():
    frame = PreprocessSpec(region="frame", canvas_px=64, crop_px=64)
    heat = combine_maps([cam(8, 2, 6)], [1.0], 1, [frame], ROI, IMAGE)  # frame cell (2, 6): y 50..75, x 300..350
    assert heat[:20, -1].max() > heat[:20, : HEATMAP_PX // 2].max()
    row, column = hottest(heat)
    assert row < 0.3
    assert column > 0.9


def test_negative_evidence_and_noise_are_not_shown_as_heat():
    assert combine_maps([cam(4, 1, 1, value=-5.0)], [1.0], 1, [LUNGS], ROI, IMAGE).max() == 0.0
    assert combine_maps([cam(4, 1, 1, value=0.02)], [1.0], 1, [LUNGS], ROI, IMAGE).max() == pytest.approx(
        0.01, abs=1e-3
    )
