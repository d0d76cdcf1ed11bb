"""Canvases of full frames: the deployed canvas with its crop, without a lung box."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from cxr_edge.ops.preprocess import Preprocessor, canvas, normalize
from cxr_edge.records import Roi
from cxr_edge.specs.preprocess import PreprocessSpec
from training.data.augment import Augmentation
from training.data.canvases import Canvases, cut, cut_frames
from training.data.dataset import Sample, pixels
from training.data.records import Record
from training.recipes.config import MemberPlan
from training.recipes.flannel.config import FlannelConfig

SIZES = ((120, 90), (64, 64), (71, 133))  # width, height
TWO = {name: MemberPlan(architecture="narrow-vgg", head_maps=0) for name in ("a", "b")}
SPECS = {
    preset: FlannelConfig(name="x", preset=preset, canvas_px=px, learners=TWO).member_spec
    for preset, px in (("paper", 64), ("code", 48))
}


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    """Noise images in three shapes, the last with 16 bits."""
    folder = tmp_path_factory.mktemp("frames")
    samples = []
    for i, (width, height) in enumerate(SIZES):
        noise = np.random.default_rng(i).integers(0, 256, (height, width)).astype(np.uint8)
        path = folder / f"{i}.png"
        cv2.imwrite(str(path), noise if i < 2 else noise.astype(np.uint16) * 257)
        record = Record(
            path=path, key=path.name, patient=f"{i}", label="normal", source="a", view="AP", finding="x", adult=True
        )
        samples.append(Sample(record=record, group=f"{i}", side="train"))
    return samples


@pytest.mark.parametrize("preset", list(SPECS))
def test_the_canvas_is_the_deployed_canvas_of_the_full_frame(preset: str, samples: list[Sample]) -> None:
    spec = SPECS[preset]
    frames = cut_frames(samples, spec, threads=2)
    assert frames.lungs.shape == (3, spec.canvas_px, spec.canvas_px)
    assert frames.lungs.dtype == np.uint8
    for frame, sample, (width, height) in zip(frames.lungs, samples, SIZES, strict=True):
        image = pixels(sample.record)
        expected = canvas(image, Roi.full(width, height), spec)
        assert np.array_equal(frame, expected >> 8 if image.dtype == np.uint16 else expected)
    assert np.array_equal(frames.wide, frames.lungs)


@pytest.mark.parametrize("preset", list(SPECS))
def test_the_network_input_is_the_centre_crop(preset: str, samples: list[Sample]) -> None:
    spec = SPECS[preset]
    margin = (spec.canvas_px - spec.crop_px) // 2
    assert margin > 0
    centre = np.s_[margin : margin + spec.crop_px, margin : margin + spec.crop_px]
    for frame, sample in zip(cut_frames(samples, spec, threads=1).lungs[:2], samples, strict=False):
        inputs = normalize(frame, spec)
        assert inputs.shape == (3, spec.crop_px, spec.crop_px)
        gray = frame[centre].astype(np.float64) / 255
        for channel, mean, std in zip(inputs, spec.mean, spec.std, strict=True):
            np.testing.assert_allclose(channel, (gray - mean) / std, atol=1e-5)
        image = pixels(sample.record)
        (deployed,) = Preprocessor([spec]).run([image], [Roi.full(image.shape[1], image.shape[0])])
        assert np.array_equal(inputs, deployed[0]), "to the last bit"


def test_frames_have_full_boxes_and_no_failures(samples: list[Sample], tmp_path: Path) -> None:
    spec = PreprocessSpec(region="frame", canvas_px=48, crop_px=40)
    frames = cut_frames(samples, spec, threads=1)
    assert not frames.failed.any()
    assert frames.rois.tolist() == [[0, 0, width, height] for width, height in SIZES]
    assert frames.boxes.tolist() == [[0, 0, 48, 48]] * 3
    frames.save(tmp_path / "canvases.npz")
    again = Canvases.load(tmp_path / "canvases.npz")
    for name in ("lungs", "wide", "boxes", "rois", "failed"):
        assert np.array_equal(getattr(again, name), getattr(frames, name))
        assert getattr(again, name).dtype == getattr(frames, name).dtype


@pytest.mark.parametrize("preset", list(SPECS))
def test_a_shift_before_the_centre_crop_is_a_random_crop(preset: str) -> None:
    """The crop reaches the edges of the frame and never crosses them, for integer and fractional shifts."""
    config = FlannelConfig(name="x", preset=preset, canvas_px=SPECS[preset].canvas_px, learners=TWO)
    spec, still = config.member_spec, config.augmentation
    shifts = Augmentation(**{**vars(still), "zoom": 0.0, "flip": 0.0, "noise": 0.0})
    side, margin = spec.canvas_px, (spec.canvas_px - spec.crop_px) / 2
    across = np.tile(np.linspace(40, 240, side).astype(np.uint8), (side, 1))
    found = []
    for seed in range(200):
        warp = shifts.warp((0, 0, side, side), side, np.random.default_rng(seed))
        moved = warp.apply(across)
        crop = moved[int(margin) : int(margin) + spec.crop_px, int(margin) : int(margin) + spec.crop_px]
        assert crop.min() >= 40, "nothing of the black around the frame"
        found.append(warp.matrix[:, 2])
    assert np.abs(found).max() <= margin
    assert np.abs(found).max(axis=0).min() > 0.9 * margin


class _WholeFrame:
    """A lung finder that finds the middle half of every image."""

    def __call__(self, image: np.ndarray) -> tuple[Roi, bool]:  # type: ignore[type-arg]
        height, width = image.shape
        return Roi(x0=width // 4, y0=height // 4, x1=3 * width // 4, y1=3 * height // 4), False


def test_training_canvases_come_from_images_of_one_resolution(tmp_path: Path) -> None:
    """A fine pattern of a large image is gone after the reduction, in the wide cut and not in the deployed canvas."""
    fine = np.kron(np.indices((256, 256)).sum(axis=0) % 2 * 255, np.ones((2, 2))).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "fine.png"), fine)
    record = Record(
        path=tmp_path / "fine.png", key="f", patient="f", label="normal", source="a", view="AP", finding="x", adult=True
    )
    samples = [Sample(record=record, group="f", side="train")]
    spec = PreprocessSpec(canvas_px=256, crop_px=256)
    own = cut(samples, _WholeFrame(), spec, threads=1)  # type: ignore[arg-type]
    reduced = cut(samples, _WholeFrame(), spec, threads=1, source_px=128)  # type: ignore[arg-type]
    same = cut(samples, _WholeFrame(), spec, threads=1, source_px=512)  # type: ignore[arg-type]
    assert np.array_equal(own.lungs, reduced.lungs)
    assert np.array_equal(own.rois, reduced.rois)
    assert np.array_equal(own.boxes, reduced.boxes)
    assert np.array_equal(own.wide, same.wide)
    assert own.wide.std() > 50
    assert reduced.wide.std() < 5
    assert reduced.wide.shape == own.wide.shape
