"""Meaning of a network's output for the labels of a bundle: its values and what the user declared in, `Columns` out.

Recognition is that of `compiler.output_kinds`; what it cannot tell apart has to be declared. A single-label bundle decides for
one label of several, so of findings that do not exclude each other it takes a single one: present or absent. A multi-label bundle
takes all, or those that have a name.
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
from cxr_edge.ops.combine import sigmoid, softmax
from cxr_edge.specs.outputs import OutputChoice, OutputKind

__all__ = ["columns_of", "columns_of_findings", "label_logits", "label_probabilities"]

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
            f"{name}: its {count} outputs are findings that do not exclude each other ({kind}), and a single-label bundle "
            "decides for one label of several: make a bundle of all findings with --multi-label, or take one, --column N with "
            "--labels absent,present; if exactly one of its labels is true of an image, declare --output softmax-logits"
        )
    _check_labels(name, labels, 2, "the absence of its finding, then its presence")
    return Columns(kind=kind, count=count, finding=column or 0)


def columns_of_findings(
    original: Original, raw: Values, labels: Sequence[str], *, choice: OutputChoice = "auto"
) -> Columns:
    """Return the meaning of the values `raw` (images, columns) in a multi-label bundle. labels: one per column, "" to drop it.

    Raises the errors of `columns_of`.
    """
    name, count = original.path.name, raw.shape[1]
    kind = _kind_of_findings(original, raw, choice)
    if kind.startswith("softmax"):
        raise ContractError(
            f"{name}: its output is {kind}, so its labels exclude each other: leave out --multi-label; if they do not, declare "
            "--output multi-label-logits or multi-label-probabilities"
        )
    _check_labels(
        name, labels, count, "one per column of its output, in their order (nothing between two commas leaves it out)"
    )
    return Columns(kind=kind, count=count, findings=tuple(i for i, label in enumerate(labels) if label))


def label_probabilities(columns: Columns, raw: Values) -> Values:
    """Return the probabilities (images, labels) that the original's values give."""
    if columns.findings:
        values = raw[:, columns.findings]
        return values if columns.kind == "multi-label-probabilities" else sigmoid(values)
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
    if columns.findings:
        return np.asarray(raw[:, columns.findings])
    if columns.finding is None:
        return raw
    return np.stack([np.zeros(len(raw)), raw[:, columns.finding]], axis=1)


def _kind(original: Original, raw: Values, choice: OutputChoice, column: int | None) -> OutputKind:
    name, kinds = original.path.name, _possible_kinds(original, raw, choice)
    if column is not None:
        kinds = tuple(k for k in kinds if not k.startswith("softmax")) or kinds
    return _only(name, kinds)


def _kind_of_findings(original: Original, raw: Values, choice: OutputChoice) -> OutputKind:
    kinds = _possible_kinds(original, raw, choice)
    kinds = tuple(k for k in kinds if not k.startswith("softmax")) or kinds
    activation = last_activation(original.model, original.output)
    if choice == "auto" and kinds == ("multi-label-probabilities",) and activation is None:
        kinds = ("multi-label-logits", *kinds)  # small logits may look like them
    return _only(original.path.name, kinds)


def _possible_kinds(original: Original, raw: Values, choice: OutputChoice) -> tuple[OutputKind, ...]:
    """Return the declared kind, or those that fit. Raises ContractError for values that contradict the declaration."""
    name, activation = original.path.name, last_activation(original.model, original.output)
    if choice != "auto":
        check_declared(name, choice, raw, activation)
        return (choice,)
    if not np.isfinite(raw).all():
        raise ContractError(
            f"{name}: its outputs are not finite (NaN or infinite) on the sample images: check its preprocessing"
        )
    return recognised(name, raw, activation)[0]


def _only(name: str, kinds: tuple[OutputKind, ...]) -> OutputKind:
    if len(kinds) > 1:
        raise InputError(
            f"{name}: the values of its output fit {' and '.join(kinds)}: declare one with --output "
            "(softmax: exactly one label is true of an image; multi-label: findings that do not exclude each other)"
        )
    return kinds[0]


def _check_labels(name: str, labels: Sequence[str], expected: int, meaning: str) -> None:
    if len(labels) != expected:
        raise InputError(f"{name} needs {expected} labels, {meaning}; --labels has {len(labels)}: {', '.join(labels)}")
