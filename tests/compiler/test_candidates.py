"""Recipes per backend and precision, candidates in half, weights by processor."""

from __future__ import annotations

import platform

import onnx
import pytest

from cxr_edge.backends import cpu_info
from cxr_edge.backends.base import CompileOptions
from cxr_edge.backends.onnxruntime import OnnxRuntimeBackend
from cxr_edge.compiler import candidates
from cxr_edge.compiler.candidates import PRECISION_NAMES, RECIPES
from cxr_edge.compiler.graph.int8 import SCHEMES
from cxr_edge.compiler.graph.simplify import Simplified
from cxr_edge.engines import NetworkFile
from cxr_edge.errors import BackendError, BundleError
from tests.compiler.networks import SPEC, HalfOnCpu, chain, deep, images, op_types, saved


class SymmetricOnly(OnnxRuntimeBackend):
    """A runtime that takes zero point 0 only, as TensorRT does."""

    precisions = ("fp32", "int8")


def names(choice, backend):
    return [r.name for r in candidates.choose_recipes(choice, backend)]


def test_a_backend_gets_only_recipes_that_it_compiles():
    assert names("auto", OnnxRuntimeBackend()) == ["fp32", "uint8", "uint8-fp32-stem", "int8"]
    assert names("auto", SymmetricOnly()) == ["fp32", "int8"]


def test_int8_covers_both_schemes():
    assert names("int8", OnnxRuntimeBackend()) == ["uint8", "uint8-fp32-stem", "int8"]
    assert names("fp32", OnnxRuntimeBackend()) == ["fp32"]


def test_a_backend_that_computes_in_half_tries_both_types():
    assert names("auto", HalfOnCpu()) == ["fp32", "fp16", "bf16", "uint8", "uint8-fp32-stem", "int8"]
    assert names("fp16", HalfOnCpu()) == ["fp16"]
    assert names("bf16", HalfOnCpu()) == ["bf16"]


def test_a_precision_that_the_backend_does_not_have():
    with pytest.raises(BackendError, match=r"onnxruntime has no bf16 here, only fp32, int8: give --precision one of"):
        names("bf16", OnnxRuntimeBackend())


def test_every_precision_name():
    assert (
        *("fp32", "fp16", "bf16", "uint8", "uint8-fp32-stem", "int8"),
        *("fp16-mixed", "bf16-mixed", "uint8-mixed", "int8-mixed"),
    ) == PRECISION_NAMES


def test_a_mixed_recipe_has_no_further_mixed_variant():
    int8 = next(r for r in RECIPES if r.name == "int8")
    mixed = int8.mixed(frozenset(["a"]))
    assert (mixed.name, mixed.scheme, mixed.tries_mixed) == ("int8-mixed", int8.scheme, False)
    assert mixed.mixed(frozenset(["b"])).name == "int8-mixed"
    assert [r.name for r in RECIPES if not r.tries_mixed] == ["fp32", "uint8-fp32-stem"]


def candidate_of(recipe, model, folder):
    path = saved(model, folder / "source")
    network = NetworkFile(name="net", onnx=path, onnx_sha256="0" * 64, preprocess=SPEC, outputs=("logits",))
    recipe = next(r for r in RECIPES if r.name == recipe)
    simplified = Simplified(model=model, notes=())
    return candidates.make_candidate(recipe, network, simplified, None, HalfOnCpu(), CompileOptions(), folder)


@pytest.mark.parametrize("recipe", ["fp16", "bf16"])
def test_a_half_candidate_runs_and_needs_no_ranges(recipe, tmp_path):
    candidate = candidate_of(recipe, chain(), tmp_path)
    assert candidate.file.name == f"net.{recipe}.onnx"
    assert "Cast" in op_types(candidate.file)
    assert candidate.engine.run({"image": images(1)[0]})["logits"].dtype == "float32"
    assert [p.name for p in tmp_path.glob("*.onnx")] == [candidate.file.name]


def test_a_half_candidate_that_cannot_be_built_has_the_reason(tmp_path):
    model = deep(3)
    weight = onnx.numpy_helper.to_array(model.graph.initializer[0]).copy()
    weight[0] = 1e5
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weight, model.graph.initializer[0].name))
    with pytest.raises(BundleError, match="holds 100000, the largest value of fp16 is 65504"):
        candidate_of("fp16", model, tmp_path)
    assert candidate_of("bf16", model, tmp_path)


@pytest.mark.parametrize(
    ("machine", "sets", "limit"),
    [
        ("x86_64", ("avx2",), 63),
        ("x86_64", ("avx2", "avx512f", "avx512_vnni"), 127),
        ("AMD64", ("avx2", "avx_vnni"), 127),
        ("aarch64", ("asimd",), 127),
    ],
)
def test_weights_have_7_bits_where_sums_could_overflow(monkeypatch, machine, sets, limit):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(cpu_info, "instruction_sets", lambda: sets)
    assert candidates.scheme_for_processor(SCHEMES["uint8"]).weight_limit == limit
