"""The ranking of layers by harm: it finds the one that is fatal, within its time, and says what it could not tell apart."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest

from cxr_edge.compiler import candidates, sensitivity
from cxr_edge.compiler.calibrate import Ranges, measure_ranges
from cxr_edge.compiler.candidates import RECIPES
from cxr_edge.compiler.sensitivity import IMAGES, Harm, Study, rank_layers, units
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
        units=units(model, candidates.layers(recipe, model)),
        reduced=lambda keep: candidates.on_reference(recipe.mixed(keep), model, ranges),
        output="logits",
        inputs=inputs,
        wanted=[reference.run({"image": x})["logits"][0] for x in inputs],
        run_s=0.001,
    )


@pytest.mark.parametrize(("recipe", "how"), [("int8", "int8"), ("uint8", "int8"), ("fp16", "fp16")])
def test_the_fatal_layer_comes_first(recipe, how, tmp_path):
    study = study_of(deep(LAYERS, bad=3, how=how), recipe, tmp_path)
    first, *others = rank_layers(study).harms
    assert first.layers == ("layer_3",)
    assert len(others) == len(study.units) - 1
    if how == "fp16":
        assert first.moved is None
        assert "layer_3 (not finite)" in str(first)
    assert all(h.moved is not None and h.moved < 0.1 for h in others)
    assert [h.moved for h in others] == sorted((h.moved for h in others), reverse=True)


def test_bfloat16_has_the_range_but_not_the_digits(tmp_path):
    model = deep(LAYERS, bad=3, how="fp16")
    fine, coarse = (rank_layers(study_of(model, r, tmp_path)).harms for r in ("fp16", "bf16"))
    moved = [{h.layers: h.moved for h in harms} for harms in (fine, coarse)]
    assert all(coarse is not None and coarse < 0.1 for coarse in moved[1].values())
    others = [layers for layers, value in moved[0].items() if value is not None]
    assert np.mean([moved[1][n] for n in others]) > 3 * np.mean([moved[0][n] for n in others])


def test_the_figure_is_the_change_over_the_spread(tmp_path):
    """By hand for one layer: the network with only that layer reduced, on the images chosen."""
    study = study_of(deep(LAYERS), "int8", tmp_path, count=5)
    harm = next(h for h in rank_layers(study).harms if h.layers == ("layer_2",))
    everything = frozenset(name for node in study.model.graph.node for name in node.output)
    engine = engine_of(study.reduced(everything - study.units["layer_2"]), tmp_path / "one")
    got = np.stack([engine.run({"image": x})["logits"][0] for x in study.inputs])
    wanted = np.stack(study.wanted)
    assert harm.moved == pytest.approx(np.sqrt(np.mean((got - wanted) ** 2)) / wanted.std(), rel=0.05)
    assert 0.0001 < harm.moved < 0.5


def test_at_most_so_many_images_are_run(tmp_path, monkeypatch):
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
    assert len(ran) == IMAGES * len(study.units)


def test_a_network_that_is_too_slow_is_left_alone(tmp_path):
    study = dataclasses.replace(study_of(deep(2), "fp16", tmp_path), run_s=5.0)
    ranking = rank_layers(study)
    assert ranking.harms == ()
    assert ranking.skipped is not None
    assert "one image takes 5.0 s in fp32" in ranking.skipped
    assert "more than 160 s (at most 60 s" in ranking.skipped


def test_without_time_for_all_neighbours_are_measured_together(tmp_path):
    study = dataclasses.replace(study_of(deep(11, bad=7), "int8", tmp_path), run_s=0.0)
    harms = rank_layers(study, budget_s=1e-6).harms
    assert sorted(name for h in harms for name in h.layers) == sorted(study.units)
    assert len(harms) < len(study.units)
    assert "layer_7" in harms[0].layers
    assert " + " in str(max(harms, key=lambda h: len(h.layers)))


def test_the_worst_group_is_split_until_its_layer_is_found(tmp_path, monkeypatch):
    study = study_of(deep(11, bad=7), "int8", tmp_path)
    monkeypatch.setattr(sensitivity, "_groups", lambda layers, runs: [layers])
    calls = []
    real = sensitivity._Measurement.__call__

    def counted(self, layers):
        calls.append(layers)
        if len(calls) == 8:  # a pair too few to tell all apart
            monkeypatch.setattr(time, "perf_counter", lambda: float("inf"))
        return real(self, layers)

    monkeypatch.setattr(sensitivity._Measurement, "__call__", counted)
    harms = rank_layers(study).harms
    assert harms[0].layers == ("layer_7",)
    assert sorted(name for h in harms for name in h.layers) == sorted(study.units)


def test_every_node_belongs_to_the_layer_whose_work_it_continues():
    model = member_model("residual", MEMBER_SPECS["residual"])
    layers = candidates.layers(BY_NAME["fp16"], model)
    found = units(model, layers)
    assert tuple(found) == layers
    owners = [layer for layer in layers for name in found[layer]]
    assert len(owners) == len(model.graph.node)
    first, inner, last = layers[0], layers[2], layers[3]
    producers = {out: n.op_type for n in model.graph.node for out in n.output}
    assert sorted(producers[name] for name in found[first]) == ["Conv", "MaxPool", "Relu"]
    assert sorted(producers[name] for name in found[inner]) == ["Add", "Conv", "Relu"]  # an Add to the later branch
    assert sorted(producers[name] for name in found[last]) == ["Concat", "Conv", "Relu"]


def test_what_comes_before_the_first_layer_belongs_to_none():
    g = Graph(41)
    x = g.conv(g.op("MaxPool", "image", kernel_shape=[2, 2], strides=[2, 2], name="before"), 1, 4)
    g.op("ReduceMean", g.conv(x, 4, 4, 1), axes=[2, 3], keepdims=0, name="logits")
    model = g.model(SPEC, {"logits": ("N", 4)})
    assert "before" not in {
        name for unit in units(model, candidates.layers(BY_NAME["fp16"], model)).values() for name in unit
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
def test_names_are_said_in_short(name, short):
    assert str(Harm(layers=(name,), moved=0.01234)) == f"{short} (1.23%)"
