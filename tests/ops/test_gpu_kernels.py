"""GPU kernels compared with the CPU code and the NumPy reference, at odd sizes.

Without a GPU the kernels' blocks run in a host loop, with blocks and threads in ascending and in shuffled order: equal
results show that no block or thread depends on the order. On a machine with a GPU and pycuda the same tests run the real
kernels.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cxr_edge._core as _core
from cxr_edge.gpu import cuda
from cxr_edge.gpu.interface import frame_bytes, put_frame
from cxr_edge.ops.combine import Combiner
from cxr_edge.ops.lung_box import LungBoxStatus, core_rule
from cxr_edge.ops.preprocess import Preprocessor, core_spec
from cxr_edge.records import Roi
from cxr_edge.specs.combination import ACTIVATIONS, STRATEGIES
from cxr_edge.specs.lung_box import LungBoxRule
from cxr_edge.specs.preprocess import PRESETS, PreprocessSpec
from tests.doubles.emulated_device import EmulatedDevice
from tests.ops import reference
from tests.ops.test_combine import combination
from tests.ops.test_preprocess import DTYPES, SPECS, image_and_box, random_pixels, square
from tests.tolerances import PROBABILITY

LEAVE_FIXTURES = {"suppress_health_check": [HealthCheck.function_scoped_fixture], "deadline": None}


@pytest.fixture(scope="module", params=["emulated", "emulated-shuffled", "gpu"])
def device(request):
    if request.param != "gpu":
        yield EmulatedDevice(seed=0 if request.param == "emulated" else 11)
        return
    reason = cuda.gpu_unavailable_reason() or (
        None if _core.cuda_architectures() else "cxr-edge was built without CUDA"
    )
    if reason is not None:
        pytest.skip(reason)
    gpu = cuda.cuda_device()
    with gpu.current():
        yield gpu


def to_device(device, array):
    """Copy an array into a new device buffer."""
    stream = device.stream()
    buffer = device.allocate(array.nbytes)
    device.upload(buffer.address, np.ascontiguousarray(array), stream)
    device.synchronize(stream)
    return buffer


def from_device(device, buffer, shape, dtype):
    stream = device.stream()
    array = np.zeros(shape, dtype)
    device.download(array, buffer.address, stream)
    device.synchronize(stream)
    return array


def frame_of(device, pixels):
    frame = np.full(frame_bytes(pixels), 0x5A, np.uint8)
    put_frame(pixels, frame)
    return to_device(device, frame)


def preprocess(device, specs, pixels, roi):
    """Run the kernels on one image; return an array (channels, side, side) per spec."""
    preprocessor = _core.DevicePreprocessor([core_spec(s) for s in specs])
    frame, scratch = frame_of(device, pixels), device.allocate(preprocessor.scratch_bytes)
    lungs = to_device(device, np.array(roi.as_tuple(), np.int32))
    outputs = [device.allocate(int(np.prod(s.tensor_shape)) * np.dtype(s.dtype).itemsize) for s in specs]
    stream = device.stream()
    device.kernels(stream).preprocess(
        preprocessor,
        frame=frame.address,
        lungs=lungs.address,
        scratch=scratch.address,
        outputs=[o.address for o in outputs],
    )
    device.synchronize(stream)
    return [from_device(device, o, s.tensor_shape, s.dtype) for o, s in zip(outputs, specs, strict=True)]


@given(image_and_box(), st.integers(1, 70), st.booleans())
@settings(max_examples=60, **LEAVE_FIXTURES)
def test_any_box_at_any_size_equals_the_reference(device, case, side, median):
    pixels, roi = case
    spec = square(side, median=median)
    (actual,) = preprocess(device, [spec], pixels, roi)
    expected = reference.normalize(reference.canvas(pixels, roi.as_tuple(), side), spec)
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "side"),
    [((1, 1), 33), ((1, 700), 64), ((700, 1), 64), ((2048, 3), 64), ((523, 611), 97), ((300, 4500), 5), ((64, 64), 64)],
)
def test_odd_sizes_equal_the_cpu(device, shape, side, dtype):
    """Partial tiles on every side, several chunks of columns per tile, and enlarged images."""
    pixels, roi = random_pixels(*shape, dtype), Roi.full(shape[1], shape[0])
    spec = square(side)
    (actual,) = preprocess(device, [spec], pixels, roi)
    np.testing.assert_array_equal(actual, Preprocessor([spec]).run([pixels], [roi])[0][0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_all_members_in_one_pass_equal_the_cpu(device, dtype):
    pixels, roi = random_pixels(301, 257, dtype), Roi(x0=13, y0=20, x1=250, y1=300)
    tensors = preprocess(device, SPECS, pixels, roi)
    expected = Preprocessor(SPECS).run([pixels], [roi])
    for spec, actual, by_cpu in zip(SPECS, tensors, expected, strict=True):
        assert actual.dtype == spec.dtype
        np.testing.assert_array_equal(actual, by_cpu[0])


def test_more_members_than_one_launch_supports(device):
    pixels, roi = random_pixels(120, 100, np.uint16), Roi(x0=3, y0=5, x1=90, y1=110)
    specs = [square(8 + i % 20, median=i % 3 == 0, channels=3 if i % 2 else 1) for i in range(37)]
    for actual, by_cpu in zip(
        preprocess(device, specs, pixels, roi), Preprocessor(specs).run([pixels], [roi]), strict=True
    ):
        np.testing.assert_array_equal(actual, by_cpu[0])


def test_the_brightest_image_does_not_overflow(device):
    pixels = np.full((9000, 5), 65535, np.uint16)
    (actual,) = preprocess(device, [square(3, standardize="none")], pixels, Roi.full(5, 9000))
    assert (actual == 1.0).all()


def test_half_precision_is_the_rounded_float(device):
    pixels, roi = random_pixels(90, 80, np.uint16), Roi.full(80, 90)
    specs = [square(31), square(31, dtype="float16")]
    single, half = preprocess(device, specs, pixels, roi)
    np.testing.assert_array_equal(half, single.astype(np.float16))


def test_without_a_box_every_member_uses_the_full_frame(device):
    pixels, spec = random_pixels(50, 60, np.uint8), square(20)
    preprocessor = _core.DevicePreprocessor([core_spec(spec)])
    frame, scratch = frame_of(device, pixels), device.allocate(preprocessor.scratch_bytes)
    out, stream = device.allocate(4 * 20 * 20), device.stream()
    device.kernels(stream).preprocess(
        preprocessor, frame=frame.address, lungs=0, scratch=scratch.address, outputs=[out.address]
    )
    device.synchronize(stream)
    expected = Preprocessor([spec]).run([pixels], [Roi.full(60, 50)])[0][0]
    np.testing.assert_array_equal(from_device(device, out, spec.tensor_shape, np.float32), expected)


def lung_box_on(device, mask, rule, width, height):
    """Run the lung box kernel; return crop, detected box and status."""
    frame = frame_of(device, np.zeros((height, width), np.uint8))
    rows, columns = mask.shape
    source, record = to_device(device, mask), device.allocate(9 * 4)
    scratch, stream = device.allocate(_core.lung_scratch_bytes(rows, columns)), device.stream()
    device.kernels(stream).lung_box(
        mask=source.address,
        rows=rows,
        columns=columns,
        rule=core_rule(rule),
        frame=frame.address,
        scratch=scratch.address,
        record=record.address,
    )
    device.synchronize(stream)
    values = from_device(device, record, 9, np.int32).tolist()
    return tuple(values[:4]), tuple(values[4:8]), LungBoxStatus(values[8])


@given(
    rows=st.integers(1, 70), columns=st.integers(1, 70), seed=st.integers(0, 2**16), share=st.floats(0, 0.4),
    min_pixels=st.integers(1, 4), width=st.integers(1, 900), height=st.integers(1, 900),
)  # fmt: skip
@settings(max_examples=100, **LEAVE_FIXTURES)
def test_the_lung_box_equals_the_cpu(device, rows, columns, seed, share, min_pixels, width, height):
    mask = (np.random.default_rng(seed).random((rows, columns)) < share).astype(np.float32)
    rule = LungBoxRule(min_pixels=min_pixels)
    crop, detected, status = lung_box_on(device, mask, rule, width, height)
    expected_status, box = _core.lung_box(mask, core_rule(rule), width_px=width, height_px=height)
    assert (status, detected) == (expected_status, box)
    assert crop == (box if status == LungBoxStatus.VALID else (0, 0, width, height))


@pytest.mark.parametrize("side", [31, 32, 33, 256, 1100])
def test_masks_wider_than_a_word_and_a_thread_block(device, side):
    mask = np.zeros((side, side), np.float32)
    mask[side // 5 : -side // 6, side // 4 : -side // 7] = 0.75
    crop, _, status = lung_box_on(device, mask, LungBoxRule(), 640, 512)
    assert status == LungBoxStatus.VALID
    assert crop == reference.lung_box(mask, 0.5, 1, 0.05, 640, 512)


@given(
    activation=st.sampled_from(ACTIVATIONS), strategy=st.sampled_from(STRATEGIES),
    members=st.integers(1, 9), labels=st.integers(1, 15),
    seed=st.integers(0, 2**16), temperature=st.floats(0.2, 5.0),
)  # fmt: skip
@settings(max_examples=120, **LEAVE_FIXTURES)
def test_the_combination_equals_the_cpu(device, activation, strategy, members, labels, seed, temperature):
    rng = np.random.default_rng(seed)
    temperatures = tuple(rng.uniform(0.5, 3, members))
    labels = max(labels, 2) if activation == "softmax" else labels
    c = combination(strategy, members, labels, seed, temperature, temperatures, activation)
    combiner = Combiner(c, labels=labels)
    stride = labels + int(rng.integers(0, 40))
    logits = np.full((members, stride), np.nan, np.float32)
    logits[:, :labels] = rng.normal(size=(members, labels)) * 4
    expected, winners = combiner.run(logits[None, :, :labels])
    probabilities, winner = combine_on(device, combiner.core, logits, stride, labels)
    np.testing.assert_allclose(probabilities, expected[0], atol=PROBABILITY)
    assert winner == winners[0]


def combine_on(device, combiner, logits, stride, labels):
    parameters, source = to_device(device, combiner.values()), to_device(device, logits)
    scratch, stream = device.allocate(combiner.scratch_bytes), device.stream()
    probabilities, winner = device.allocate(4 * labels), device.allocate(4)
    device.kernels(stream).combine(
        combiner,
        parameters=parameters.address,
        logits=source.address,
        member_stride=stride,
        scratch=scratch.address,
        probabilities=probabilities.address,
        winner=winner.address,
    )
    device.synchronize(stream)
    winning = int(from_device(device, winner, 1, np.int32)[0])
    return from_device(device, probabilities, labels, np.float32), winning


def test_presets_are_among_the_specs():
    assert set(PRESETS.values()) <= set(SPECS)


def test_a_wrong_number_of_outputs_is_rejected(device):
    preprocessor = _core.DevicePreprocessor([core_spec(PreprocessSpec())])
    with pytest.raises(ValueError, match="one output address per spec is needed, expected 1, got 0"):
        _core.Emulated(0).preprocess(preprocessor, frame=0, lungs=0, scratch=0, outputs=[])
