"""Meaning of a network's output for the labels of a bundle: its values and what the user declared in, `Columns` out.

Recognition is that of `compiler.output_kinds`; what it cannot tell apart has to be declared. A bundle decides for one label
of several, so findings that do not exclude each other are refused, except for a single one: present or absent.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cxr_edge.bundle.onnx_activation import last_activation
from cxr_edge.compiler.output_kinds import check_declared, recognised
from cxr_edge.errors import ContractError, InputError
from cxr_edge.imports.member_graph import Columns
from cxr_edge.imports.original import Original
from cxr_edge.ops.combine import softmax
from cxr_edge.specs.outputs import OutputChoice, OutputKind

__all__ = ["columns_of", "label_logits", "label_probabilities"]

Values = npt.NDArray[np.float64]

_LEAST_PROBABILITY = 1e-7


def columns_of(
    original: Original, raw: Values, labels: Sequence[str], *, choice: OutputChoice = "auto", column: int | None = None
) -> Columns:
    """Return the meaning of the values `raw` (images, columns). column: of the one finding to take of several.

    Raises InputError for what has to be declared, ContractError for what a bundle cannot express.
    """
    name, count = original.path.name, raw.shape[1]
    if column is not None and not 0 <= column < count:
        raise InputError(f"{name}: --column is counted from 0, and its output has {count} columns, got {column}")
    kind = _kind(original, raw, choice, column)
    if kind.startswith("softmax"):
        if column is not None:
            raise ContractError(
                f"{name}: --column goes with independent findings, and its output is {kind}: leave it out"
            )
        _check_labels(name, labels, count, "one per column of its output, in their order")
        return Columns(kind=kind, count=count)
    if count > 1 and column is None:
        raise ContractError(
            f"{name}: its {count} outputs are findings that do not exclude each other ({kind}), and a bundle of this cxr-edge "
            "decides for one label of several: take one finding, --column N with --labels absent,present; if exactly one of "
            "its labels is true of an image, declare --output softmax-logits"
        )
    _check_labels(name, labels, 2, "the absence of its finding, then its presence")
    return Columns(kind=kind, count=count, finding=column or 0)


def label_probabilities(columns: Columns, raw: Values) -> Values:
    """Return the probabilities (images, labels) that the original's values give."""
    if columns.finding is None:
        return softmax(raw) if columns.kind == "softmax-logits" else raw
    present = raw[:, columns.finding]
    if columns.kind != "multi-label-probabilities":
        present = 0.5 + 0.5 * np.tanh(present / 2)
    return np.stack([1 - present, present], axis=1)


def label_logits(columns: Columns, raw: Values) -> Values | None:
    """Return the logits (images, labels) that the original's values are, up to a number per image; None if it has none."""
    if columns.kind.endswith("probabilities"):
        return None
    if columns.finding is None:
        return raw
    return np.stack([np.zeros(len(raw)), raw[:, columns.finding]], axis=1)


def _kind(original: Original, raw: Values, choice: OutputChoice, column: int | None) -> OutputKind:
    name, activation = original.path.name, last_activation(original.model, original.output)
    if choice != "auto":
        check_declared(name, choice, raw, activation)
        return choice
    if not np.isfinite(raw).all():
        raise ContractError(
            f"{name}: its outputs are not finite (NaN or infinite) on the sample images: check its preprocessing"
        )
    kinds, _ = recognised(name, raw, activation)
    if column is not None:
        kinds = tuple(k for k in kinds if not k.startswith("softmax")) or kinds
    if len(kinds) > 1:
        raise InputError(
            f"{name}: the values of its output fit {' and '.join(kinds)}: declare one with --output "
            "(softmax: exactly one label is true of an image; multi-label: findings that do not exclude each other)"
        )
    return kinds[0]


def _check_labels(name: str, labels: Sequence[str], expected: int, meaning: str) -> None:
    if len(labels) != expected:
        raise InputError(f"{name} needs {expected} labels, {meaning}; --labels has {len(labels)}: {', '.join(labels)}")
