"""Engines damaged on purpose, in steps: a bundle in; ONNX models, each with one network changed, out.

They show what a set of images lets through: reduced precision with wrong ranges, rounded and noisy weights, lost channels,
shifted outputs. Damage is drawn from a fixed seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from cxr_edge.bundle import Bundle
from cxr_edge.compiler.calibrate import Ranges
from cxr_edge.compiler.candidates import RECIPES, rewrite_for_cpu
from cxr_edge.compiler.graph.simplify import simplify
from cxr_edge.engines import SEGMENTER, parts

__all__ = ["Damaged", "damaged_engines"]

Weights = npt.NDArray[np.float32]
Change = Callable[[Weights, np.random.Generator], Weights]

_SEED = 1
_LEAST_WEIGHTS = 64  # of an initializer that counts as weights


@dataclass(frozen=True, kw_only=True)
class Damaged:
    """One network of a bundle with damage."""

    name: str  # in words, with the step
    network: str
    model: onnx.ModelProto = field(repr=False)


def damaged_engines(bundle: Bundle) -> Iterator[Damaged]:
    """Yield the damaged networks of a bundle: of its first, second and last member, and of its segmenter."""
    members = [m.name for m in bundle.manifest.members]
    first, second, last = members[0], members[min(1, len(members) - 1)], members[-1]
    for network in (last, second):
        for width in (1.0, 0.7, 0.5, 0.3, 0.15):
            yield from _narrowed(bundle, network, width)
    for bits in (10, 6, 5, 4):
        yield _changed(bundle, first, f"weights rounded to {bits} bits", _rounded(bits))
    for size in (0.03, 0.1, 0.2, 0.3):
        yield _changed(bundle, second, f"noise of {size:g} of the weights' spread", _noisy(size))
    for channels in (1, 4, 8):
        yield _lost_channels(bundle, last, channels)
    for shift in (0.05, 0.2, 0.5, 1.0):
        yield _shifted(bundle, first, shift)
    if bundle.manifest.segmenter is not None:
        for size in (0.03, 0.1, 0.3):
            yield _changed(bundle, SEGMENTER, f"noise of {size:g} of the weights' spread", _noisy(size))


def _model(bundle: Bundle, network: str) -> onnx.ModelProto:
    file = next(n.onnx for n in parts(bundle) if n.name == network)
    return simplify(file).model


def _narrowed(bundle: Bundle, network: str, width: float) -> Iterator[Damaged]:
    """Yield the network in int8 with activation ranges of `width` times the bundle's; nothing where it has none."""
    ref = next(m.activation_ranges for m in bundle.manifest.members if m.name == network)
    if ref is None:
        return
    ranges = Ranges.read(bundle.file(ref))
    narrow = {name: (low * width, high * width) for name, (low, high) in ranges.tensors.items()}
    recipe = next(r for r in RECIPES if r.name == "uint8")
    model = rewrite_for_cpu(recipe, _model(bundle, network), replace(ranges, tensors=narrow))
    yield Damaged(name=f"{network} in uint8, ranges times {width:g}", network=network, model=model)


def _changed(bundle: Bundle, network: str, what: str, change: Change) -> Damaged:
    model, rng = _model(bundle, network), np.random.default_rng(_SEED)
    for weights in _weights(model):
        weights.CopyFrom(numpy_helper.from_array(change(_values(weights), rng), weights.name))
    return Damaged(name=f"{network}, {what}", network=network, model=model)


def _rounded(bits: int) -> Change:
    def change(values: Weights, _: np.random.Generator) -> Weights:
        step = 2.0 * float(np.abs(values).max()) / (2**bits - 1)
        return np.asarray(np.rint(values / step) * step, np.float32)

    return change


def _noisy(size: float) -> Change:
    def change(values: Weights, rng: np.random.Generator) -> Weights:
        noise = size * values.std() * rng.standard_normal(values.shape)
        return np.asarray(values + noise, np.float32)

    return change


def _lost_channels(bundle: Bundle, network: str, channels: int) -> Damaged:
    """Zero the first output channels of the widest convolution."""
    model = _model(bundle, network)
    widest = max((w for w in _weights(model) if len(w.dims) == 4), key=lambda w: int(w.dims[0]))
    values = _values(widest).copy()
    values[:channels] = 0.0
    widest.CopyFrom(numpy_helper.from_array(values, widest.name))
    count = f"{channels} channel{'s' if channels > 1 else ''}"
    return Damaged(name=f"{network}, {count} of one layer zero", network=network, model=model)


def _shifted(bundle: Bundle, network: str, shift: float) -> Damaged:
    """Add `shift` to the first label's logit."""
    model = _model(bundle, network)
    labels = len(bundle.manifest.labels)
    own = np.zeros(labels, np.float32)
    own[0] = shift
    for node in model.graph.node:
        node.output[:] = ["logits_before" if name == "logits" else name for name in node.output]
        node.input[:] = ["logits_before" if name == "logits" else name for name in node.input]
    model.graph.initializer.append(numpy_helper.from_array(own, "damage"))
    model.graph.node.append(onnx.helper.make_node("Add", ["logits_before", "damage"], ["logits"]))
    return Damaged(name=f"{network}, first logit shifted by {shift:g}", network=network, model=model)


def _weights(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    """Return the initializers that are weights of layers."""
    return [w for w in model.graph.initializer if len(w.dims) >= 2 and np.prod(w.dims) >= _LEAST_WEIGHTS]


def _values(weights: onnx.TensorProto) -> Weights:
    return np.asarray(numpy_helper.to_array(weights), np.float32)
