"""Kinds of outputs: what is recognised, which declarations the values contradict, and what probabilities follow."""

from __future__ import annotations

import numpy as np
import pytest

from cxr_edge.bundle.onnx_activation import Activation
from cxr_edge.compiler.output_kinds import compared_output, constant_note, probabilities
from cxr_edge.errors import ContractError
from cxr_edge.ops.combine import softmax
from cxr_edge.specs.outputs import OUTPUT_KINDS

LOGITS = np.random.default_rng(1).normal(0, 3, (20, 4)).astype(np.float32)
SOFTMAX, SIGMOID = softmax(LOGITS).astype(np.float32), (1 / (1 + np.exp(-LOGITS))).astype(np.float32)
MASK = SIGMOID.reshape(5, 1, 4, 4)
ENDS = {k: Activation(kind=k, operator=k.title(), tensor="/fc/Gemm_output_0") for k in ("softmax", "sigmoid")}


def compared_as(raw, choice="auto", end=None):
    return compared_output("net", choice, raw, ENDS.get(end), declared_by="declared by --output")


@pytest.mark.parametrize(
    ("raw", "end", "kinds"),
    [
        (LOGITS, None, ("softmax-logits", "multi-label-logits")),
        (LOGITS[:, :1], None, ("logit",)),
        (SOFTMAX, None, ("softmax-probabilities",)),
        (SOFTMAX, "softmax", ("softmax-probabilities",)),
        (SOFTMAX.astype(np.float16), None, ("softmax-probabilities",)),
        (SIGMOID, "sigmoid", ("multi-label-probabilities",)),
        (SIGMOID, None, ("softmax-logits", "multi-label-probabilities")),
        (SIGMOID[:, :1], "sigmoid", ("multi-label-probabilities",)),
        (SIGMOID[:, :1], None, ("logit", "multi-label-probabilities")),
    ],
)
def test_what_is_recognised(raw, end, kinds):
    compared = compared_as(raw, end=end)
    assert compared.kinds == kinds
    assert not compared.declared
    assert "recognised: " in str(compared)


def test_several_kinds_ask_for_a_declaration():
    assert "declare one with --output" in str(compared_as(LOGITS))


@pytest.mark.parametrize("values", [(31.0, 80.0), (-900.0, -9.0)])
def test_one_column_that_is_no_logit_is_refused_as_regression(values):
    raw = np.linspace(*values, 20, dtype=np.float32)[:, None]
    with pytest.raises(
        ContractError, match=r"net: it has one output column, .* Regression .* is not supported; .*--output logit"
    ):
        compared_as(raw)
    assert compared_as(raw, "logit").kinds == ("logit",)


VALID = {
    "softmax-logits": LOGITS,
    "logit": LOGITS[:, :1],
    "multi-label-logits": LOGITS,
    "softmax-probabilities": SOFTMAX,
    "multi-label-probabilities": SIGMOID,
    "mask": MASK,
}


@pytest.mark.parametrize("kind", OUTPUT_KINDS)
def test_a_declaration_that_fits_is_kept(kind):
    compared = compared_as(VALID[kind], kind)
    assert (compared.kinds, compared.declared) == ((kind,), True)
    assert str(compared) == f"net {kind} (declared by --output)"


WRONG = [
    (
        "softmax-logits",
        SOFTMAX,
        None,
        "the sum 1 for every image: they are probabilities after a softmax; .*--output softmax-p",
    ),
    ("softmax-logits", SOFTMAX, "softmax", r"without its softmax \(its input '/fc/Gemm_output_0' has the logits\)"),
    (
        "softmax-logits",
        SIGMOID,
        "sigmoid",
        "ends in a Sigmoid: .* without its sigmoid .*--output multi-label-probabilities",
    ),
    ("softmax-logits", LOGITS[:, :1], None, "one column, whose softmax is 1 for every image; declare logit"),
    ("logit", LOGITS, None, "it has 4 columns; declare softmax-logits .* or multi-label-logits"),
    ("logit", SIGMOID[:, :1], "sigmoid", "ends in a Sigmoid"),
    ("multi-label-logits", SOFTMAX, None, "after a softmax"),
    ("multi-label-logits", SIGMOID, "sigmoid", "ends in a Sigmoid"),
    (
        "softmax-probabilities",
        LOGITS,
        None,
        r"range from -\d.* to \d.*, and probabilities lie in 0..1; declare softmax-logits",
    ),
    ("softmax-probabilities", SIGMOID, None, "and not all are 1; declare multi-label-probabilities"),
    ("softmax-probabilities", np.ones((4, 1)), None, "one column"),
    ("multi-label-probabilities", LOGITS, None, "declare multi-label-logits"),
    ("multi-label-probabilities", LOGITS[:, :1], None, "declare logit"),
    ("multi-label-probabilities", SOFTMAX, None, "as after a softmax; declare softmax-probabilities"),
    ("mask", LOGITS.reshape(5, 1, 4, 4), None, "a mask has probabilities, 0..1; end the network in a sigmoid"),
]


@pytest.mark.parametrize(("kind", "raw", "end", "message"), WRONG)
def test_a_declaration_that_the_values_contradict_is_refused(kind, raw, end, message):
    with pytest.raises(ContractError, match=f"net: its output is declared as {kind}, but .*{message}"):
        compared_as(raw, kind, end)


@pytest.mark.parametrize("kind", ["auto", *OUTPUT_KINDS])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_reference_that_is_not_finite_is_refused(kind, value):
    raw = VALID.get(kind, LOGITS).copy()
    raw[2:4] = value
    with pytest.raises(ContractError, match=rf"not finite \(NaN or infinite\) for 2 of {len(raw)} images"):
        compared_as(raw, kind)


def test_declared_logits_in_0_to_1_are_compared_as_probabilities_too():
    """They may be undeclared sigmoids, whose sides of 0.5 a logit's sides of 0 would miss."""
    assert compared_as(SIGMOID, "multi-label-logits").kinds == ("multi-label-logits", "multi-label-probabilities")
    assert compared_as(SIGMOID[:, :1], "logit").kinds == ("logit", "multi-label-probabilities")


def test_probabilities_of_each_kind():
    assert probabilities("softmax-logits", LOGITS, 2.0) == pytest.approx(softmax(LOGITS, 2.0))
    for kind in ("logit", "multi-label-logits"):
        assert probabilities(kind, LOGITS) == pytest.approx(SIGMOID, abs=1e-6)
    for kind in ("softmax-probabilities", "multi-label-probabilities"):
        assert probabilities(kind, SIGMOID) == pytest.approx(SIGMOID)


def test_extreme_logits_have_probabilities_without_a_warning():
    raw = np.array([[-3e38, 3e38, 0.0]], np.float32)
    assert probabilities("multi-label-logits", raw).tolist() == [[0.0, 1.0, 0.5]]
    assert probabilities("softmax-logits", raw).tolist() == [[0.0, 1.0, 0.0]]


def test_a_network_that_ignores_the_image_is_noted():
    assert constant_note("net", np.ones((3, 1))) == [
        "net gives the same outputs for all 3 images in fp32: it ignores them, or they are all equal"
    ]
    assert constant_note("net", LOGITS) == []
    assert constant_note("net", LOGITS[:1]) == []
