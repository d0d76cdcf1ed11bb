"""Native preprocessing compared with the NumPy reference: bit for bit, at all sizes."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_edge.errors import ContractError, InputError
from cxr_edge.ops.preprocess import Preprocessor, canvas, normalize
from cxr_edge.records import Roi
from cxr_edge.specs.preprocess import PRESETS, PreprocessSpec, preset
from tests.ops import reference

DTYPES = [np.uint8, np.uint16]


def random_pixels(height, width, dtype, seed=0):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, (height, width), dtype=dtype, endpoint=True)


def square(side, **changes):
    return PreprocessSpec(canvas_px=side, crop_px=side, **changes)


@st.composite
def image_and_box(draw):
    width, height = draw(st.integers(1, 90)), draw(st.integers(1, 90))
    x0, y0 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    x1, y1 = draw(st.integers(x0 + 1, width)), draw(st.integers(y0 + 1, height))
    pixels = random_pixels(height, width, draw(st.sampled_from(DTYPES)), draw(st.integers(0, 2**16)))
    return pixels, Roi(x0=x0, y0=y0, x1=x1, y1=y1)


@given(image_and_box(), st.integers(1, 70))
@settings(max_examples=200, deadline=None)
def test_canvas_is_the_exact_area_average(case, side):
    pixels, roi = case
    np.testing.assert_array_equal(canvas(pixels, roi, square(side)), reference.canvas(pixels, roi.as_tuple(), side))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (1, 700), (700, 1), (2048, 3), (523, 611)])
def test_canvas_at_odd_sizes(shape, dtype):
    pixels = random_pixels(*shape, dtype)
    full = Roi.full(shape[1], shape[0])
    np.testing.assert_array_equal(canvas(pixels, full, square(64)), reference.canvas(pixels, full.as_tuple(), 64))


def test_canvas_of_the_brightest_image_does_not_overflow():
    pixels = np.full((9000, 4), 65535, dtype=np.uint16)
    assert (canvas(pixels, Roi.full(4, 9000), square(3)) == 65535).all()


def test_canvas_of_its_own_size_is_a_copy():
    pixels = random_pixels(37, 37, np.uint16)
    np.testing.assert_array_equal(canvas(pixels, Roi.full(37, 37), square(37)), pixels)


def test_golden_canvas():
    pixels = (np.arange(6)[:, None] * 40 + np.arange(6)[None, :]).astype(np.uint8)
    shrunk = [[14, 15, 17, 18], [67, 68, 70, 71], [134, 135, 137, 138], [187, 188, 190, 191]]
    assert canvas(pixels, Roi.full(6, 6), square(4)).tolist() == shrunk
    grown = [[41, 41, 42, 42], [51, 51, 52, 52], [71, 71, 72, 72], [81, 81, 82, 82]]
    assert canvas(pixels, Roi(x0=1, y0=1, x1=3, y1=3), square(4)).tolist() == grown


SPECS = [
    *PRESETS.values(),
    square(17, median=True),
    square(16, median=True, standardize="none"),
    square(1, median=True),
    square(2, median=True, channels=3),
    PreprocessSpec(canvas_px=31, crop_px=24, standardize="fixed", mean=(0.4,), std=(0.2,), dtype="float16"),
    PreprocessSpec(canvas_px=30, crop_px=30, dtype="float16"),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.digest()[:6])
def test_normalize_equals_the_reference(spec, dtype):
    pixels = random_pixels(spec.canvas_px, spec.canvas_px, dtype)
    actual = normalize(pixels, spec)
    assert actual.dtype == spec.dtype
    np.testing.assert_array_equal(actual, reference.normalize(pixels, spec))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_fused_equals_the_two_halves_for_all_members_at_once(threads, dtype):
    images = [random_pixels(h, w, dtype, seed=h) for h, w in [(301, 257), (40, 64), (1, 1)]]
    rois = [Roi(x0=10, y0=20, x1=250, y1=300), Roi.full(64, 40), Roi.full(1, 1)]
    outputs = Preprocessor(SPECS, threads=threads).run(images, rois)
    for spec, out in zip(SPECS, outputs, strict=True):
        assert out.shape == (3, *spec.tensor_shape)
        for i, (pixels, roi) in enumerate(zip(images, rois, strict=True)):
            region = roi if spec.region == "lungs" else Roi.full(pixels.shape[1], pixels.shape[0])
            np.testing.assert_array_equal(out[i], normalize(canvas(pixels, region, spec), spec))


def test_a_batch_may_mix_8_and_16_bits():
    low = random_pixels(50, 50, np.uint8)
    high = low.astype(np.uint16) * 257
    spec = square(50, standardize="none")
    (out,) = Preprocessor([spec]).run([low, high], [Roi.full(50, 50)] * 2)
    np.testing.assert_allclose(out[0], out[1], atol=1e-6)


def test_strided_rows_and_columns_are_read_correctly():
    base = random_pixels(80, 90, np.uint16)
    spec = square(20)
    for view in (base[::2, :], base[5:40, 3:60], base[:, ::3], base[::-1], base.T, np.asfortranarray(base)):
        contiguous = np.ascontiguousarray(view)
        roi = Roi.full(contiguous.shape[1], contiguous.shape[0])
        np.testing.assert_array_equal(canvas(view, roi, spec), canvas(contiguous, roi, spec))
        np.testing.assert_array_equal(
            Preprocessor([spec]).run([view], [roi])[0], Preprocessor([spec]).run([contiguous], [roi])[0]
        )


def test_a_flat_crop_stays_finite():
    flat = np.full((30, 30), 77, dtype=np.uint8)
    assert np.isfinite(normalize(flat, square(30))).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_nearly_flat_crop_equals_the_reference(dtype):
    """Its variance is a quarter: below 1, and for 8 bits above the floor of the deviation."""
    pixels = np.full((20, 20), 77, dtype)
    pixels[::2] += 1
    np.testing.assert_array_equal(normalize(pixels, square(20)), reference.normalize(pixels, square(20)))


def test_float16_rounds_as_numpy_does():
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    ties = 2**25 / 65535  # a value's step is half of float16's smallest number
    for mean, std in [
        ((0.0,), (ties,)),
        ((0.5,), (1e-5,)),
        ((0.5,), (1e-6,)),
        ((0.0,), (1.0,)),
        ((0.0,), (30000.0,)),
        ((1.0,), (1e-4,)),
    ]:
        spec = square(256, standardize="fixed", mean=mean, std=std, dtype="float16")
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(
                normalize(values, spec).view(np.uint16), reference.normalize(values, spec).view(np.uint16)
            )


def test_the_output_of_the_caller_is_written_and_returned():
    p = Preprocessor([square(8)])
    out = p.allocate(1)
    assert p.run([random_pixels(9, 9, np.uint8)], [Roi.full(9, 9)], out)[0] is out[0]


def test_threads_may_share_a_preprocessor():
    from concurrent.futures import ThreadPoolExecutor

    shared = Preprocessor([square(64), square(32, median=True)], threads=2)
    images = [random_pixels(300 + i, 200 + i, np.uint16, seed=i) for i in range(24)]

    def run(pixels):
        return shared.run([pixels], [Roi.full(pixels.shape[1], pixels.shape[0])])

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(run, images))
    for results, pixels in zip(together, images, strict=True):
        for a, b in zip(results, run(pixels), strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_box_outside_the_image_is_rejected():
    with pytest.raises(InputError, match=r"reaches outside the image of 5x4 px"):
        canvas(random_pixels(4, 5, np.uint8), Roi(x0=0, y0=0, x1=6, y1=4), square(8))


@pytest.mark.parametrize(
    "bad", [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.float32), np.zeros((0, 4), np.uint8)]
)
def test_arrays_that_are_not_gray_pixels_are_rejected(bad):
    with pytest.raises(InputError, match="expected gray pixels"):
        canvas(bad, Roi(x0=0, y0=0, x1=1, y1=1), square(8))


def test_the_longest_side_is_accepted_and_a_longer_one_is_rejected():
    longest = np.full((1, 65535), 65535, dtype=np.uint16)
    assert (canvas(longest, Roi.full(65535, 1), square(7)) == 65535).all()
    with pytest.raises(InputError, match="at most 65535 px, got 65536x1"):
        canvas(np.zeros((1, 65536), np.uint8), Roi.full(65536, 1), square(7))


def test_wrong_outputs_and_counts_are_rejected():
    p = Preprocessor([square(8)])
    pixels, roi = random_pixels(9, 9, np.uint8), Roi.full(9, 9)
    with pytest.raises(InputError, match="one lung box"):
        p.run([pixels], [])
    with pytest.raises(
        ContractError, match=r"output 0 must be a writable C-contiguous float32 array of shape \(1, 1, 8, 8\)"
    ):
        p.run([pixels], [roi], [np.empty((1, 1, 8, 9), np.float32)])
    read_only = np.empty((1, 1, 8, 8), np.float32)
    read_only.flags.writeable = False
    for wrong in (read_only, np.empty((1, 1, 8, 8), np.float16), np.empty((1, 1, 8, 16), np.float32)[..., ::2]):
        with pytest.raises(ContractError, match="output 0 must be a writable C-contiguous"):
            p.run([pixels], [roi], [wrong])
    with pytest.raises(ContractError, match="1 output arrays"):
        p.run([pixels], [roi], [])
    with pytest.raises(ContractError, match="at least one spec"):
        Preprocessor([])
    with pytest.raises(InputError, match="threads must be 1 or more, got 0"):
        Preprocessor([square(8)], threads=0)
    with pytest.raises(ContractError, match="canvases of 8x8"):
        normalize(random_pixels(9, 9, np.uint8), square(8))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"region": "heart"}, "region must be 'lungs' or 'frame'"),
        ({"canvas_px": 0}, "canvas_px must be"),
        ({"canvas_px": True}, "canvas_px must be"),
        ({"crop_px": 225}, "crop_px must be a whole number from 1 to canvas_px = 224"),
        ({"channels": 2}, "channels must be 1 or 3"),
        ({"standardize": "fixed"}, "mean must be 1 finite numbers"),
        ({"standardize": "fixed", "mean": (0.5,), "std": (0.0,)}, "std must be numbers above 0"),
        ({"mean": (0.5,)}, "mean must be 0 finite numbers"),
        ({"dtype": "bfloat16"}, "dtype must be"),
    ],
)
def test_a_spec_that_exists_is_valid(changes, message):
    with pytest.raises(ContractError, match=message):
        PreprocessSpec(**changes)


def test_spec_json_round_trip_and_digest():
    for spec in SPECS:
        assert PreprocessSpec.from_json(spec.as_json()) == spec
    assert len({s.digest() for s in SPECS}) == len(SPECS)
    assert preset("sane").digest() == replace(preset("sane")).digest()


def test_digest_is_pinned():
    """A change here means that existing bundles no longer match: increase ARITHMETIC_VERSION and document it."""
    assert preset("sane").digest() == "ad1a8095e8b2527314647ef2d093e8b6623d62975c25e1a5f0c2b024294cab92"


def test_spec_reading_is_strict():
    valid = preset("sane").as_json()
    with pytest.raises(ContractError, match=r"unknown: \['gamma'\]"):
        PreprocessSpec.from_json({**valid, "gamma": 2})
    with pytest.raises(ContractError, match="arithmetic version 1, the spec has version 2"):
        PreprocessSpec.from_json({**valid, "arithmetic": 2})
    with pytest.raises(ContractError, match="no preprocessing preset is called 'sain'"):
        preset("sain")
