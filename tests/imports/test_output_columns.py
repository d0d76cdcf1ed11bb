"""Kinds of outputs: recognised, declared, or refused with what to declare."""

from __future__ import annotations

import numpy as np
import pytest

from cxr_edge.errors import ContractError, InputError
from cxr_edge.imports.member_graph import Columns
from cxr_edge.imports.original import Original, read_original
from cxr_edge.imports.output_columns import columns_of, label_logits, label_probabilities
from cxr_edge.imports.trained_input import PRESETS
from tests.imports.networks import Design, network, saved

WIDE = np.array([[-3.0, 2.0, 0.5], [4.0, -1.0, 2.0]])
UNIT = np.array([[0.2, 0.9, 0.4], [0.6, 0.1, 0.8]])
SOFT = np.array([[0.2, 0.7, 0.1], [0.6, 0.1, 0.3]])
THREE, TWO = ("a", "b", "c"), ("absent", "present")


def original(tmp_path, end: str | None = None, columns: int = 3) -> Original:
    return read_original(saved(network(Design(end=end, columns=columns)), tmp_path), PRESETS["unit"])


@pytest.mark.parametrize(
    ("end", "raw", "labels", "declared", "expected"),
    [
        (None, SOFT, THREE, {}, Columns(kind="softmax-probabilities", count=3)),
        ("Softmax", SOFT, THREE, {}, Columns(kind="softmax-probabilities", count=3)),
        (None, WIDE, THREE, {"choice": "softmax-logits"}, Columns(kind="softmax-logits", count=3)),
        ("Sigmoid", UNIT[:, :1], TWO, {}, Columns(kind="multi-label-probabilities", count=1, finding=0)),
        (None, WIDE[:, :1], TWO, {}, Columns(kind="logit", count=1, finding=0)),
        ("Sigmoid", UNIT, TWO, {"column": 1}, Columns(kind="multi-label-probabilities", count=3, finding=1)),
        (None, WIDE, TWO, {"column": 2}, Columns(kind="multi-label-logits", count=3, finding=2)),
        (
            None,
            UNIT,
            TWO,
            {"column": 0, "choice": "multi-label-probabilities"},
            Columns(kind="multi-label-probabilities", count=3, finding=0),
        ),
    ],
)
def test_meanings(tmp_path, end, raw, labels, declared, expected):
    assert columns_of(original(tmp_path, end, raw.shape[1]), raw, labels, **declared) == expected


@pytest.mark.parametrize(
    ("end", "raw", "labels", "declared", "error", "message"),
    [
        (None, WIDE, THREE, {}, InputError, "fit softmax-logits and multi-label-logits: declare one with --output"),
        (None, UNIT[:, :1], TWO, {}, InputError, "fit logit and multi-label-probabilities: declare one"),
        (
            "Sigmoid",
            UNIT,
            THREE,
            {},
            ContractError,
            "3 outputs are findings that .* bundle of all findings with --multi-label",
        ),
        ("Softmax", SOFT, TWO, {}, InputError, "needs 3 labels, one per column of its output"),
        (
            "Sigmoid",
            UNIT[:, :1],
            THREE,
            {},
            InputError,
            "needs 2 labels, the absence of its finding, then its presence",
        ),
        ("Softmax", SOFT, TWO, {"column": 1}, ContractError, "--column goes with independent findings"),
        (None, WIDE, TWO, {"column": 3}, InputError, "is counted from 0, and its output has 3 columns, got 3"),
        (
            None,
            WIDE,
            THREE,
            {"choice": "softmax-probabilities"},
            ContractError,
            "declared as softmax-probabilities, but",
        ),
        ("Softmax", SOFT, THREE, {"choice": "softmax-logits"}, ContractError, "they are probabilities after a softmax"),
        (None, WIDE * np.nan, THREE, {}, ContractError, "not finite"),
    ],
)
def test_refused(tmp_path, end, raw, labels, declared, error, message):
    with pytest.raises(error, match=message):
        columns_of(original(tmp_path, end, raw.shape[1]), raw, labels, **declared)


def test_values_for_the_labels():
    soft, logits = Columns(kind="softmax-probabilities", count=3), Columns(kind="softmax-logits", count=3)
    one = Columns(kind="multi-label-logits", count=3, finding=1)
    sigmoid = Columns(kind="multi-label-probabilities", count=3, finding=1)
    assert label_probabilities(soft, SOFT) is SOFT
    np.testing.assert_allclose(label_probabilities(logits, np.log(SOFT) + 5), SOFT)
    np.testing.assert_allclose(label_probabilities(one, WIDE)[:, 1], 1 / (1 + np.exp(-WIDE[:, 1])))
    np.testing.assert_allclose(label_probabilities(sigmoid, UNIT), np.stack([1 - UNIT[:, 1], UNIT[:, 1]], 1))
    assert label_logits(soft, SOFT) is label_logits(sigmoid, UNIT) is None
    assert label_logits(one, WIDE)[:, 0].tolist() == [0.0, 0.0]
