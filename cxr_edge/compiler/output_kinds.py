"""Kinds of outputs at work: recognise a network's kind, compare a declared one with the values, derive probabilities.

The reference's outputs on the images of a build (images, columns) come in; a `ComparedOutput` comes out, which states the
kinds that `comparison` compares candidates in, or a ContractError for values that contradict the declaration. Without
this, a softmax of one column agrees with everything, and a softmax of probabilities loses nearly all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cxr_edge.bundle.onnx_activation import Activation
from cxr_edge.errors import ContractError
from cxr_edge.ops.combine import softmax
from cxr_edge.specs.outputs import OutputChoice, OutputKind

__all__ = ["ComparedOutput", "check_declared", "compared_output", "constant_note", "probabilities", "recognised"]

FloatArray = npt.NDArray[np.floating]

_UNIT_TOLERANCE = 1e-4  # rounding of probabilities in half precision, near 1
_SUM_TOLERANCE = 1e-3  # of a softmax in half precision, summed over its labels
# The sigmoid of 8 is 0.9997. A trained network of one logit passes that on some images, not on all of them on one side.
_SATURATED = 8.0


@dataclass(frozen=True, kw_only=True)
class ComparedOutput:
    """Kinds that the outputs of one network are compared as."""

    part: str  # name of the network
    kinds: tuple[OutputKind, ...]  # a candidate must pass as each of them
    declared: bool  # by the bundle or the user; else recognised
    basis: str  # how, for the report

    def __str__(self) -> str:
        """Format as `net logit (recognised: one column)`."""
        return f"{self.part} {' and '.join(self.kinds)} ({self.basis})"


def compared_output(
    part: str, choice: OutputChoice, raw: FloatArray, activation: Activation | None = None, *, declared_by: str
) -> ComparedOutput:
    """Return the kinds to compare the outputs `raw` (images, columns) or masks (images, 1, S, S) as.

    declared_by: words for the report and messages. activation: the last one of the graph, if it is known.
    Raises ContractError for values that contradict the choice, or that no kind has.
    """
    if choice == "auto":
        _check_finite(part, raw)
        kinds, basis = recognised(part, raw, activation)
        return ComparedOutput(part=part, kinds=kinds, declared=False, basis=f"recognised: {basis}")
    check_declared(part, choice, raw, activation)
    kinds = (choice,)
    if choice in ("logit", "multi-label-logits") and _in_unit(raw):  # which may be undeclared sigmoids: the stricter
        kinds = (choice, "multi-label-probabilities")
    return ComparedOutput(part=part, kinds=kinds, declared=True, basis=declared_by)


def recognised(part: str, raw: FloatArray, activation: Activation | None) -> tuple[tuple[OutputKind, ...], str]:
    """Return the kinds that fit, and why; several where the values cannot tell them apart.

    Raises ContractError for one column whose values are no logit.
    """
    columns = raw.shape[1]
    if columns > 1 and _sums_to_1(raw):
        ending = f"it ends in a {activation.operator}" if activation else "values in 0..1, each image's with the sum 1"
        return ("softmax-probabilities",), ending
    if activation is not None and activation.kind == "sigmoid":
        return ("multi-label-probabilities",), f"it ends in a {activation.operator}"
    if columns == 1:
        _check_logit(part, raw)
        return (("logit", "multi-label-probabilities") if _in_unit(raw) else ("logit",)), "one column"
    other: OutputKind = "multi-label-probabilities" if _in_unit(raw) else "multi-label-logits"
    return ("softmax-logits", other), "its values fit both; declare one with --output"


def check_declared(part: str, kind: OutputKind, raw: FloatArray, activation: Activation | None = None) -> None:
    """Raise ContractError if the values, or the end of the graph, contradict the declared kind."""
    _check_finite(part, raw)
    found = _contradiction(kind, raw, activation)
    if found is None:
        return
    reason, remedy = found
    raise ContractError(f"{part}: its output is declared as {kind}, but {reason}; {remedy}")


def constant_note(part: str, raw: FloatArray) -> list[str]:
    """Return the report's note about a network that gives equal outputs for all images, if it does."""
    constant = len(raw) > 1 and bool((raw == raw[:1]).all())
    text = f"{part} gives the same outputs for all {len(raw)} images in fp32: it ignores them, or they are all equal"
    return [text] if constant else []


def probabilities(kind: OutputKind, raw: FloatArray, temperature: float = 1.0) -> npt.NDArray[np.float64]:
    """Return the probabilities (images, columns) that finite outputs of that kind give."""
    if kind == "softmax-logits":
        return softmax(raw, temperature)
    values = raw.astype(np.float64)
    if kind in ("logit", "multi-label-logits"):
        return 0.5 + 0.5 * np.tanh(values / (2 * temperature))  # the sigmoid, without overflow
    return values


def _contradiction(kind: OutputKind, raw: FloatArray, activation: Activation | None) -> tuple[str, str] | None:
    """Return what contradicts the kind, and the remedy; None if nothing does."""
    if kind == "mask":
        remedy = "end the network in a sigmoid and export it again"
        return None if _in_unit(raw) else (f"{_span(raw)}, and a mask has probabilities, 0..1", remedy)
    columns = raw.shape[1]
    if kind == "logit" and columns != 1:
        return f"it has {columns} columns", "declare softmax-logits (one label of several) or multi-label-logits"
    if kind.startswith("softmax") and columns == 1:
        return (
            "it has one column, whose softmax is 1 for every image",
            "declare logit, or export a column for each label",
        )
    if kind.endswith("probabilities"):
        return _not_probabilities(kind, raw)
    return _not_logits(raw, activation)


def _not_probabilities(kind: OutputKind, raw: FloatArray) -> tuple[str, str] | None:
    if not _in_unit(raw):
        other = kind.replace("probabilities", "logits") if raw.shape[1] > 1 else "logit"
        return f"{_span(raw)}, and probabilities lie in 0..1", f"declare {other}"
    sums = raw.sum(axis=1)
    if kind == "softmax-probabilities" and not _sums_to_1(raw):
        found = f"the sums of the images' values range from {sums.min():.4g} to {sums.max():.4g}, and not all are 1"
        return found, "declare multi-label-probabilities"
    if kind == "multi-label-probabilities" and raw.shape[1] > 1 and _sums_to_1(raw):
        return "the values of every image have the sum 1, as after a softmax", "declare softmax-probabilities"
    return None


def _not_logits(raw: FloatArray, activation: Activation | None) -> tuple[str, str] | None:
    if raw.shape[1] > 1 and _sums_to_1(raw):
        found = "its values lie in 0..1 and have the sum 1 for every image: they are probabilities after a softmax"
        return found, _remedy("softmax", "softmax-probabilities", activation)
    if activation is not None:
        found = f"the network ends in a {activation.operator}: its values are probabilities"
        return found, _remedy(activation.kind, "multi-label-probabilities", activation)
    return None


def _remedy(name: str, kind: OutputKind, activation: Activation | None) -> str:
    where = f" (its input {activation.tensor!a} has the logits)" if activation else ""
    return f"export the network without its {name}{where}; a single .onnx file may be declared with --output {kind} instead"


def _check_finite(part: str, raw: FloatArray) -> None:
    if not np.isfinite(raw).all():
        raise ContractError(
            f"{part}: the fp32 network gives outputs that are not finite (NaN or infinite) for "
            f"{int((~np.isfinite(raw)).any(axis=tuple(range(1, raw.ndim))).sum())} of {len(raw)} images: nothing can be "
            f"compared with it; check its preprocessing and its export"
        )


def _check_logit(part: str, raw: FloatArray) -> None:
    if raw.min() > _SATURATED or raw.max() < -_SATURATED:
        raise ContractError(
            f"{part}: it has one output column, and {_span(raw)}: as a logit, every image would be decided alike with "
            f"certainty. Regression (an age, a score) is not supported; if it is a logit, declare it with --output logit"
        )


def _in_unit(raw: FloatArray) -> bool:
    return bool(raw.min() >= -_UNIT_TOLERANCE and raw.max() <= 1 + _UNIT_TOLERANCE)


def _sums_to_1(raw: FloatArray) -> bool:
    return _in_unit(raw) and bool(np.abs(raw.astype(np.float64).sum(axis=1) - 1).max() <= _SUM_TOLERANCE)


def _span(raw: FloatArray) -> str:
    return f"its values range from {raw.min():.4g} to {raw.max():.4g}"
