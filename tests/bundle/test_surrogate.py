"""Draws of a surrogate: the same bytes everywhere, within their sizes."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest

from cxr_edge.bundle.surrogate import SurrogateModel, SurrogateSize, draw_images, grain, grain_sd
from cxr_edge.specs.json_fields import FieldError

SIZE = SurrogateSize(side_px=32, grid_px=8, map_px=4, components=3, octaves=2, labels=2, tones=2, draws=3, seed=7)


def model(size: SurrogateSize = SIZE, **changes: Any) -> SurrogateModel:
    rng = np.random.default_rng(3)
    arrays: dict[str, Any] = {
        "mean": rng.integers(32 * 80, 32 * 160, 64).astype(np.int16),
        "components": rng.integers(-40, 40, (size.components, 64)).astype(np.int8),
        "coefficients": rng.integers(-127, 128, (size.draws, size.components)).astype(np.int8),
        "tones": np.array([0, 1, 0][: size.draws], np.uint8),
        "texture": rng.integers(0, 60, (2, size.octaves, 16)).astype(np.uint8),
        "curves": np.stack([np.arange(256), 255 - np.arange(256)]).astype(np.uint8),
    }
    return SurrogateModel(size=size, **{**arrays, **changes})


def test_the_draws_are_the_same_bytes_on_every_machine():
    images = list(draw_images(model(), [0, 1, 1]))
    assert [i.shape for i in images] == [(32, 32)] * 3
    assert hashlib.sha256(b"".join(i.tobytes() for i in images)).hexdigest() == GOLDEN


GOLDEN = "a41d0796c5f1c04f26128800a892be78408411017e62e9bb6a064f4a478652eb"


def test_a_draw_is_the_mean_plus_its_components_enlarged():
    flat = model(
        components=np.full((3, 64), 10, np.int8),
        coefficients=np.array([[32, 0, 0], [0, 0, 0], [-32, -32, -32]], np.int8),
        mean=np.full(64, 32 * 100, np.int16),
        texture=np.zeros((2, 2, 16), np.uint8),
    )
    levels = [np.unique(i).tolist() for i in draw_images(flat, [0, 0, 0])]
    assert levels == [[110], [155], [70]]  # the second through the inverting curve


def test_enlargement_is_bilinear():
    ramp = np.tile(np.arange(8) * 16, (8, 1))
    own = model(
        components=np.zeros((3, 64), np.int8),
        mean=(32 * ramp).ravel().astype(np.int16),
        texture=np.zeros((2, 2, 16), np.uint8),
    )
    row = next(draw_images(own, [0, 0, 0]))[5]
    assert row[:8].tolist() == [0, 0, 2, 6, 10, 14, 18, 22]


def test_levels_beyond_the_range_are_clipped():
    bright = model(
        mean=np.full(64, 32 * 300, np.int16), components=np.zeros((3, 64), np.int8), tones=np.zeros(3, np.uint8)
    )
    assert {int(v) for i in draw_images(bright, [0, 0, 0]) for v in np.unique(i)} == {255}


@pytest.mark.parametrize("octave", [0, 1, 2])
def test_grain_has_no_mean_and_differs_by_draw(octave):
    size = SurrogateSize(side_px=128, grid_px=8, map_px=4, components=1, octaves=3, labels=1, tones=1, draws=2, seed=7)
    first, second = (grain(size, draw, octave) / grain_sd(size, octave) for draw in (0, 1))
    assert abs(first.mean()) < 0.05
    assert first.std() == pytest.approx(1.0 if octave == 0 else 0.65, abs=0.08)  # enlargement evens out
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.05


def test_arrays_come_back_from_their_bytes():
    before = model()
    content = before.as_bytes()
    assert len(content) == SIZE.bytes
    after = SurrogateModel.of_bytes(content, SIZE)
    assert [i.tolist() for i in draw_images(after, [0, 1, 0])] == [i.tolist() for i in draw_images(before, [0, 1, 0])]


def test_arrays_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"mean must be <i2 \(64,\), got int16 \(9,\)"):
        model(mean=np.zeros(9, np.int16))
    with pytest.raises(FieldError, match="of its curves"):
        model(tones=np.array([0, 2, 0], np.uint8))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"side_px": 4096}, "side_px must be at most 512"),
        ({"components": 2000}, "components must be at most 1024"),
        ({"grid_px": 7}, "grid_px must be a divisor of side_px, 32"),
        ({"draws": 0}, "draws must be a whole number, 1 or more"),
        ({"labels": True}, "labels must be a whole number"),
        ({"seed": 2**32}, "seed must be at most"),
    ],
)
def test_sizes_are_checked_before_anything_is_allocated(change, message):
    with pytest.raises(FieldError, match=message):
        SurrogateSize.from_json({**SIZE.as_json(), **change})
