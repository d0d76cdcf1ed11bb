"""Ranking of layers by sensitivity: the failing layer comes first, within the time limit; unmeasured layers stay grouped."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest

from cxr_edge.compiler import candidates, sensitivity
from cxr_edge.compiler.calibrate import Ranges, measure_ranges
from cxr_edge.compiler.candidates import RECIPES
from cxr_edge.compiler.sensitivity import IMAGES, LayerSensitivity, Study, layer_outputs, rank_layers
from tests.builders.toy_bundle import MEMBER_SPECS, Graph, member_model
from tests.compiler.networks import SPEC, deep, engine_of, images, saved

LAYERS = 6
BY_NAME = {recipe.name: recipe for recipe in RECIPES}


def study_of(model, recipe, folder, count=10):
    recipe = BY_NAME[recipe]
    inputs = images(count)
    reference = engine_of(model, folder / "fp32")
    ranges: Ranges = measure_ranges(saved(model, folder / "ranges"), inputs, source="test")
    return Study(
        model=model,
        layer_outputs=layer_outputs(model, candidates.reducible_layers(recipe, model)),
        reduced=lambda keep: candidates.rewrite_for_cpu(recipe.mixed(keep), model, ranges),
        output="logits",
        inputs=inputs,
        expected=[reference.run({"image": x})["logits"][0] for x in inputs],
        run_s=0.001,
    )


@pytest.mark.parametrize(("recipe", "how"), [("int8", "int8"), ("uint8", "int8"), ("fp16", "fp16")])
def test_the_failing_layer_comes_first(recipe, how, tmp_path):
    study = study_of(deep(LAYERS, bad=3, how=how), recipe, tmp_path)
    first, *others = rank_layers(study).sensitivities
    assert first.layers == ("layer_3",)
    assert len(others) == len(study.layer_outputs) - 1
    if how == "fp16":
        assert first.relative_change is None
        assert "layer_3 (not finite)" in str(first)
    assert all(s.relative_change is not None and s.relative_change < 0.1 for s in others)
    assert [s.relative_change for s in others] == sorted((s.relative_change for s in others), reverse=True)


def test_bfloat16_has_the_range_but_less_precision(tmp_path):
    model = deep(LAYERS, bad=3, how="fp16")
    fine, coarse = (rank_layers(study_of(model, r, tmp_path)).sensitivities for r in ("fp16", "bf16"))
    fp16, bf16 = ({s.layers: s.relative_change for s in ranking} for ranking in (fine, coarse))
    assert all(change is not None and change < 0.1 for change in bf16.values())
    others = [layers for layers, change in fp16.items() if change is not None]
    assert np.mean([bf16[n] for n in others]) > 3 * np.mean([fp16[n] for n in others])


def test_the_change_is_relative_to_the_standard_deviation(tmp_path):
    """Computed in the test for one layer: the network with only that layer reduced, on the selected images."""
    study = study_of(deep(LAYERS), "int8", tmp_path, count=5)
    entry = next(s for s in rank_layers(study).sensitivities if s.layers == ("layer_2",))
    everything = frozenset(name for node in study.model.graph.node for name in node.output)
    engine = engine_of(study.reduced(everything - study.layer_outputs["layer_2"]), tmp_path / "one")
    actual = np.stack([engine.run({"image": x})["logits"][0] for x in study.inputs])
    expected = np.stack(study.expected)
    change = np.sqrt(np.mean((actual - expected) ** 2)) / expected.std()
    assert entry.relative_change == pytest.approx(change, rel=0.05)
    assert 0.0001 < entry.relative_change < 0.5


def test_the_number_of_images_is_limited(tmp_path, monkeypatch):
    study = study_of(deep(2), "fp16", tmp_path, count=2 * IMAGES)
    ran = []
    real = sensitivity.OnnxRuntimeBackend.load_reference

    def load(self, path, options):
        engine = real(self, path, options)
        run = engine.run
        monkeypatch.setattr(engine, "run", lambda inputs: ran.append(1) or run(inputs))
        return engine

    monkeypatch.setattr(sensitivity.OnnxRuntimeBackend, "load_reference", load)
    rank_layers(study)
    assert len(ran) == IMAGES * len(study.layer_outputs)


def test_a_network_that_is_too_slow_is_skipped(tmp_path):
    study = dataclasses.replace(study_of(deep(2), "fp16", tmp_path), run_s=5.0)
    ranking = rank_layers(study)
    assert ranking.sensitivities == ()
    assert ranking.skipped is not None
    assert "one image takes 5.0 s in fp32" in ranking.skipped
    assert "more than 160 s (at most 60 s" in ranking.skipped


def test_without_time_for_single_layers_neighbours_are_measured_together(tmp_path):
    study = dataclasses.replace(study_of(deep(11, bad=7), "int8", tmp_path), run_s=0.0)
    ranking = rank_layers(study, budget_s=1e-6).sensitivities
    assert sorted(name for s in ranking for name in s.layers) == sorted(study.layer_outputs)
    assert len(ranking) < len(study.layer_outputs)
    assert "layer_7" in ranking[0].layers
    assert " + " in str(max(ranking, key=lambda s: len(s.layers)))


def test_the_most_sensitive_group_is_split_until_its_layer_is_found(tmp_path, monkeypatch):
    study = study_of(deep(11, bad=7), "int8", tmp_path)
    monkeypatch.setattr(sensitivity, "_groups", lambda layers, runs: [layers])
    calls = []
    real = sensitivity._Measurement.__call__

    def counted(self, layers):
        calls.append(layers)
        if len(calls) == 8:  # one pair of runs too few for single layers
            monkeypatch.setattr(time, "perf_counter", lambda: float("inf"))
        return real(self, layers)

    monkeypatch.setattr(sensitivity._Measurement, "__call__", counted)
    ranking = rank_layers(study).sensitivities
    assert ranking[0].layers == ("layer_7",)
    assert sorted(name for s in ranking for name in s.layers) == sorted(study.layer_outputs)


def test_every_node_belongs_to_the_layer_that_it_follows():
    model = member_model("residual", MEMBER_SPECS["residual"])
    layers = candidates.reducible_layers(BY_NAME["fp16"], model)
    found = layer_outputs(model, layers)
    assert tuple(found) == layers
    owners = [layer for layer in layers for name in found[layer]]
    assert len(owners) == len(model.graph.node)
    first, inner, last = layers[0], layers[2], layers[3]
    producers = {out: n.op_type for n in model.graph.node for out in n.output}
    assert sorted(producers[name] for name in found[first]) == ["Conv", "MaxPool", "Relu"]
    assert sorted(producers[name] for name in found[inner]) == ["Add", "Conv", "Relu"]  # an Add to the later branch
    assert sorted(producers[name] for name in found[last]) == ["Concat", "Conv", "Relu"]


def test_nodes_before_the_first_layer_belong_to_none():
    g = Graph(41)
    x = g.conv(g.op("MaxPool", "image", kernel_shape=[2, 2], strides=[2, 2], name="before"), 1, 4)
    g.op("ReduceMean", g.conv(x, 4, 4, 1), axes=[2, 3], keepdims=0, name="logits")
    model = g.model(SPEC, {"logits": ("N", 4)})
    assert "before" not in {
        name
        for outputs in layer_outputs(model, candidates.reducible_layers(BY_NAME["fp16"], model)).values()
        for name in outputs
    }


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("/trunk/trunk.4/five/five.2/five.2.0/Conv_output_0", "trunk.4/five.2.0/Conv"),
        ("/head/ReduceMean_output_0", "head/ReduceMean"),
        ("layer_3", "layer_3"),
        ("cam", "cam"),
    ],
)
def test_names_are_shortened(name, short):
    assert str(LayerSensitivity(layers=(name,), relative_change=0.01234)) == f"{short} (1.23%)"
