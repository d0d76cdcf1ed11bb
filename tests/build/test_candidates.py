"""Which candidates are tried where, and with what weights."""

from __future__ import annotations

import platform

import pytest

from cxr_edge.backends import host
from cxr_edge.backends.onnxruntime import OnnxRuntimeBackend
from cxr_edge.build import candidates
from cxr_edge.build.precision import SCHEMES


class SymmetricOnly(OnnxRuntimeBackend):
    """A runtime that takes zero point 0 only, as TensorRT does."""

    precisions = ("fp32", "int8")


def names(choice, backend):
    return [r.name for r in candidates.recipes(choice, backend)]


def test_a_backend_gets_only_what_it_compiles():
    assert names("auto", OnnxRuntimeBackend()) == ["fp32", "uint8", "uint8-fp32-stem", "int8"]
    assert names("auto", SymmetricOnly()) == ["fp32", "int8"]


def test_int8_stands_for_both_schemes():
    assert names("int8", OnnxRuntimeBackend()) == ["uint8", "uint8-fp32-stem", "int8"]
    assert names("fp32", OnnxRuntimeBackend()) == ["fp32"]


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
    monkeypatch.setattr(host, "instruction_sets", lambda: sets)
    assert candidates._for_this_processor(SCHEMES["uint8"]).weight_limit == limit
