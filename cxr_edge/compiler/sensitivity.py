"""Sensitivity of layers to reduced precision: reduce one layer at a time and measure the change of the output.

A `Study` (network, precision, images, expected outputs) comes in; the layers come out, most sensitive first. All of it
runs through ONNX Runtime on the CPU, whatever backend the build is for: the graph is the same for every backend.
"""

from __future__ import annotations

import heapq
import itertools
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from cxr_edge.backends.base import CompileOptions
from cxr_edge.backends.onnxruntime import OnnxRuntimeBackend
from cxr_edge.compiler.graph.graph import Graph, copied

__all__ = ["BUDGET_S", "IMAGES", "LayerSensitivity", "Ranking", "Study", "layer_outputs", "rank_layers"]

IMAGES = 8  # the ranking needs the order of magnitude, not the last digit
BUDGET_S = 60.0
_MIN_RUNS = 4  # with fewer groups the result does not identify layers

Tensor = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class LayerSensitivity:
    """Change of the output when only `layers` are in reduced precision."""

    layers: tuple[str, ...]  # output names; more than one if there was no time to measure them separately
    # Root mean square change of the compared output, over that output's standard deviation in float32; None if the
    # output was no longer finite.
    relative_change: float | None

    def __str__(self) -> str:
        """Format as `trunk.2.0/Conv + trunk.3.0/Conv (12.00%)`: short names, change in per cent."""
        change = "not finite" if self.relative_change is None else f"{self.relative_change:.2%}"
        return f"{' + '.join(map(_short, self.layers))} ({change})"


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Sensitivities of a network's layers, or the reason why they were not measured."""

    sensitivities: tuple[LayerSensitivity, ...] = ()  # most sensitive first
    skipped: str | None = None


@dataclass(frozen=True, kw_only=True)
class Study:
    """One network and one reduced precision to measure."""

    model: onnx.ModelProto = field(repr=False)
    layer_outputs: dict[str, frozenset[str]] = field(repr=False)  # per layer, the outputs that are reduced with it
    # Returns the network with all nodes in reduced precision but those of the given outputs, for ONNX Runtime.
    reduced: Callable[[frozenset[str]], onnx.ModelProto]
    output: str  # name of the compared output
    inputs: Sequence[Tensor] = field(repr=False)  # the images, of which at most `IMAGES` are used
    expected: Sequence[Tensor] = field(repr=False)  # the compared output of the fp32 network for each image
    run_s: float  # duration of one fp32 inference
    threads: int = 1


def rank_layers(study: Study, *, budget_s: float = BUDGET_S) -> Ranking:
    """Measure the sensitivity of every layer, most sensitive first.

    If `budget_s` does not suffice for single layers, groups of neighbours are measured first, and the most sensitive
    group is split until the time is up. If it does not suffice for a few groups, nothing is measured.
    """
    min_s = _MIN_RUNS * min(IMAGES, len(study.inputs)) * study.run_s
    if min_s > budget_s:
        return Ranking(
            skipped=f"one image takes {study.run_s:.1f} s in fp32, so that finding the sensitive layers would take more "
            f"than {min_s:.0f} s (at most {budget_s:.0f} s are spent on it)"
        )
    measure = _Measurement(study)
    end = time.perf_counter() + budget_s
    layers = tuple(study.layer_outputs)
    first = _Group.measured(measure, layers[:1])
    groups = [first, *(_Group.measured(measure, g) for g in _groups(layers[1:], int(budget_s / first.seconds)))]
    return Ranking(sensitivities=_ranked(_split_most_sensitive(groups, measure, end)))


def layer_outputs(model: onnx.ModelProto, layers: Sequence[str]) -> dict[str, frozenset[str]]:
    """Return the outputs of each layer's nodes: its own, and those of the nodes without weights that follow it.

    A node that follows several layers belongs to the last of them: a Relu to its convolution, an Add to the later branch.
    So every node after the first layer belongs to exactly one.
    """
    index = {layer: i for i, layer in enumerate(layers)}
    owner: dict[str, int] = {}
    for node in Graph(copied(model)).nodes:
        inherited = [owner[name] for name in node.input if name in owner]
        layer_index = index.get(node.output[0], max(inherited, default=-1))
        if layer_index >= 0:
            owner.update(dict.fromkeys(node.output, layer_index))
    return {layer: frozenset(name for name, i in owner.items() if i == index[layer] and name) for layer in layers}


def _short(name: str) -> str:
    """Shorten a name of PyTorch's exporter, which repeats itself: /a/a.1/a.1.0/Conv_output_0 is a.1.0/Conv."""
    words = name.removesuffix("_output_0").strip("/").split("/")
    return "/".join(w for i, w in enumerate(words) if not (i + 1 < len(words) and words[i + 1].startswith(f"{w}.")))


@dataclass(frozen=True)
class _Group:
    """A measured group of layers; the change is infinite if the output was not finite."""

    layers: tuple[str, ...]
    relative_change: float
    seconds: float

    @classmethod
    def measured(cls, measure: _Measurement, layers: tuple[str, ...]) -> _Group:
        start = time.perf_counter()
        change = measure(layers)
        return cls(layers, change, max(time.perf_counter() - start, 1e-6))


class _Measurement:
    """Callable that takes layers and returns the relative change of the output when only these are reduced."""

    def __init__(self, study: Study) -> None:
        self._study = study
        self._selected = np.unique(np.linspace(0, len(study.inputs) - 1, IMAGES).round().astype(int))
        self._expected = np.stack([study.expected[i] for i in self._selected])
        self._std = max(float(np.stack(list(study.expected)).std()), 1e-6)
        self._all = frozenset(name for node in study.model.graph.node for name in node.output)

    def __call__(self, layers: tuple[str, ...]) -> float:
        study = self._study
        reduced = frozenset[str]().union(*(study.layer_outputs[layer] for layer in layers))
        with tempfile.TemporaryDirectory(prefix="cxr-edge-") as folder:
            path = Path(folder, "reduced.onnx")
            onnx.save(study.reduced(self._all - reduced), path)
            engine = OnnxRuntimeBackend().load_reference(path, CompileOptions(threads=study.threads))
        actual = np.stack([engine.run({"image": study.inputs[i]})[study.output][0] for i in self._selected])
        with np.errstate(invalid="ignore", over="ignore"):
            change = float(np.sqrt(np.mean((actual.astype(np.float64) - self._expected) ** 2))) / self._std
        return change if np.isfinite(change) else float("inf")


def _groups(layers: tuple[str, ...], runs: int) -> list[tuple[str, ...]]:
    """Return single layers if there is time for that many runs, else groups of neighbours that take half of the runs."""
    count = len(layers) if len(layers) <= runs else max(_MIN_RUNS, runs // 2)
    edges = np.linspace(0, len(layers), min(count, len(layers)) + 1).round().astype(int)
    return [layers[a:b] for a, b in itertools.pairwise(edges)]


def _split_most_sensitive(groups: list[_Group], measure: _Measurement, end: float) -> list[_Group]:
    """Split the most sensitive group in two, repeatedly, while there is time and a group of several layers."""
    single = [g for g in groups if len(g.layers) == 1]
    queue = [(-g.relative_change, i, g) for i, g in enumerate(groups) if len(g.layers) > 1]
    heapq.heapify(queue)
    serial = len(groups)
    while queue and time.perf_counter() < end:
        worst = heapq.heappop(queue)[2]
        middle = len(worst.layers) // 2
        for half in (worst.layers[:middle], worst.layers[middle:]):
            group = _Group.measured(measure, half)
            serial += 1
            if len(half) == 1:
                single.append(group)
            else:
                heapq.heappush(queue, (-group.relative_change, serial, group))
    return single + [g for _, _, g in queue]


def _ranked(groups: list[_Group]) -> tuple[LayerSensitivity, ...]:
    order = sorted(groups, key=lambda g: g.relative_change, reverse=True)
    changes = [g.relative_change if np.isfinite(g.relative_change) else None for g in order]
    return tuple(LayerSensitivity(layers=g.layers, relative_change=c) for g, c in zip(order, changes, strict=True))
