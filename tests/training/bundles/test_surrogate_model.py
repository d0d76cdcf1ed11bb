"""A surrogate of frames: it draws what it was fitted on, mixes all of a group, and tells how near a draw comes."""

from __future__ import annotations

import numpy as np
import pytest

from cxr_edge.bundle.surrogate import draw_images
from cxr_edge.errors import InputError
from training.bundles.surrogate_model import (
    SurrogateSettings,
    component_likeness,
    fit_surrogate,
    nearest_distances,
    shrunk,
)

SETTINGS = SurrogateSettings(
    side_px=64, grid_px=16, map_px=8, components=6, octaves=2, groups=2, least_frames=20, most_frames=40
)


def frames(label: int, count: int, seed: int = 1) -> np.ndarray:
    """Blobs at a place of the label, of varying brightness, with noise."""
    rng, y, x = np.random.default_rng((label, seed)), *np.mgrid[0:64, 0:64]
    centre = 16 + 32 * label
    made = []
    for _ in range(count):
        size, level = rng.uniform(6, 12), rng.uniform(80, 160)
        at = centre + rng.uniform(-4, 4)
        blob = level * np.exp(-((y - 32) ** 2 + (x - at) ** 2) / (2 * size**2))
        made.append(60 + blob + 6 * rng.standard_normal((64, 64)))
    return np.clip(np.rint(made), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def fitted():
    training = np.concatenate([frames(0, 50), frames(1, 30)])
    return fit_surrogate(training, np.repeat([0, 1], [50, 30]), ("left", "right"), SETTINGS)


def drawn(fitted, label: int, count: int = 12) -> np.ndarray:
    coefficients = fitted.draw(label, count, np.random.default_rng(5), np.zeros(6))
    return np.stack(list(draw_images(fitted.model(coefficients, [0] * count), [label] * count)))


@pytest.mark.parametrize(("label", "side"), [(0, slice(0, 32)), (1, slice(32, 64))])
def test_draws_look_like_their_label(fitted, label, side):
    images = drawn(fitted, label).astype(float)
    other = slice(32, 64) if label == 0 else slice(0, 32)
    assert images[:, 24:40, side].mean() > images[:, 24:40, other].mean() + 20


def test_grain_has_the_strength_that_the_components_leave(fitted):
    fine = drawn(fitted, 0).astype(float)
    residual = fine - np.stack(
        [shrunk(f[None].astype(np.uint8), 16).reshape(16, 16).repeat(4, 0).repeat(4, 1) for f in fine]
    )
    assert 0.2 < residual[:, :8].std() / 6 < 1.0  # half of the noise's, by the settings


def test_a_label_is_made_of_at_most_so_many_frames(fitted):
    assert [len(own) for own in fitted.coefficients] == [40, 30]
    assert len(fitted.frames) == 70


def test_the_same_frames_give_the_same_surrogate(fitted):
    training = np.concatenate([frames(0, 50), frames(1, 30)])
    again = fit_surrogate(training, np.repeat([0, 1], [50, 30]), ("left", "right"), SETTINGS)
    assert np.array_equal(again.components, fitted.components)
    assert np.array_equal(drawn(again, 1), drawn(fitted, 1))


def test_steering_moves_every_draw(fitted):
    steer = np.array([2.0, 0, 0, 0, 0, 0])
    plain, moved = (fitted.draw(0, 9, np.random.default_rng(5), s) for s in (np.zeros(6), steer))
    assert np.allclose((moved - plain)[:, 0], 2.0, atol=0.05)


def test_too_few_frames_of_a_label_are_refused():
    with pytest.raises(InputError, match=r"20 training images of each label or more.*right has 5: give real images"):
        fit_surrogate(frames(0, 30), np.repeat([0, 1], [25, 5]), ("left", "right"), SETTINGS)


def test_a_copy_has_no_distance_whatever_its_exposure():
    training = shrunk(frames(0, 20), 16)
    copies = training[:3] * 0.5 + 20
    assert nearest_distances(copies, training) == pytest.approx([0, 0, 0], abs=1e-2)
    assert nearest_distances(shrunk(frames(0, 5, seed=9), 16), training).min() > 0.02


def test_a_component_that_shows_a_frame_is_like_it(fitted):
    rows = (fitted.mean / 32 + 5.0 * fitted.components[2]).astype(np.float32)[None]
    assert component_likeness(fitted, rows) > 0.99
