"""Simplification: exact rewrites, and the comparison with the original network."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper

from cxr_edge.compiler.graph import simplify as module
from cxr_edge.compiler.graph.graph import copied
from cxr_edge.compiler.graph.simplify import check_parity, simplify
from cxr_edge.errors import BackendError, ContractError
from tests.builders.toy_bundle import Graph
from tests.compiler.networks import SPEC, chain, engine_of, images, saved
from tests.tolerances import assert_close


def types(model):
    return [n.op_type for n in model.graph.node]


def upsampler(kernel, stride, bias=True):
    g = Graph(4)
    x = g.op("Relu", g.conv("image", 1, 4, stride=stride))
    weight = np.random.default_rng(1).normal(0, 1, (4, 3, kernel, kernel))
    inputs = [x, g.constant(weight), *([g.constant([0.5, -1.0, 2.0])] if bias else [])]
    side = (16 // stride - 1) * stride + kernel
    g.op("ConvTranspose", *inputs, strides=[stride] * 2, name="mask")
    return g.model(SPEC, {"mask": ("N", 3, side, side)})


@pytest.mark.parametrize("stride", [2, 4])
@pytest.mark.parametrize("bias", [True, False])
def test_a_tiling_transposed_convolution_becomes_a_convolution(stride, bias, tmp_path):
    model = upsampler(stride, stride, bias)
    simple = simplify(saved(model, tmp_path)).model
    assert "ConvTranspose" not in types(simple)
    assert "DepthToSpace" in types(simple)
    image = images(1)[0]
    expected, actual = (engine_of(m, tmp_path / "run").run({"image": image})["mask"] for m in (model, simple))
    assert_close(actual, expected)


def test_an_overlapping_transposed_convolution_stays(tmp_path):
    assert "ConvTranspose" in types(simplify(saved(upsampler(3, 2), tmp_path)).model)


def test_a_batch_norm_is_absorbed(tmp_path):
    g = Graph(5)
    scale = [g.constant(v) for v in ([1.0, 2, 3, 4], [0.1, 0.2, 0.3, 0.4], [0.0, 1, 0, 1], [1.0, 2, 1, 2])]
    x = g.op("Relu", g.op("BatchNormalization", g.conv("image", 1, 4, bias=False), *scale))
    g.op("ReduceMean", g.conv(x, 4, 4, 1), axes=[2, 3], keepdims=1, name="logits")
    simple = simplify(saved(g.model(SPEC, {"logits": ("N", 4, 1, 1)}), tmp_path)).model
    assert types(simple) == ["Conv", "Relu", "Conv", "GlobalAveragePool"]


def test_metadata_and_outputs_are_unchanged(tmp_path):
    model = chain()
    simple = simplify(saved(model, tmp_path)).model
    assert list(simple.metadata_props) == list(model.metadata_props)
    assert [o.name for o in simple.graph.output] == ["logits"]


def test_a_missing_simplifier_is_reported(tmp_path, monkeypatch):
    find = module.importlib.util.find_spec
    absent = ("onnxsim", "onnxslim")
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None if name in absent else find(name))
    assert "neither onnxsim nor onnxslim is installed" in simplify(saved(chain(), tmp_path)).notes[0]


@pytest.mark.parametrize(("absent", "used"), [("", "onnxsim"), ("onnxsim", "onnxslim")])
def test_the_first_simplifier_that_is_installed_is_used(absent, used, tmp_path, monkeypatch):
    pytest.importorskip(used)
    find = module.importlib.util.find_spec
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None if name == absent else find(name))
    assert f"simplified by {used} " in simplify(saved(chain(), tmp_path)).notes[0]


def test_a_simplifier_that_changes_the_outputs_is_detected(tmp_path, monkeypatch):
    def damage(model):
        other = copied(model)
        weight = other.graph.initializer[0]
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * 1.01, weight.name))
        return other, "damaged"

    monkeypatch.setattr(module, "_by_package", damage)
    with pytest.raises(ContractError, match=r"differs from the original .* fault of the simplifier"):
        simplify(saved(chain(), tmp_path))


def test_parity_of_a_network_with_itself():
    assert check_parity(chain(), chain()) == 0.0


def test_an_unknown_operator(tmp_path):
    model = chain()
    model.graph.node[0].op_type = "Frobnicate"
    with pytest.raises(BackendError, match="could not read the network"):
        simplify(saved(model, tmp_path))
