"""Limits of the comparison with the original, and values by another program."""

from __future__ import annotations

import numpy as np
import pytest

from cxr_edge.errors import ContractError, InputError
from cxr_edge.imports.parity import check_expected, measure_parity, read_expected
from cxr_edge.ops.combine import softmax

NAMES = ("one.png", "two.png", "three.png")
LOGITS = np.array([[0.1, 0.9], [0.4, -0.3], [-1.2, 0.8]])


def parity(actual, *, logits=True, half=False, expected=LOGITS):
    pair = (expected, actual) if logits else None
    return measure_parity("net", NAMES[: len(actual)], (softmax(expected), softmax(actual)), pair, half=half)


def test_equal_up_to_rounding():
    found = parity(LOGITS + 1e-6 + np.array([[3.0], [-2.0], [0.0]]))  # a number per image changes no softmax
    assert found.passed
    found.check()
    assert found.logit < 1e-9
    assert str(found).startswith("net: probabilities differ by at most")


def test_a_probability_beyond_the_limit():
    actual = LOGITS.copy()
    actual[1, 0] += 0.1
    found = parity(actual, logits=False)
    assert (found.passed, found.worst, found.logit) == (False, "two.png", None)
    with pytest.raises(
        ContractError, match=r"nothing is kept. Likely causes: the layout of its input \(NHWC or NCHW\)"
    ):
        found.check()


def test_small_outputs_that_do_not_follow_the_image():
    small = 0.5 + LOGITS * 1e-3
    found = parity(np.full_like(small, small.mean()), expected=small)
    assert found.probability < 0.01
    assert not found.passed
    assert found.variation > 0.5


def test_half_precision_may_round_more():
    small = 0.5 + LOGITS * 1e-3
    shifted = small + np.array([[2e-4, 0.0]])
    assert parity(shifted, expected=small, half=True).passed
    assert not parity(shifted, expected=small).passed


def test_one_image():
    assert parity(LOGITS[:1] + 1e-7, expected=LOGITS[:1]).passed
    assert not parity(LOGITS[:1] * 0.9, expected=LOGITS[:1]).passed


def test_nan_is_refused():
    assert not parity(np.full_like(LOGITS, np.nan)).passed


def test_values_of_another_program(tmp_path):
    path = tmp_path / "values.csv"
    path.write_text("\ufefffile,a,b\none.png,0.25,0.75\n\nsub/two.png, 0.5,0.5\n", encoding="utf-8")
    found = read_expected(path, 2)
    assert {name: v.tolist() for name, v in found.items()} == {"one.png": [0.25, 0.75], "sub/two.png": [0.5, 0.5]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,a,b\none.png,0.5\n", r"line 2: expected 2 finite numbers after the file's name, got \['0.5'\]"),
        ("file,a,b\none.png,0.5,x\n", "line 2: expected a file's name and 2 numbers"),
        ("file,a,b\none.png,0.5,nan\n", "line 2: expected 2 finite numbers"),
    ],
)
def test_values_that_cannot_be_used(tmp_path, text, message):
    path = tmp_path / "values.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_expected(path, 2)
    with pytest.raises(InputError, match="cannot be read as CSV"):
        read_expected(tmp_path / "missing.csv", 2)


def test_other_values_name_the_likely_causes():
    values = softmax(LOGITS)
    assert check_expected("net", values, values + 0.01, NAMES) == pytest.approx(0.01)
    with pytest.raises(
        ContractError, match=r"differ from those of --expected by 0.1 .*Likely causes: the range \(0..1"
    ):
        check_expected("net", values, values + 0.1, NAMES)
