"""Activation ranges: correct, streamed, cut off where that reduces the error, stored as JSON."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr_edge.compiler import calibrate
from cxr_edge.compiler.calibrate import Ranges, measure_ranges
from cxr_edge.compiler.graph.int8 import SCHEMES, quantize
from cxr_edge.compiler.graph.simplify import simplify
from cxr_edge.errors import BundleError, ContractError, InputError
from cxr_edge.specs.preprocess import PreprocessSpec
from tests.builders.toy_bundle import Graph
from tests.compiler.networks import chain, engine_of, images, saved


@pytest.fixture
def network(tmp_path):
    return saved(chain(), tmp_path)


def test_minmax_is_exact(network, tmp_path):
    batch = images(3)
    ranges = measure_ranges(network, batch, source="test", method="minmax")
    logits = np.concatenate([engine_of(chain(), tmp_path).run({"image": x})["logits"] for x in batch])
    assert ranges.tensors["image"] == (min(x.min() for x in batch), max(x.max() for x in batch))
    assert ranges.tensors["logits"] == pytest.approx((logits.min(), logits.max()), rel=1e-5)
    assert ranges.tensors["features"][0] == 0.0
    assert ranges.images == 3


def test_a_batch_counts_as_its_images(network):
    one_by_one = measure_ranges(network, images(4), source="test")
    together = measure_ranges(network, iter([np.concatenate(images(4))]), source="test")
    assert one_by_one == together


def test_mse_cuts_a_single_outlier_off_and_minmax_does_not():
    histogram = calibrate._Histogram()
    for seed in range(20):
        values = np.random.default_rng(seed).standard_normal(60000).astype(np.float32)
        values[7] = 20.0 if seed == 3 else 0.0
        histogram.add(values)
    low, high = histogram.limits("mse")
    assert 4.0 <= high <= 12.0
    assert low == pytest.approx(-4.5, abs=0.7)
    assert histogram.limits("minmax")[1] == 20.0


def test_mse_keeps_a_tail_with_many_values():
    values = np.random.default_rng(0).uniform(0, 6, 60000).astype(np.float32)
    histogram = calibrate._Histogram()
    histogram.add(values)
    low, high = histogram.limits("mse")
    assert low == 0.0
    assert high == pytest.approx(6.0, abs=0.1)


@given(st.lists(st.floats(0.01, 1e4), min_size=1, max_size=6))
def test_a_histogram_that_grows_has_the_counts_of_one_with_the_final_span(extremes):
    rng = np.random.default_rng(0)
    parts = [(rng.uniform(-1, 1, 500) * e).astype(np.float32) for e in extremes]
    grown, fixed = calibrate._Histogram(), calibrate._Histogram()
    for part in parts:
        grown.add(part)
    for part in sorted(parts, key=lambda p: -np.abs(p).max()):
        fixed.add(part)
    assert grown.edge == fixed.edge
    assert grown.counts.sum() == fixed.counts.sum() == sum(np.count_nonzero(p) for p in parts)
    assert np.array_equal(grown.counts, fixed.counts)


def test_a_tensor_of_zeros_has_the_range_zero():
    histogram = calibrate._Histogram()
    histogram.add(np.zeros(10, np.float32))
    assert histogram.limits("mse") == (0.0, 0.0)


def test_json_round_trip(network, tmp_path):
    ranges = measure_ranges(network, images(2), source="validation patients", inputs_sha256="ab")
    ranges.write(tmp_path / "ranges.json")
    assert Ranges.read(tmp_path / "ranges.json") == ranges
    stored = json.loads((tmp_path / "ranges.json").read_text())
    assert (stored["schema"], stored["images"], stored["source"]) == ("cxr-edge-ranges/1", 2, "validation patients")
    ranges.check(network)


@pytest.mark.parametrize(
    "damage",
    [
        lambda v: v.pop("tensors"),
        lambda v: v.update(schema="cxr-edge-ranges/9"),
        lambda v: v.update(surprise=1),
        lambda v: v["tensors"].update(image=[1.0, -1.0]),
        lambda v: v["tensors"].update(image=["a", 1.0]),
        lambda v: v.update(images=0),
    ],
)
def test_a_damaged_file_is_refused(network, tmp_path, damage):
    values = measure_ranges(network, images(1), source="test").as_json()
    damage(values)
    (tmp_path / "ranges.json").write_text(json.dumps(values))
    with pytest.raises(BundleError, match="activation ranges"):
        Ranges.read(tmp_path / "ranges.json")


def test_ranges_of_another_network_are_refused(network, tmp_path):
    ranges = measure_ranges(network, images(1), source="test")
    other = saved(chain(seed=9), tmp_path, "other.onnx")
    with pytest.raises(ContractError, match=r"measured on a network with SHA-256 .* other.onnx has .*--calibration"):
        ranges.check(other)


def test_no_images(network):
    with pytest.raises(InputError, match="at least one image"):
        measure_ranges(network, [], source="test")


def test_images_of_another_shape(network):
    with pytest.raises(ContractError, match=r"float32 \(N, 1, 16, 16\), got float32 \(1, 1, 8, 8\)"):
        measure_ranges(network, [np.zeros((1, 1, 8, 8), np.float32)], source="test")


def test_values_that_are_not_finite(network):
    image = images(1)[0]
    image[0, 0, 3, 3] = np.nan
    with pytest.raises(ContractError, match="not finite"):
        measure_ranges(network, [image], source="test")


def test_tensors_that_simplification_adds_are_measured_too(tmp_path):
    """HardSwish is a function: its body takes its place, and int8 needs the range of the tensor inside (MobileNet-V3, ViT)."""
    spec, g = PreprocessSpec(region="frame", canvas_px=16, crop_px=16), Graph(seed=1)
    x = g.op("HardSwish", g.conv("image", 1, 8, stride=2))
    x = g.op("HardSwish", g.conv(x, 8, 8, stride=2))
    g.op("Flatten", g.op("GlobalAveragePool", g.conv(x, 8, 3, 1)), name="logits")
    network = saved(g.model(spec, {"logits": ("N", 3)}), tmp_path)
    batch = [np.random.default_rng(i).normal(size=(1, 1, 16, 16)).astype(np.float32) for i in range(8)]
    ranges, simplified = measure_ranges(network, batch, source="test"), simplify(network).model
    added = {o for n in simplified.graph.node for o in n.output} - {o for n in g.nodes for o in n.output}
    assert added <= set(ranges.tensors)
    assert len(added) == 2
    assert all(0 <= low <= high <= 1 for low, high in (ranges.tensors[name] for name in added))  # a HardSigmoid
    outputs = [
        np.concatenate([engine_of(m, tmp_path).run({"image": x})["logits"] for x in batch])
        for m in (simplified, quantize(simplified, ranges.tensors, SCHEMES["uint8"]))
    ]
    assert np.abs(outputs[1] - outputs[0]).max() < 0.05 * np.ptp(outputs[0])


def test_whole_numbers_are_not_quantised(tmp_path):
    """As in ViT: the size of a tensor that Expand makes for the batch is joined by a Concat, before the layers."""
    spec, g = PreprocessSpec(region="frame", canvas_px=8, crop_px=8), Graph(seed=1)
    x = g.op("Relu", g.conv("image", 1, 4, stride=2))
    batch_size = g.op("Shape", "image", start=0, end=1)
    size = g.op("Concat", batch_size, g.constant([4, 1, 4], np.int64), axis=0)
    joined = g.op("Concat", x, g.op("Expand", g.constant(np.full((1, 1, 1, 1), 0.5)), size), axis=2)
    g.op("Flatten", g.op("GlobalAveragePool", g.conv(joined, 4, 3, 1)), name="logits")
    network = saved(g.model(spec, {"logits": ("N", 3)}), tmp_path)
    batch = [np.random.default_rng(i).normal(size=(1, 1, 8, 8)).astype(np.float32) for i in range(8)]
    ranges, simplified = measure_ranges(network, batch, source="test"), simplify(network).model
    assert any(n.op_type == "Expand" for n in simplified.graph.node)
    quantised = quantize(simplified, ranges.tensors, SCHEMES["int8"])
    sizes = {n.input[1] for n in quantised.graph.node if n.op_type == "Expand"}
    producers = {o: n for n in quantised.graph.node for o in n.output}
    assert [producers[name].op_type for name in sizes] == ["Concat"]
    assert engine_of(quantised, tmp_path).run({"image": batch[0]})["logits"].shape == (1, 3)
