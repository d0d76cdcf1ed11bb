"""The stated input: presets, files, what they become, and that plain NumPy and the deployed code give the same numbers."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cxr_edge.errors import InputError
from cxr_edge.imports.plain_input import plain_input
from cxr_edge.imports.trained_input import PRESETS, TrainedInput, read_trained_input
from cxr_edge.ops.preprocess import Preprocessor
from cxr_edge.records import Roi
from tests.imports.networks import drawn


def written(tmp_path, text, name="spec.toml"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("torchxrayvision", -1024, 1024), ("unit", 0, 1), ("bytes", 0, 255), ("symmetric", -1, 1)],
)
def test_ranges_of_the_presets(name, low, high):
    spec = read_trained_input(name).deployed(4, 1).spec
    pixels = np.array([[0, 255], [51, 204]], np.uint8).repeat(2, 0).repeat(2, 1)
    (tensor,) = Preprocessor([spec]).run([pixels], [Roi.full(4, 4)])
    expected = low + pixels / 255 * (high - low)
    np.testing.assert_allclose(tensor[0, 0], expected, atol=1e-6 * max(abs(low), high))


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize(
    "trained",
    [
        *PRESETS.values(),
        TrainedInput(resize=40, median=True, range=(0.0, 255.0), mean=(103.9, 116.8, 123.7)),
        TrainedInput(region="lungs", range=(-1.0, 1.0), mean=(0.1,), std=(0.7,)),
    ],
    ids=str,
)
def test_plain_and_deployed_input_agree(trained, layout):
    for image in drawn():
        box = Roi(x0=3, y0=5, x1=image.width_px - 20, y1=image.height_px - 31)
        plain = plain_input(image.pixels, box, trained, size=32, channels=3, layout=layout, dtype="float32")
        (tensor,) = Preprocessor([trained.deployed(32, 3).spec]).run([image.pixels], [box])
        assert plain.shape == ((1, 3, 32, 32) if layout == "nchw" else (1, 32, 32, 3))
        expected = plain if layout == "nchw" else plain.transpose(0, 3, 1, 2)
        np.testing.assert_allclose(tensor, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


def test_enlarging_agrees():
    image = drawn()[0]
    plain = plain_input(
        image.pixels, Roi.full(9, 9), PRESETS["unit"], size=300, channels=1, layout="nchw", dtype="float32"
    )
    (tensor,) = Preprocessor([PRESETS["unit"].deployed(300, 1).spec]).run([image.pixels], [Roi.full(9, 9)])
    np.testing.assert_allclose(tensor, plain, atol=1e-6)


def test_whole_numbers_are_rounded():
    image = drawn()[1]  # 16 bit
    tensor = plain_input(
        image.pixels, Roi.full(9, 9), PRESETS["bytes"], size=16, channels=1, layout="nchw", dtype="uint8"
    )
    assert tensor.dtype == np.uint8
    assert tensor.max() > 100


def test_a_file_over_a_preset(tmp_path):
    text = 'preset = "imagenet"\nsize = 224\nresize = 256\nregion = "lungs"\nlayout = "nhwc"\nstd = [0.5]\n'
    found = read_trained_input(written(tmp_path, text))
    assert found == TrainedInput(
        size=224, resize=256, region="lungs", layout="nhwc", mean=(0.485, 0.456, 0.406), std=(0.5,)
    )
    spec = found.deployed(224, 3).spec
    assert (spec.canvas_px, spec.crop_px, spec.channels, spec.std) == (256, 224, 3, (0.5,) * 3)


def test_a_json_file_has_the_same_keys(tmp_path):
    values = {"range": [-1024, 1024], "channels": 1, "median": True}
    found = read_trained_input(written(tmp_path, json.dumps(values), "spec.json"))
    assert found == TrainedInput(range=(-1024.0, 1024.0), channels=1, median=True)


def test_falling_brightness(tmp_path):
    found = read_trained_input(written(tmp_path, "range = [1, 0]\nmean = [0.5]\nstd = [0.25]\n")).deployed(8, 1)
    assert found.spec.standardize == "none"
    assert (found.factor, found.offset) == ((-4.0,), (2.0,))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sizes = 3", "'sizes' is no key here; known: preset, size, resize, channels"),
        ('preset = "x"', "preset is one of torchxrayvision, imagenet"),
        ("preset = [1]", "preset is one of"),
        ("size = 0", "size must be a whole number from 1 to 4096, got 0"),
        ("size = true", "size must be"),
        ("channels = 2", "channels must be 1 or 3, got 2"),
        ('region = "heart"', 'region must be "frame" or "lungs"'),
        ("median = 1", "median must be true or false"),
        ('layout = "chw"', 'layout must be "nchw" or "nhwc"'),
        ("range = [1]", "range must be two different numbers"),
        ("range = [1, 1]", "range must be two different numbers"),
        ('mean = ["a"]', "mean must be a list of finite numbers"),
        ("mean = 0.5", "TypeError|mean|not"),
        ("std = [0]", "std must be numbers above 0"),
        ("mean = [1, 2]", "mean must be one number, or one per channel"),
        ('preset = "per-image"\nmean = [1]', "per_image must be without range, mean and std"),
        ("size = ", "cannot be read"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read_trained_input(written(tmp_path, text))


def test_names_that_are_no_file(tmp_path):
    with pytest.raises(InputError, match="--preprocess takes torchxrayvision, imagenet"):
        read_trained_input("imagnet")
    with pytest.raises(InputError, match="cannot be read"):
        read_trained_input(str(tmp_path / "missing.toml"))
    with pytest.raises(InputError, match="must be a table"):
        read_trained_input(written(tmp_path, "[1]", "spec.json"))


def test_a_crop_larger_than_the_canvas():
    with pytest.raises(InputError, match="crop_px must be a whole number from 1 to canvas_px = 100, got 224"):
        TrainedInput(resize=100).deployed(224, 1)


def test_the_description():
    assert PRESETS["per-image"].describe() == "full frame, mean and standard deviation of the image"
    assert TrainedInput(region="lungs", mean=(0.5, 0.4, 0.3), std=(0.2,)).describe() == (
        "lung box, black 0, white 1, minus 0.5 / 0.4 / 0.3, divided by 0.2"
    )
