"""Statistics of an exam: names, values by hand, rounding, and what a changed image changes."""

from dataclasses import replace

import numpy as np
import pytest

from cxr_edge.drift import exam_statistics
from cxr_edge.drift.statistics import FORMATS, group_of, shown, statistic_names
from cxr_edge.records import Flag, Image, MemberScore, Roi, Screening, StageTimes

PIXELS = np.tile(np.linspace(0, 255, 400).astype(np.uint8), (200, 1))
IMAGE = Image(pixels=PIXELS, source="a.png", format="png", stored_bits=8, sha256="cd")
SCREENING = Screening(
    source="a.png", sha256="cd", width_px=400, height_px=200, labels=("normal", "covid-19"), probabilities=(0.1249, 0.8751),
    forced_decision="covid-19", members=(MemberScore(member="plain", probabilities=(0.25, 0.75)),),
    roi=Roi(x0=100, y0=50, x1=300, y1=150), flags=(), checks={"ap": 0.12345, "unfamiliar": 1234.5},
    times=StageTimes(decode_ms=1.0, lungs_ms=2.0, preprocess_ms=0.5, members_ms=3.0, combine_ms=0.25),
)  # fmt: skip


def with_pixels(pixels):
    return exam_statistics(SCREENING, replace(IMAGE, pixels=np.ascontiguousarray(pixels)))


def test_values_by_hand():
    found = exam_statistics(SCREENING, IMAGE)
    assert tuple(found) == statistic_names(("normal", "covid-19"), ("ap", "unfamiliar"))
    expected = {
        "output.normal": 0.12, "output.covid-19": 0.88, "output.top": 0.88, "check.ap": 0.123, "check.unfamiliar": 1230.0,
        "check.refused": 0.0, "box.share": 0.25, "box.aspect": 2.0, "box.x": 0.5, "box.y": 0.5, "image.width": 400.0,
        "image.height": 200.0, "image.aspect": 2.0, "image.bits": 8.0, "image.format": float(FORMATS.index("png")),
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected
    assert found["image.mean"] == pytest.approx(0.5, abs=0.02)
    assert found["image.contrast"] == pytest.approx(0.9, abs=0.03)
    assert found["image.dark"] == pytest.approx(0.04, abs=0.03)
    assert found["image.bright"] == pytest.approx(0.04, abs=0.03)
    assert all(type(value) is float for value in found.values())


@pytest.mark.parametrize("flag", ["reason", "flags"])
def test_a_refusal_counts_also_where_it_was_answered_all_the_same(flag):
    lateral = Flag(code="lateral", message="Refused.")
    changes = {"outcome": "refused", "reason": lateral} if flag == "reason" else {"flags": (lateral,)}
    assert exam_statistics(replace(SCREENING, **changes), IMAGE)["check.refused"] == 1
    other = replace(SCREENING, flags=(Flag(code="uncertain", message="Look."),))
    assert exam_statistics(other, IMAGE)["check.refused"] == 0


def test_both_depths_have_the_same_statistics():
    wide = with_pixels(PIXELS.astype(np.uint16) * 257)
    assert wide == pytest.approx(with_pixels(PIXELS), abs=2e-3)


def test_blur_lowers_the_detail_and_noise_raises_it():
    noise = np.random.default_rng(1).integers(60, 200, (300, 300)).astype(np.float32)
    blurred = (noise + np.roll(noise, 1, axis=1) + np.roll(noise, 2, axis=1)) / 3
    sharp, soft = with_pixels(noise.astype(np.uint8)), with_pixels(blurred.astype(np.uint8))
    assert soft["image.detail"] < 0.8 * sharp["image.detail"]


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (31, 33), (2000, 3000)])
def test_any_shape_has_statistics(shape):
    found = with_pixels(np.full(shape, 7, np.uint8))
    assert found["image.contrast"] == found["image.detail"] == 0
    assert found["image.dark"] == 1


def test_values_are_shown_to_people():
    assert shown("image.format", 1.0) == "png"
    assert shown("image.format", float(len(FORMATS))) == "another format"
    assert exam_statistics(SCREENING, replace(IMAGE, format="future"))["image.format"] == len(FORMATS)
    assert (shown("image.width", 2048.0), shown("box.x", 0.51234)) == ("2048", "0.512")
    assert group_of("image.width") == "image"
